"""What advice rests on: the table of findings as curves by depth, and only what has an interval and nothing against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import pandas as pd

from compress_explain.data.examples import ALL
from compress_explain.signals.findings import Finding
from compress_explain.signals.layers import EMBEDDING

Curve = dict[str, Finding]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One suggestion: its ``kind``, what it says in words, and the figures behind it with intervals and n."""

    kind: str
    text: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Findings that can carry a suggestion: a finite figure between finite ends, without a note that doubts it."""

    findings: tuple[Finding, ...] = field(repr=False)

    @classmethod
    def of(cls, table: pd.DataFrame) -> Evidence:
        told = (Finding(**{str(name): value for name, value in row.items()}) for row in table.to_dict("records"))
        return cls(findings=tuple(each for each in told if is_sure(each)))

    @cached_property
    def depths(self) -> tuple[str, ...]:
        """The original's depths in their order, before the first layer first."""
        seen: dict[str, list[str]] = {}
        for each in self.findings:
            if each.layer and each.model in ("", "original"):
                layers = seen.setdefault(each.part, [])
                layers += [each.layer] if each.layer not in layers else []
        longest = max(seen.values(), key=len, default=[])
        return tuple(sorted(longest, key=lambda name: name != EMBEDDING))

    @cached_property
    def signals(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.signal for each in self.findings if each.signal))

    def of_figure(self, part: str, figure: str, model: str = "") -> tuple[Finding, ...]:
        """Over all rows; a slice's own figures are left out."""
        return tuple(
            each for each in self.findings
            if (each.part, each.figure, each.model, each.slice) == (part, figure, model, ALL)
        )  # fmt: skip

    def of_signal(self, signal: str, part: str, figure: str, model: str = "") -> Curve:
        """By depth."""
        return self._by_depth(each for each in self.of_figure(part, figure, model) if each.signal == signal)

    def alike(self) -> Curve:
        """CKA of both models at the same depth."""
        return self._by_depth(each for each in self.of_figure("cka", "cka") if each.layer == each.other)

    def broken(self) -> Curve:
        """What the compressed model's stream, put into the original after each depth, breaks of the decisions."""
        return self._by_depth(each for each in self.of_figure("patching", "broken") if each.other == "layer")

    def probed(self, signal: str, model: str = "original") -> Curve:
        """What the probe of a signal finds: by the strictest statistic where there are several."""
        return self.of_signal(signal, "probe", "auc", model) or self.of_signal(signal, "probe", "rho_output", model)

    def _by_depth(self, findings: Iterable[Finding]) -> Curve:
        found = {each.layer: each for each in findings}
        return {depth: found[depth] for depth in self.depths if depth in found}


def is_sure(finding: Finding) -> bool:
    """Whether a figure may carry a suggestion at all."""
    return all(math.isfinite(each) for each in (finding.value, finding.low, finding.high)) and not finding.note


def steepest(curve: Curve, loss: Callable[[Finding, Finding], float]) -> tuple[Finding, Finding] | None:
    """The neighbours between which most is lost, and surely so; None where no loss is sure.

    ``loss`` is what the second of two findings is sure to be worse by than the first, in the unit of the curve.
    """
    findings = list(curve.values())
    pairs = [(loss(early, late), early, late) for early, late in pairwise(findings)]
    worst = max(pairs, key=lambda each: each[0], default=None)
    return None if worst is None or worst[0] <= 0 else (worst[1], worst[2])


def told(finding: Finding, digits: int = 3) -> str:
    """
    >>> told(Finding(part="cka", figure="cka", value=0.5, unit="CKA", n=1200, low=-0.25, high=0.75), 2)
    '0.50 (−0.25 to 0.75, n = 1,200)'
    """
    value, low, high = (f"{each:.{digits}f}".replace("-", "−") for each in (finding.value, finding.low, finding.high))
    return f"{value} ({low} to {high}, n = {finding.n:,})"


def told_of(signal: str) -> str:
    """
    >>> told_of("attribute.negation"), told_of("task")
    ('negation', 'task')
    """
    return signal.removeprefix("attribute.")
