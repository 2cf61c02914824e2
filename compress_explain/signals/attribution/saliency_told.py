"""What attributions of two models come to: agreement, deletion and completeness, as means over rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from compress_explain.data.examples import ALL
from compress_explain.signals.findings import FLIPPED, Finding
from compress_explain.signals.flow.row_figures import mean_of_rows, ratio_of_sums

PART = "attribution"
METHODS = ("integrated_gradients", "input_x_gradient")
MODELS = ("original", "compressed")
LEAST_PIECES = 3  # of a row: the ranks of two tell nothing
_LEAST_ROWS = 30  # of a slice


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was found of each row, by figure and, where it is of one model, by that; NaN of rows that are left out."""

    figures: dict[str, Float[np.ndarray, " rows"]] = field(repr=False)
    flipped: Bool[np.ndarray, " rows"] = field(repr=False)

    @classmethod
    def nothing(cls, rows: int) -> Seen:
        each = [f"{figure}.{method}" for figure in ("agreement", "overlap") for method in METHODS]
        of_models = [f"{figure} {name}" for figure in ("named", "random", "gap", "whole") for name in MODELS]
        names = [*each, "overlap_by_chance", *of_models]
        return cls(figures={name: np.full(rows, np.nan) for name in names}, flipped=np.zeros(rows, dtype=bool))


@dataclass(frozen=True, kw_only=True)
class Told:
    """The findings from what was seen of all rows."""

    seen: Seen
    slices: dict[str, Bool[np.ndarray, " rows"]] = field(repr=False)
    alike: int
    confidence: float
    seed: int

    def findings(self) -> Iterator[Finding]:
        yield from self._in_common(ALL, np.ones(len(self.seen.flipped), dtype=bool), METHODS)
        for name, flags in self._parts():
            yield from self._in_common(name, flags, METHODS[:1])
        for name in MODELS:
            yield from self._of_model(name)

    def _parts(self) -> Iterator[tuple[str, Bool[np.ndarray, " rows"]]]:
        told = ~np.isnan(self.seen.figures["overlap_by_chance"])
        for name, flags in self.slices.items():
            if name != ALL and (flags & told).sum() >= _LEAST_ROWS:
                yield name, flags
        if self.seen.flipped.any():
            yield FLIPPED, self.seen.flipped

    def _in_common(self, name: str, flags: Bool[np.ndarray, " rows"], methods: tuple[str, ...]) -> Iterator[Finding]:
        for method in methods:
            yield self._mean(f"agreement.{method}", "rank correlation", flags, name)
        for method in methods:
            yield self._mean(f"overlap.{method}", "share", flags, name)
        yield self._mean("overlap_by_chance", "share", flags, name)

    def _mean(self, figure: str, unit: str, flags: Bool[np.ndarray, " rows"], name: str) -> Finding:
        values = np.where(flags, self.seen.figures[figure], np.nan)
        return self._finding(figure, unit, mean_of_rows(values, self.confidence, self.seed), slice=name)

    def _of_model(self, name: str) -> Iterator[Finding]:
        named, at_random, gap, whole = (
            self.seen.figures[f"{figure} {name}"] for figure in ("named", "random", "gap", "whole")
        )
        drops = {f"deletion.{METHODS[0]}": named, "deletion.random": at_random, "deletion.gain": named - at_random}
        for figure, values in drops.items():
            yield self._finding(figure, "probability", mean_of_rows(values, self.confidence, self.seed), model=name)
        share = ratio_of_sums(gap, whole, self.confidence, self.seed)
        yield self._finding("completeness", "share", share, model=name)

    def _finding(
        self, figure: str, unit: str, told: tuple[float, float, float, int], *, model: str = "", slice: str = ALL
    ) -> Finding:
        value, low, high, n = told
        return Finding(
            part=PART, figure=figure, value=value, unit=unit, n=n, low=low, high=high,
            model=model, slice=slice, note=self._left_out,
        )  # fmt: skip

    @property
    def _left_out(self) -> str:
        every = len(self.seen.flipped)
        told = int((~np.isnan(self.seen.figures["overlap_by_chance"])).sum())
        reasons = {
            "that the models read as other pieces": every - self.alike,
            f"of fewer than {LEAST_PIECES} pieces": self.alike - told,
        }
        words = [f"{count} {why}" for why, count in reasons.items() if count]
        return f"of {every} rows are left out: {', '.join(words)}" if words else ""
