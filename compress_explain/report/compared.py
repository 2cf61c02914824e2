"""What two models' answers on the same rows say, section by section: the part that a run's page and an evaluation's share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress_explain.comparison.gates import Gate
from compress_explain.deployment.targets import TargetRow
from compress_explain.report.calibrated import calibrated
from compress_explain.report.discovered import discovered, looked_for_with
from compress_explain.report.flips import flipped
from compress_explain.report.gates import declared_gates, gate_rows
from compress_explain.report.hardware import EVALUATORS, hardware_section
from compress_explain.report.judgement import Judgement
from compress_explain.report.layer_times import layer_times_section
from compress_explain.report.robustness import robustness_section
from compress_explain.report.signals import SignalsSection, signals_section
from compress_explain.report.slices import slice_section


def compared(
    settings: dict[str, Any],
    final: Judgement,
    first: Judgement,
    texts: dict[str, tuple[str, ...]] | None,
    labels: dict[int, str],
    targets: Sequence[TargetRow] = (),
) -> dict[str, Any]:
    """By the name that templates know each by; ``settings`` are those of the run or the evaluation.

    ``texts`` maps splits to their rows' texts, None shows none; ``targets`` is what other machines measured.
    """
    gates: dict[str, Gate] = declared_gates(settings)
    rows = None if texts is None else texts.get(final.split)
    tables = {name: final.measured(name) for name in EVALUATORS}
    return {
        "judgement": final,
        "gates": gate_rows(gates, final),
        "slices": slice_section(gates, final, first, redacted=texts is None),
        "discovered": discovered(final.pairs, final.scores, rows, looked_for_with(settings["evaluators"])),
        "flips": flipped(final, texts, labels),
        "calibration": calibrated(final.pairs, final.scores, labels),
        "robustness": robustness_section(final.scores, final.measured("robustness"), rows),
        "hardware": hardware_section(final.scores, tables, targets),
        "layer_times": layer_times_section(final.measured("layertimes")),
        "signals": _signals(final),
    }


def _signals(judgement: Judgement) -> SignalsSection | None:
    measured = judgement.measured("signals")
    if measured is None:
        return None
    told = (row["confidence"] for (metric, _), row in judgement.scores.items() if metric.startswith("signals."))
    shares = {name: float(flags.mean()) for name, flags in judgement.pairs.slices.items()}
    return signals_section(measured, next(told, 0.90), shares)
