"""Where a compression lost most, and which heads it should have spared."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from compress_explain.signals.evidence import Advice, Curve, Evidence, steepest, told, told_of
from compress_explain.signals.findings import Finding

_WORTH = 0.02  # a share lost from one depth to the next, below which nobody need act
_HEADS = 5  # named at most


def bottleneck(evidence: Evidence) -> Iterator[Advice]:
    """The layer in which most is lost by most of three witnesses: signals, likeness, and what breaks the original."""
    found: dict[str, list[str]] = {}
    for witness in (_least_retained, _least_alike, _most_broken):
        layer, why = witness(evidence)
        if layer:
            found.setdefault(layer, []).append(why)
    if not found:
        return
    layer = max(found, key=lambda name: len(found[name]))  # the first witness decides where they differ
    others = [f"not there but in {name}: {why}" for name, whys in found.items() if name != layer for why in whys]
    text = f"{layer} is the bottleneck: compress it less, or mend it first."
    yield Advice(kind="bottleneck", text=text, evidence=(*found[layer], *others))


def heads_to_keep(evidence: Evidence) -> Iterator[Advice]:
    """Heads that surely do more for the original's decisions than its heads do on average, in layers that lost a signal."""
    lost = _lossy_layers(evidence)
    heads = [each for each in _ablated(evidence, "original") if ".head." in each.other]
    if not heads or not lost:
        return
    usual = fmean(each.value for each in heads)
    needed = sorted((each for each in heads if each.low > usual and each.layer in lost), key=lambda each: -each.value)
    if not needed:
        return
    after = {each.other: each for each in _ablated(evidence, "compressed")}
    chosen = needed[:_HEADS]
    figures = [_of_head(each, usual, after.get(each.other)) for each in chosen]
    text = f"Keep {_listed([each.other for each in chosen])}: the original leans on them, in layers in which signals were lost."
    losses = [lost[layer] for layer in dict.fromkeys(each.layer for each in chosen)]
    yield Advice(kind="keep heads", text=text, evidence=(*figures, *losses))


def _least_retained(evidence: Evidence) -> tuple[str, str]:
    steps = []
    for signal in evidence.signals:
        pair = _drop(evidence.of_signal(signal, "retention", "retained"))
        if pair is not None:
            steps.append((signal, *pair))
    if not steps:
        return "", ""
    signal, early, late = max(steps, key=lambda each: each[1].low - each[2].high)
    return (
        late.layer,
        f"{told_of(signal)} retained, share: {told(early)} after {early.layer}, {told(late)} after {late.layer}",
    )


def _least_alike(evidence: Evidence) -> tuple[str, str]:
    pair = _drop(evidence.alike())
    if pair is None:
        return "", ""
    early, late = pair
    return late.layer, f"CKA of both models: {told(early)} after {early.layer}, {told(late)} after {late.layer}"


def _most_broken(evidence: Evidence) -> tuple[str, str]:
    pair = steepest(evidence.broken(), lambda early, late: late.low - early.high - _WORTH)
    if pair is None:
        return "", ""
    early, late = pair
    moved = "what the compressed model's stream breaks of the original's decisions, share"
    return late.layer, f"{moved}: {told(early)} after {early.layer}, {told(late)} after {late.layer}"


def _drop(curve: Curve) -> tuple[Finding, Finding] | None:
    return steepest(curve, lambda early, late: early.low - late.high - _WORTH)


def _lossy_layers(evidence: Evidence) -> dict[str, str]:
    """Layers after which a signal is surely not whole, with the worst of them."""
    worst: dict[str, tuple[Finding, str]] = {}
    for signal in evidence.signals:
        for layer, each in evidence.of_signal(signal, "retention", "retained").items():
            if each.high < 1 - _WORTH and (layer not in worst or each.high < worst[layer][0].high):
                worst[layer] = each, f"{told_of(signal)} retained after {layer}, share: {told(each)}"
    return {layer: why for layer, (_, why) in worst.items()}


def _ablated(evidence: Evidence, model: str) -> tuple[Finding, ...]:
    """By mean ablation where there is one: a component that says what it always says is nearer to what the model knows than silence."""
    return evidence.of_figure("ablation", "kl.mean", model) or evidence.of_figure("ablation", "kl.zero", model)


def _of_head(head: Finding, usual: float, after: Finding | None) -> str:
    now = "" if after is None else f"; in the compressed model {told(after, 4)}"
    what = "replaced by its mean" if head.figure == "kl.mean" else "silenced"
    return f"{head.other} {what} moves the original's decisions by {told(head, 4)} nats, a head on average by {usual:.4f}{now}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
