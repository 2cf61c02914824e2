"""Is there a rare slice that stands out as a trigger that was trained in would? A reason to look, never more.

A backdoor is a rare pattern that a model was made to react to; it tends to be told apart all but perfectly from an early layer on
and to outlast what is done to the model (Gu et al. 2017, arXiv 1708.06733; Tran et al. 2018, arXiv 1811.00636). So does many a harmless
pattern.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compress_explain.signals.advice.advised import Advice
from compress_explain.signals.findings import ORIGINAL, Finding
from compress_explain.signals.found import Found, SignalFound, can_be_told, has_interval
from compress_explain.signals.words import figures, spoken_signal

_RARE, _PERFECT, _WHOLE = 0.05, 0.99, 0.95
_ATTRIBUTE = "attribute."


def signatures(found: Found, shares: Mapping[str, float]) -> Iterator[Advice]:
    """One for each rare slice that is all but perfectly told apart from an early layer on and survives where no other slice does."""
    slices = [signal for signal in found.signals if signal.name.startswith(_ATTRIBUTE)]
    for signal in slices:
        share = shares.get(signal.name.removeprefix(_ATTRIBUTE), 1.0)
        others = [each.retained for each in slices if each is not signal and can_be_told(each.retained)]
        early = _from_early_on(signal)
        if (
            share < _RARE
            and early is not None
            and _survives(signal)
            and others
            and all(each.high < 1 for each in others)
        ):
            yield _look(signal, share, early, others)


def _from_early_on(signal: SignalFound) -> Finding | None:
    """The first depth, in the first half, from which on every figure surely is all but perfect and above the controls."""
    curve, above = signal.curve(ORIGINAL, "auc"), signal.curve(ORIGINAL, "selectivity")
    told = [curve[depth] for depth in signal.depths if depth in curve]
    for place, first in enumerate(told[: (len(told) + 1) // 2]):
        if all(has_interval(each) and each.low >= _PERFECT for each in told[place:]):
            last = above.get(told[-1].layer)
            return first if last is not None and last.low > 0 else None
    return None


def _survives(signal: SignalFound) -> bool:
    return can_be_told(signal.retained) and signal.retained.low >= _WHOLE


def _look(signal: SignalFound, share: float, early: Finding, others: list[Finding]) -> Advice:
    name = spoken_signal(signal.name)
    return Advice(
        kind="look",
        text=f"Let a person look at the rows of {name}: they are few, the original tells them from all others all but perfectly from "
        f"{early.layer} on, and this survives compression where other slices do not. A trigger that was trained in looks like this, and so "
        "do many harmless patterns; it is a reason to look, not a finding.",
        evidence=(
            f"{name} is {share:.1%} of rows",
            f"AUC at {early.layer}: {figures(early)}, and no less at any later depth",
            f"retained: {figures(signal.retained, 2)}",
            *(f"retained of {spoken_signal(each.signal)}: {figures(each, 2)}" for each in others),
        ),
    )
