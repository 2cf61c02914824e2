"""What carries the decision: activations that are exchanged between the two models, and components that are taken out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from compress_explain.report.numbers import count
from compress_explain.report.signal_curves import DepthChart, Strand, axes_over, depth_chart
from compress_explain.report.signal_words import interval_of_share, layer_in_words, spoken_slice
from compress_explain.signals.findings import COMPRESSED, FLIPPED, ORIGINAL, Finding
from compress_explain.signals.found import Found, has_interval
from compress_explain.signals.words import spoken_signal

_ALL, _STREAM, _MOST = "all", "layer", 10
_LINES = {"recovered": COMPRESSED, "broken": ORIGINAL}  # as which model each is drawn
_SLICES = {_ALL: "All rows", FLIPPED: "Rows decided otherwise"}


@dataclass(frozen=True, kw_only=True)
class PatchRow:
    """One place of one slice: what comes back and what breaks there."""

    layer: str
    site: str
    slice: str
    recovered: Finding | None
    broken: Finding | None

    @property
    def n(self) -> int:
        return max(each.n for each in (self.recovered, self.broken) if each is not None)


@dataclass(frozen=True, kw_only=True)
class PatchingSection:
    """Charts of the stream, and a table of every place."""

    sentence: str
    charts: tuple[DepthChart, ...]
    rows: tuple[PatchRow, ...]


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """One component: what taking it out does to the decisions of each model; None of the compressed where it is gone."""

    component: str
    original: Finding
    compressed: Finding | None
    original_flips: Finding | None
    compressed_flips: Finding | None
    original_zero: Finding | None


@dataclass(frozen=True, kw_only=True)
class AblationSection:
    """The parts of sublayers that matter most in the original, and all sublayers."""

    parts: tuple[AblationRow, ...]
    sublayers: tuple[AblationRow, ...]
    n: int


def patching_section(found: Found) -> PatchingSection | None:
    """None where no activation was exchanged, or nothing came of it."""
    told = [each for each in found.of("patching") if math.isfinite(each.value)]
    if not told:
        return None
    stream = [each for each in told if each.other == _STREAM]
    strands = {_SLICES[name]: _strands(stream, name) for name in _SLICES} | _of_signals(found)
    axes = axes_over(found.depths, [strand for own in strands.values() for strand in own], 0.0, 1.0)
    return PatchingSection(
        sentence=_sentence(stream, found.depths),
        charts=tuple(
            depth_chart(f"patching-{number}", f"{name}, n = {_most(own)}", axes, own, level=0.0)
            for number, (name, own) in enumerate(strands.items())
            if any(strand.findings for strand in own)
        ),
        rows=tuple(_rows(told)),
    )


def ablation_section(found: Found) -> AblationSection | None:
    """None where nothing was taken out of the original."""
    told = {(each.model, each.figure, each.other): each for each in found.of("ablation") if math.isfinite(each.value)}
    names = [other for model, figure, other in told if (model, figure) == (ORIGINAL, "kl.mean")]
    if not names:
        return None
    rows = sorted((_ablated(told, name) for name in names), key=lambda row: -row.original.value)
    return AblationSection(
        parts=tuple([row for row in rows if _is_part(row.component)][:_MOST]),
        sublayers=tuple(row for row in rows if not _is_part(row.component)),
        n=rows[0].original.n,
    )


def _of_signals(found: Found) -> dict[str, list[Strand]]:
    """Of signals of which less is left: the models answered with their probe in the place of the decision."""
    told = [
        each for each in found.of("signal_patching", slice=_ALL) if math.isfinite(each.value) and each.other == _STREAM
    ]
    names = dict.fromkeys(each.signal for each in told)
    return {
        f"Of {spoken_signal(name)}": _strands([each for each in told if each.signal == name], _ALL) for name in names
    }


def _strands(stream: Sequence[Finding], slice_name: str) -> list[Strand]:
    return [
        Strand(
            name=figure,
            look=look,
            findings={each.layer: each for each in stream if each.figure == figure and each.slice == slice_name},
        )
        for figure, look in _LINES.items()
    ]


def _sentence(stream: Sequence[Finding], depths: Sequence[str]) -> str:
    """Where most breaks from one depth to the next, as far as intervals tell."""
    broken = {each.layer: each for each in stream if each.figure == "broken" and each.slice == _ALL}
    told = [broken[depth] for depth in depths if depth in broken and has_interval(broken[depth])]
    if not told:
        return "How much of the decision is lost at which layer could not be told with intervals."
    steps = [(late.value - early.value, early, late) for early, late in pairwise(told)]
    surely = [step for step in steps if step[2].low > step[1].high]
    if not surely:
        return (
            f"No single layer stands out as the one at which decisions are lost; after {layer_in_words(told[-1].layer, depths)} "
            f"{interval_of_share(told[-1])} of the difference between both answers is there, n = {count(told[-1].n)} rows."
        )
    _, early, late = max(surely, key=lambda step: step[0])
    return (
        f"The largest step is at {layer_in_words(late.layer, depths)}: put into the original, what the compressed model holds there "
        f"makes {interval_of_share(late)} of the difference between both answers, what it holds at "
        f"{layer_in_words(early.layer, depths)} {interval_of_share(early)}; n = {count(late.n)} rows."
    )


def _rows(told: Sequence[Finding]) -> list[PatchRow]:
    """All sites on all rows and on those decided otherwise, the stream alone on other slices."""
    places: dict[tuple[str, str, str], dict[str, Finding]] = {}
    for each in told:
        if each.other == _STREAM or each.slice in _SLICES:
            places.setdefault((each.slice, each.layer, each.other), {})[each.figure] = each
    return [
        PatchRow(layer=layer, site=site.replace("_", " "), slice=spoken_slice(name), recovered=own.get("recovered"), broken=own.get("broken"))
        for (name, layer, site), own in places.items()
    ]  # fmt: skip


def _most(strands: Sequence[Strand]) -> str:
    """On how many rows, or decisions where a row has several, the figures of a chart rest."""
    return count(max(each.n for strand in strands for each in strand.findings.values()))


def _ablated(told: dict[tuple[str, str, str], Finding], name: str) -> AblationRow:
    return AblationRow(
        component=name,
        original=told[ORIGINAL, "kl.mean", name],
        compressed=told.get((COMPRESSED, "kl.mean", name)),
        original_flips=told.get((ORIGINAL, "flips.mean", name)),
        compressed_flips=told.get((COMPRESSED, "flips.mean", name)),
        original_zero=told.get((ORIGINAL, "kl.zero", name)),
    )


def _is_part(component: str) -> bool:
    return ".head." in component or ".neuron." in component
