"""At which layer is most lost, from which layers to learn again, which heads to keep."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import median

from compress_explain.data.examples import ALL
from compress_explain.signals.advice.advised import Advice
from compress_explain.signals.findings import COMPRESSED, ORIGINAL, Finding
from compress_explain.signals.found import Found, SignalFound, has_interval
from compress_explain.signals.words import figures, spoken_signal

_LAYERS, _HEADS = 2, 4  # that are named at most
_MUCH = 0.05  # of a share, of CKA, or above a control, below which nothing is worth a word however sure it is
_MOST = {"AUC": 0.5}  # that can be above a control: a rank correlation 1
_FAR = 2.0  # times the median of all heads, from which one matters much
Step = tuple[float, str, str]  # how large, up to which layer, the figures behind it


def bottleneck(found: Found) -> Advice | None:
    """The layer at which measures surely leap: retention falls, CKA falls, or more of the original breaks; or that they disagree."""
    steps = [step for step in (_retention(found), _alike(found), _broken(found)) if step is not None]
    if not steps:
        return None
    votes = Counter(layer for _, layer, _ in steps)
    layer, most = votes.most_common(1)[0]
    text = f"Most is lost at {layer}: begin there if less is to be taken out, or if something is to be tuned again."
    if len(votes) > 1 and most == 1:
        named = sorted(votes, key=found.depths.index)
        text = f"There is no one layer at which most is lost: each measure leaps at another, {', '.join(named[:-1])} and {named[-1]}."
    behind = sorted(steps, key=lambda step: -votes[step[1]])
    return Advice(kind="bottleneck", text=text, evidence=tuple(words for _, _, words in behind))


def layers_to_distil(found: Found) -> Advice | None:
    """Where most of what the original shows above the controls is surely gone, over all signals."""
    lost = defaultdict[str, float](float)
    words = defaultdict[str, list[str]](list)
    for signal, layer, before, left in _losses(found):
        lost[layer] += before.value / _MOST.get(before.unit, 1.0) * (1 - max(0.0, left.value))
        words[layer].append(
            f"{spoken_signal(signal.name)} at {layer}: {figures(before)} above the control in the original, of which the "
            f"compressed model has {figures(left, 2)}"
        )
    if not lost:
        return None
    most = sorted(lost, key=lambda layer: -lost[layer])[:_LAYERS]
    named = sorted(most, key=found.depths.index)
    return Advice(
        kind="distil",
        text=f"When a student learns from the original again, let it learn from the states after {' and '.join(named)}: there the "
        "original shows much that the compressed model no longer does.",
        evidence=tuple(each for layer in named for each in words[layer]),
    )


def heads_to_keep(found: Found) -> Advice | None:
    """Heads on which the original's decisions hang far more than on most, in layers at which a signal is surely weaker."""
    weaker = defaultdict[str, list[str]](list)
    for signal, layer, _, left in _losses(found):
        weaker[layer].append(f"{spoken_signal(signal.name)} {figures(left, 2)}")
    heads = [
        each
        for each in found.of("ablation", "kl.mean", model=ORIGINAL)
        if ".head." in each.other and has_interval(each)
    ]
    now = {each.other: each for each in found.of("ablation", "kl.mean", model=COMPRESSED) if has_interval(each)}
    if (
        not heads or not weaker or not now
    ):  # without the compressed model's own figures nobody knows what became of them
        return None
    much = _FAR * median(each.value for each in heads)
    chosen = [
        each
        for each in heads
        if each.low > max(0.0, much) and each.layer in weaker and _less(now.get(each.other), each)
    ]
    chosen = sorted(chosen, key=lambda each: -each.value)[:_HEADS]
    if not chosen:
        return None
    return Advice(
        kind="keep",
        text=f"Keep {', '.join(each.other for each in chosen)} as {'it is' if len(chosen) == 1 else 'they are'}: the original's "
        "decisions hang on this far more than on most heads, the compressed model's no longer do, and signals are weaker after "
        "that layer.",
        evidence=tuple(_head(each, now.get(each.other), weaker[each.layer]) for each in chosen),
    )


def _less(now: Finding | None, before: Finding) -> bool:
    return now is None or now.high < before.low


def _head(before: Finding, now: Finding | None, weaker: Sequence[str]) -> str:
    left = "it is not there" if now is None else f"{figures(now, 4)} nats"
    return (
        f"{before.other}: without it the original's answers move by {figures(before, 4)} nats, in the compressed model {left}; "
        f"retained after that layer: {', '.join(weaker)}"
    )


def _losses(found: Found) -> Iterator[tuple[SignalFound, str, Finding, Finding]]:
    """Every signal and layer at which the original surely shows something that counts and the compressed model surely lacks a part of it."""
    for signal in found.signals:
        shown = signal.curve(ORIGINAL, "selectivity")
        for layer, left in signal.retained_by_depth().items():
            before = shown.get(layer)
            if before is not None and before.low > _MUCH and left.high < 1 - _MUCH:
                yield signal, layer, before, left


def _retention(found: Found) -> Step | None:
    falls = [
        (size, layer, f"retained of {spoken_signal(signal.name)}: {words}")
        for signal in found.signals
        for size, layer, words in _leaps(signal.retained_by_depth(), found.depths, down=True)
    ]
    return max(falls, default=None)


def _alike(found: Found) -> Step | None:
    same = {each.layer: each for each in found.of("cka", "cka", model="") if each.layer == each.other}
    falls = [(size, layer, f"CKA: {words}") for size, layer, words in _leaps(same, found.depths, down=True)]
    return max(falls, default=None)


def _broken(found: Found) -> Step | None:
    broken = {each.layer: each for each in found.of("patching", "broken", slice=ALL) if each.other == "layer"}
    leaps = [(size, layer, f"broken in the original: {words}") for size, layer, words in _leaps(broken, found.depths)]
    return max(leaps, default=None)


def _leaps(curve: Mapping[str, Finding], depths: Sequence[str], *, down: bool = False) -> Iterator[Step]:
    """From one depth to the next that is told, where it changes by something that counts and both intervals lie apart."""
    told = [curve[depth] for depth in depths if depth in curve and has_interval(curve[depth])]
    for early, late in pairwise(told):
        apart = late.high < early.low if down else late.low > early.high
        if apart and abs(late.value - early.value) >= _MUCH:
            words = f"{figures(early)} at {early.layer}, {figures(late)} at {late.layer}"
            yield abs(late.value - early.value), late.layer, words
