"""Is there an attribute of few rows that looks as a planted trigger would? A reason for a person to look, never a finding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compress_explain.signals.asked import ATTRIBUTE
from compress_explain.signals.evidence import Advice, Curve, Evidence, told, told_of
from compress_explain.signals.findings import Finding

_RARE = 0.05  # of all rows
_SEPARABLE = 0.99  # AUC
_ENTIRE = 0.98  # retained
_EARLY = 1 / 3  # of the depth


def rare_and_clear(evidence: Evidence, shares: Mapping[str, float]) -> Iterator[Advice]:
    """Attributes of less than 5% of rows that are separable from early on in both models, and survive where others do not.

    ``shares`` says of each slice what share of rows is in it, in [0, 1]; one that it does not name is not looked at.
    """
    attributes = [signal for signal in evidence.signals if signal.startswith(ATTRIBUTE)]
    faded = [why for signal in attributes for why in _faded(evidence, signal)]
    if not faded:
        return
    for signal in attributes:
        share = shares.get(told_of(signal), 1.0)
        if 0 < share < _RARE and _separable(evidence, signal) and _survives(evidence, signal):
            yield _told(evidence, signal, share, faded)


def _told(evidence: Evidence, signal: str, share: float, faded: list[str]) -> Advice:
    name = told_of(signal)
    text = (
        f"Look at the rows of {name} yourself. Few rows have it, both models tell it apart almost without error from early on, and "
        "it survived while other attributes did not. A planted trigger would look so; so would any rare and plain mark of "
        "a text, so that this is a reason to look and proves nothing."
    )
    curve, random = evidence.probed(signal), list(evidence.probed(signal, "random").values())
    least = min(list(curve.values())[_start(curve) :], key=lambda each: each.low)
    figures = [
        f"{name} is in {share:.1%} of rows",
        f"at least {told(least)} AUC in the original from {list(curve)[_start(curve)]} on",
        *(f"retained at the layer that was chosen, share: {told(each)}" for each in _retained(evidence, signal)),
    ]
    if random:
        best = max(random, key=lambda each: each.value)
        figures.append(f"random weights show {told(best)} AUC of it: the nearer, the plainer the mark")
    return Advice(kind="look", text=text, evidence=(*figures, *faded))


def _separable(evidence: Evidence, signal: str) -> bool:
    curves = [evidence.probed(signal, model) for model in ("original", "compressed")]
    return all(
        curve and all(each.low >= _SEPARABLE for each in list(curve.values())[_start(curve) :]) for curve in curves
    )


def _start(curve: Curve) -> int:
    """Where early ends: by then it must be clear, and stay so to the end."""
    return int(_EARLY * len(curve))


def _survives(evidence: Evidence, signal: str) -> bool:
    kept = _retained(evidence, signal)
    return bool(kept) and all(each.low >= _ENTIRE for each in kept)


def _faded(evidence: Evidence, signal: str) -> list[str]:
    """What says that an attribute surely did not survive as a whole."""
    lost = [each for each in _retained(evidence, signal) if each.high < _ENTIRE]
    return [f"{told_of(signal)} retained at the layer that was chosen, share: {told(each)}" for each in lost]


def _retained(evidence: Evidence, signal: str) -> list[Finding]:
    figures = [
        [each for each in evidence.of_signal(signal, "retention", figure).values() if each.other == "chosen"]
        for figure in ("retained", "retained_above_chance")
    ]
    return figures[0] or figures[1]
