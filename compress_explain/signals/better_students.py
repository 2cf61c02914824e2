"""What a student should learn from, and how deep and wide one would have to be to carry the signals."""

from __future__ import annotations

from collections.abc import Iterator

from compress_explain.signals.evidence import Advice, Curve, Evidence, told, told_of
from compress_explain.signals.findings import Finding

_WORTH = 0.02  # of a signal, below which a loss need not be made up for
_WHOLE = 0.95  # of a signal's highest figure
_LAYERS = 2


def layers_to_distil(evidence: Evidence) -> Iterator[Advice]:
    """The layers where the original shows most of what the compressed model surely lost."""
    lost: dict[str, float] = {}
    reasons: dict[str, list[str]] = {}
    for signal in evidence.signals:
        shown = evidence.of_signal(signal, "probe", "selectivity", "original")
        most = max((each.value for each in shown.values()), default=0.0)
        for layer, left in evidence.of_signal(signal, "retention", "retained").items():
            if layer in shown and shown[layer].low > 0 and left.high < 1 - _WORTH:
                lost[layer] = lost.get(layer, 0.0) + (1 - left.value) * shown[layer].value / most
                reasons.setdefault(layer, []).append(_reason(signal, layer, shown[layer], left))
    chosen = sorted(lost, key=lambda layer: -lost[layer])[:_LAYERS]
    if not chosen:
        return
    ordered = [depth for depth in evidence.depths if depth in chosen]
    named = f"the state after {ordered[0]}" if len(ordered) == 1 else f"the states after {ordered[0]} and {ordered[1]}"
    figures = tuple(why for layer in ordered for why in reasons[layer])
    yield Advice(kind="distil", text=f"Distil from {named}: there the original shows what was lost.", evidence=figures)


def student_shape(evidence: Evidence) -> Iterator[Advice]:
    """The smallest depth at which every signal is surely nearly whole in the original, where that is not its last."""
    whole, open_ones = dict[str, Finding](), list[str]()
    for signal in evidence.signals:
        first = _first_whole(evidence, signal)
        if first is not None:
            whole[signal] = first
        elif evidence.probed(signal):
            open_ones.append(told_of(signal))
    if not whole:
        return
    deepest = max(whole.values(), key=lambda each: evidence.depths.index(each.layer)).layer
    layers = evidence.depths.index(deepest)
    if not 0 < layers < len(evidence.depths) - 1:
        return
    text = f"A student of {layers} of {len(evidence.depths) - 1} layers could carry {_listed(whole)}: after {deepest} the original shows nearly all of it."
    if open_ones:
        text += f" Of {', '.join(open_ones)} that cannot be told."
    figures = [f"{told_of(signal)}: {told(each)} {each.unit} after {each.layer}" for signal, each in whole.items()]
    yield Advice(kind="student", text=text, evidence=(*figures, *_width(evidence, deepest)))


def _first_whole(evidence: Evidence, signal: str) -> Finding | None:
    """The first depth whose interval lies above the share of the highest figure; none of what is no more than a control."""
    curve, above = evidence.probed(signal), evidence.of_signal(signal, "probe", "selectivity", "original")
    if not curve:
        return None
    highest = max(curve.values(), key=lambda each: each.value)
    if highest.layer in above and above[highest.layer].low <= 0:
        return None
    chance = _chance(curve)
    enough = chance + _WHOLE * (highest.value - chance)
    return next((each for each in curve.values() if each.low >= enough and each.low > chance), None)


def _chance(curve: Curve) -> float:
    return 0.5 if next(iter(curve.values())).unit == "AUC" else 0.0


def _width(evidence: Evidence, layer: str) -> Iterator[str]:
    for each in evidence.of_figure("flow", "effective_rank", "original"):
        if each.layer == layer:
            yield f"a hint at its width: the stream after {layer} has an effective rank of {told(each, 1)} dimensions"


def _reason(signal: str, layer: str, shown: Finding, left: Finding) -> str:
    return f"{told_of(signal)} after {layer}: {told(shown)} {shown.unit} above the control in the original, retained {told(left)}"


def _listed(whole: dict[str, Finding]) -> str:
    return ", ".join(map(told_of, whole))
