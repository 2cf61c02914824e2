"""What stands in the table of findings: rows by what they tell, depths in their order, what was found of one signal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from compress_explain.data.examples import ALL
from compress_explain.signals.findings import CHOSEN, RANDOM, SHUFFLED, Finding

_FIRST = "embedding"
_RETAINED, _ABOVE_CHANCE = "retained", "retained_above_chance"
_CURVES = ("auc", "rho_output")  # the figure that retention is told of
_CHANCE = {"AUC": 0.5}
_ORDERED = ("probe", "cka", "patching", "flow", "ablation")  # parts that name depths, the most complete first


@dataclass(frozen=True, kw_only=True)
class Found:
    """The table of findings of one comparison, asked by what is wanted of it."""

    table: pd.DataFrame = field(repr=False)

    def of(
        self, part: str, figure: str | None = None, *, model: str | None = None, slice: str | None = None
    ) -> list[Finding]:
        """The findings of a part, of one figure, of one model, on one slice, where these are given."""
        table = self.table[self.table["part"] == part]
        for column, wanted in (("figure", figure), ("model", model), ("slice", slice)):
            table = table if wanted is None else table[table[column] == wanted]
        return _findings(table)

    @cached_property
    def depths(self) -> tuple[str, ...]:
        """The original's depths, the stream before the first layer first, as any part names them."""
        named = [self.table[self.table["part"] == part]["layer"] for part in _ORDERED]
        seen = dict.fromkeys(layer for names in named for layer in names if layer)
        return tuple(sorted(seen, key=lambda name: name != _FIRST))

    @cached_property
    def signals(self) -> tuple[SignalFound, ...]:
        """Every signal that was asked for, in the order of the table."""
        rows = self.table[self.table["part"].isin(["probe", "retention"]) & (self.table["signal"] != "")]
        return tuple(
            SignalFound(name=str(name), findings=tuple(_findings(own)), depths=self.depths)
            for name, own in rows.groupby("signal", sort=False)
        )

    @cached_property
    def untold(self) -> dict[str, str]:
        """Parts of which all that stands is that they could not be told, and why."""
        found: dict[str, str] = {}
        for part, own in self.table.groupby("part", sort=False):
            if part not in ("probe", "retention") and own["value"].isna().all() and (own["note"] != "").any():
                found[str(part)] = str(own["note"][own["note"] != ""].iloc[0])
        return found


@dataclass(frozen=True, kw_only=True)
class SignalFound:
    """What was found of one signal at every depth."""

    name: str
    findings: tuple[Finding, ...] = field(repr=False)
    depths: tuple[str, ...] = field(repr=False)

    @cached_property
    def retained(self) -> Finding:
        """The share that is left, at the layer that was chosen on rows that are not reported."""
        return self._chosen(_RETAINED)

    @cached_property
    def above_chance(self) -> Finding:
        """The same share where chance is all that counts as nothing."""
        return self._chosen(_ABOVE_CHANCE)

    @property
    def layer(self) -> str:
        """The layer that was chosen; empty where there is none."""
        return self.retained.layer

    @cached_property
    def figure(self) -> str:
        """What is told of it at every depth: ``auc`` or ``rho_output``."""
        return next((each.figure for each in self.findings if each.figure in _CURVES), "")

    @cached_property
    def chance(self) -> float:
        """What a probe shows that knows nothing."""
        unit = next((each.unit for each in self.findings if each.figure == self.figure), "")
        return _CHANCE.get(unit, 0.0)

    def curve(self, model: str, figure: str | None = None) -> dict[str, Finding]:
        """By depth, in the original's coordinates."""
        wanted = self.figure if figure is None else figure
        return {
            each.layer: each
            for each in self.findings
            if each.part == "probe" and each.figure == wanted and each.model == model
        }

    def retained_by_depth(self, *, above_chance: bool = False) -> dict[str, Finding]:
        """The share that is left, above the control or above chance alone; only such as can be told."""
        figure = _ABOVE_CHANCE if above_chance else _RETAINED
        return {each.layer: each for each in self.findings if each.figure == figure and can_be_told(each)}

    def reached(self, curve: Mapping[str, Finding], depth: str) -> Finding | None:
        """What a model shows by a depth: at the last of its own that is not beyond it, where layers are gone."""
        until = self.depths[: self.depths.index(depth) + 1] if depth in self.depths else ()
        return next((curve[name] for name in reversed(until) if name in curve), None)

    def control(self, depth: str) -> Finding | None:
        """The higher of what random weights and shuffled answers give."""
        shown = [self.curve(name).get(depth) for name in (RANDOM, SHUFFLED)]
        told = [each for each in shown if each is not None and not math.isnan(each.value)]
        return max(told, key=lambda each: each.value, default=None)

    def _chosen(self, figure: str) -> Finding:
        own = [each for each in self.findings if each.figure == figure]
        return next((each for each in own if each.other == CHOSEN), own[0] if own else self._nothing(figure))

    def _nothing(self, figure: str) -> Finding:
        return Finding(
            part="retention", figure=figure, value=math.nan, unit="share", n=0, signal=self.name, note="it was not told"
        )


def can_be_told(finding: Finding | None) -> bool:
    """Whether a figure has a value, an interval, and no note that takes it back."""
    return finding is not None and not finding.note and has_interval(finding)


def has_interval(finding: Finding) -> bool:
    return all(math.isfinite(each) for each in (finding.value, finding.low, finding.high))


def _findings(table: pd.DataFrame) -> list[Finding]:
    return [
        Finding(
            part=row["part"], figure=row["figure"], value=float(row["value"]), unit=row["unit"], n=int(row["n"]),
            low=float(row["low"]), high=float(row["high"]), signal=row["signal"], model=row["model"], layer=row["layer"],
            other=row["other"], slice=row.get("slice", ALL), note=row["note"],
        )
        for row in table.to_dict("records")
    ]  # fmt: skip
