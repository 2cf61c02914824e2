"""What the model still knows: which signals survive compression, layer by layer, told of the table of findings alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd

from compress_explain.report.signal_curves import Axes, DepthChart, Strand, axes_over, depth_chart
from compress_explain.report.signal_flow import FlowSection, flow_section
from compress_explain.report.signal_interventions import (
    AblationSection,
    PatchingSection,
    ablation_section,
    patching_section,
)
from compress_explain.report.signal_maps import CkaSection, cka_section
from compress_explain.report.signal_quality import QualitySection, quality_section
from compress_explain.report.signal_reading import ReadingSection, reading_section
from compress_explain.report.signal_retention import RetentionRow, retention_rows, retention_sentences
from compress_explain.signals.advice.advice import Advice, advice
from compress_explain.signals.findings import COMPRESSED, ORIGINAL, RANDOM, SHUFFLED
from compress_explain.signals.found import Found, SignalFound
from compress_explain.signals.words import spoken_signal

_NO_SHARES: Mapping[str, float] = MappingProxyType({})
_MODELS = (ORIGINAL, COMPRESSED)
_PARTS = {
    "cka": "how alike the models are",
    "patching": "where the decision is lost",
    "ablation": "which components matter",
    "attribution": "what the models look at",
    "flow": "how features flow",
    "catches": "wrong decisions that are flagged",
}


@dataclass(frozen=True, kw_only=True)
class SignalsSection:
    """Everything that the section shows; what was not measured is empty or None."""

    confidence: float
    sentences: tuple[str, ...]
    advice: tuple[Advice, ...]
    retention: tuple[RetentionRow, ...]
    curves: tuple[DepthChart, ...]
    alike: CkaSection | None
    patching: PatchingSection | None
    quality: QualitySection | None
    reading: ReadingSection | None
    flow: FlowSection | None
    ablation: AblationSection | None
    untold: tuple[tuple[str, str], ...]


def signals_section(
    measured: pd.DataFrame | None, confidence: float = 0.90, shares: Mapping[str, float] = _NO_SHARES
) -> SignalsSection | None:
    """Of the table that the evaluator ``signals`` stored; None where there is none.

    ``confidence`` is that of its intervals; ``shares`` are those of all rows that stand in each slice.
    """
    if measured is None or measured.empty:
        return None
    found = Found(table=measured)
    rows = retention_rows(found)
    return SignalsSection(
        confidence=confidence,
        sentences=retention_sentences(rows, confidence),
        advice=tuple(advice(measured, shares)),
        retention=rows,
        curves=tuple(_curves(found)),
        alike=cka_section(found),
        patching=patching_section(found),
        quality=quality_section(found, confidence),
        reading=reading_section(found),
        flow=flow_section(found),
        ablation=ablation_section(found),
        untold=tuple((_PARTS.get(part, part), why) for part, why in found.untold.items()),
    )


def _curves(found: Found) -> list[DepthChart]:
    """One chart a signal; those of one unit share their scale."""
    shown = [signal for signal in found.signals if signal.curve(ORIGINAL)]
    return [
        depth_chart(
            f"signal-{number}",
            f"{_capital(spoken_signal(signal.name))}, {_unit(signal)}",
            _axes(found, [each for each in shown if each.figure == signal.figure]),
            _strands(signal),
            level=signal.chance,
            chosen=signal.layer,
        )
        for number, signal in enumerate(shown)
    ]


def _axes(found: Found, signals: Sequence[SignalFound]) -> Axes:
    strands = [strand for signal in signals for strand in _strands(signal)]
    return axes_over(found.depths, strands, *(signal.chance for signal in signals))


def _strands(signal: SignalFound) -> list[Strand]:
    controls = {RANDOM: "random weights", SHUFFLED: "shuffled answers"}
    quiet = [
        Strand(name=name, look=model, findings=signal.curve(model), quiet=True) for model, name in controls.items()
    ]
    return [*quiet, *(Strand(name=model, look=model, findings=signal.curve(model)) for model in _MODELS)]


def _unit(signal: SignalFound) -> str:
    return next(each.unit for each in signal.curve(ORIGINAL).values())


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
