"""How features flow: how far the stream spreads and grows, which heads look elsewhere now, which units fell silent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compress_explain.report.numbers import count
from compress_explain.report.signal_curves import DepthChart, Strand, axes_over, depth_chart
from compress_explain.report.signal_words import interval_of
from compress_explain.signals.findings import COMPRESSED, ORIGINAL, Finding
from compress_explain.signals.found import Found, has_interval

_MODELS = (ORIGINAL, COMPRESSED)
_CURVES = {
    "effective_rank": "Effective rank, dimensions",
    "participation_ratio": "Participation ratio, dimensions",
    "norm": "Mean length of the stream",
}
_MOST = 10  # heads


@dataclass(frozen=True, kw_only=True)
class MovedRow:
    """One head: how far its attention moved, and how spread it is in each model."""

    head: str
    moved: Finding
    original: Finding | None
    compressed: Finding | None


@dataclass(frozen=True, kw_only=True)
class TakenRow:
    """One head that is gone, and the one that now looks nearest to where it looked."""

    head: str
    heir: str
    distance: Finding
    nearer: Finding | None


@dataclass(frozen=True, kw_only=True)
class UnitsRow:
    """One layer: shares of its neurons that are dead, saturated and constant, and of attention that carries most of it."""

    layer: str
    dead: tuple[Finding | None, Finding | None]
    saturated: tuple[Finding | None, Finding | None]
    constant: tuple[Finding | None, Finding | None]
    sparsity: tuple[Finding | None, Finding | None]


@dataclass(frozen=True, kw_only=True)
class FlowSection:
    """Everything about flow; ``notes`` are what could not be told of it, or what else there is to know."""

    sentence: str
    charts: tuple[DepthChart, ...]
    moved: tuple[MovedRow, ...]
    taken: tuple[TakenRow, ...]
    units: tuple[UnitsRow, ...]
    notes: tuple[str, ...]
    n: int


def flow_section(found: Found) -> FlowSection | None:
    """None where nothing of it was looked at."""
    every = found.of("flow")
    told = [each for each in every if math.isfinite(each.value) and each.figure != "norm_position"]
    if not told:
        return None
    moved = tuple(_moved(told))
    notes = [each.note for each in every if each.note and (each.figure == "norm_position" or math.isnan(each.value))]
    notes += [f"effective rank is told {each.note}" for each in told if each.note and each.figure == "effective_rank"]
    return FlowSection(
        sentence=_sentence(moved, told),
        charts=tuple(_charts(found, told)),
        moved=moved,
        taken=tuple(_taken(told)),
        units=tuple(_units(told)),
        notes=tuple(dict.fromkeys(notes)),
        n=max(each.n for each in told),
    )


def _charts(found: Found, told: list[Finding]) -> list[DepthChart]:
    charts = []
    for figure, title in _CURVES.items():
        strands = [
            Strand(
                name=model,
                look=model,
                findings={each.layer: each for each in told if each.figure == figure and each.model == model},
            )
            for model in _MODELS
        ]
        if any(strand.findings for strand in strands):
            charts.append(depth_chart(f"flow-{figure}", title, axes_over(found.depths, strands, 0.0), strands))
    return charts


def _moved(told: list[Finding]) -> list[MovedRow]:
    entropies = {(each.model, each.other): each for each in told if each.figure == "attention_entropy"}
    heads = sorted((each for each in told if each.figure == "attention_js"), key=lambda each: -each.value)
    return [
        MovedRow(
            head=each.other, moved=each, original=entropies.get((ORIGINAL, each.other)),
            compressed=entropies.get((COMPRESSED, each.other)),
        )
        for each in heads[:_MOST]
    ]  # fmt: skip


def _taken(told: list[Finding]) -> list[TakenRow]:
    nearer = {each.other: each for each in told if each.figure == "taken_over_nearer"}
    return [
        TakenRow(head=each.other, heir=each.note, distance=each, nearer=nearer.get(each.other))
        for each in told
        if each.figure == "taken_over"
    ]


def _units(told: list[Finding]) -> list[UnitsRow]:
    figures = ("dead", "saturated", "constant", "sparsity")
    own = {(each.figure, each.model, each.layer): each for each in told if each.figure in figures}
    layers = dict.fromkeys(layer for _, _, layer in own)
    return [
        UnitsRow(
            layer=layer, dead=_both(own, "dead", layer), saturated=_both(own, "saturated", layer),
            constant=_both(own, "constant", layer), sparsity=_both(own, "sparsity", layer),
        )
        for layer in layers
    ]  # fmt: skip


def _both(own: dict[tuple[str, str, str], Finding], figure: str, layer: str) -> tuple[Finding | None, Finding | None]:
    return own.get((figure, ORIGINAL, layer)), own.get((figure, COMPRESSED, layer))


def _sentence(moved: tuple[MovedRow, ...], told: list[Finding]) -> str:
    parts = []
    if moved:
        most = moved[0]
        parts.append(
            f"the head whose attention moved most is {most.head}, by {interval_of(most.moved, 3)} bits of 1 "
            f"(n = {count(most.moved.n)} rows)"
        )
    ranks = {(each.model, each.layer): each for each in told if each.figure == "effective_rank" and has_interval(each)}
    falls = [
        (late, ranks[ORIGINAL, layer])
        for (model, layer), late in ranks.items()
        if model == COMPRESSED and (ORIGINAL, layer) in ranks and late.high < ranks[ORIGINAL, layer].low
    ]
    if falls:
        late, early = min(falls, key=lambda pair: pair[0].value / pair[1].value)
        parts.append(
            f"the stream after {late.layer} spreads over fewer dimensions, {interval_of(early, 1)} → {interval_of(late, 1)}"
        )
    if not parts:
        return "At no depth does the compressed model's stream surely spread over fewer dimensions than the original's."
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."
