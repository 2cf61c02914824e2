"""Whom does it cost: every slice, the worst first, and the first judgement beside the final one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compress_explain.comparison.gates import Gate
from compress_explain.comparison.harmed import HarmedSlice, certifiable_margins, harmed_slices
from compress_explain.report.charts import DotPlot, change_line, dot_plot
from compress_explain.report.gates import judged_text
from compress_explain.report.judgement import Judgement

_SHOWN = ("accuracy", "nll")
_DRAWN = 40  # slices in the figure; the table holds all of them


@dataclass(frozen=True, kw_only=True)
class SliceRow:
    """One slice with its score of each shown metric (None where there is none).

    ``margin`` is the smallest drop of accuracy that its rows could rule out; ``harm`` is told of declared slices. Both are None where
    several decisions stand in one row. ``words`` describe it, where its name says little.
    """

    slice: str
    n: int
    scores: tuple[dict[str, Any] | None, ...]
    margin: float | None
    harm: HarmedSlice | None
    words: str


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A verdict in brief: its state, and estimate with interval written out."""

    state: str
    judged: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One gate on one slice, as judged first and as judged finally."""

    gate: str
    slice: str
    first: Standing
    final: Standing | None


@dataclass(frozen=True, kw_only=True)
class SliceSection:
    """The slices of the final judgement, and both judgements gate by gate."""

    metrics: tuple[str, ...]
    rows: tuple[SliceRow, ...]
    figure: DotPlot | None
    confidence: float
    comparisons: tuple[Comparison, ...]
    first_split: str
    harmed: tuple[HarmedSlice, ...]
    tested: int


def slice_section(gates: dict[str, Gate], final: Judgement, first: Judgement, *, redacted: bool) -> SliceSection:
    """Rows are sorted by the first shown metric, the worst first; all rows together stand on top.

    Words that describe slices are from the texts, and left out where those are ``redacted``.
    """
    metrics = _metrics(final)
    names = dict.fromkeys(name for metric, name in final.scores if metric in metrics)
    confidence = next((score["confidence"] for score in final.scores.values()), 0.9)
    harmed = {each.slice: each for each in harmed_slices(final.pairs, confidence)}
    margins = certifiable_margins(final.pairs, confidence)
    words = {} if redacted else final.pairs.described
    rows = [_row(name, metrics, final, margins.get(name), harmed.get(name), words.get(name, "")) for name in names]
    rows.sort(key=lambda row: (row.slice != "all", _badness(row)))
    compared = () if first.record.seq == final.record.seq else tuple(_compare(first, final, gates))
    return SliceSection(
        metrics=metrics,
        rows=tuple(rows),
        figure=_figure(rows[:_DRAWN], metrics) if rows else None,
        confidence=confidence,
        comparisons=compared,
        first_split=first.split,
        harmed=tuple(sorted((each for each in harmed.values() if each.harmed), key=lambda each: each.corrected)),
        tested=len(harmed),
    )


def _metrics(judgement: Judgement) -> tuple[str, ...]:
    present = {metric for metric, _ in judgement.scores}
    gated = (verdict["metric"] for verdict in judgement.verdicts)
    return tuple(dict.fromkeys(metric for metric in (*_SHOWN, *gated) if metric in present))[:2]


def _row(
    name: str,
    metrics: tuple[str, ...],
    judgement: Judgement,
    margin: float | None,
    harm: HarmedSlice | None,
    words: str,
) -> SliceRow:
    scores = tuple(judgement.scores.get((metric, name)) for metric in metrics)
    n = next(score["n"] for (_, slice_name), score in judgement.scores.items() if slice_name == name)
    return SliceRow(slice=name, n=int(n), scores=scores, margin=margin, harm=harm, words=words)


def _badness(row: SliceRow) -> float:
    score = next((score for score in row.scores if score is not None), None)
    if score is None or score["difference"] != score["difference"]:  # NaN is worst of all
        return float("-inf")
    return float(score["difference"]) * (1 if score["direction"] == "higher" else -1)


def _figure(rows: list[SliceRow], metrics: tuple[str, ...]) -> DotPlot | None:
    panels = []
    for position, metric in enumerate(metrics):
        lines = [change_line(row.scores[position], _named(row)) for row in rows]
        if any(line is not None for line in lines):
            panels.append((_heading(metric, rows, position), lines))
    if not panels:
        return None
    description = "One line a slice: the dot is the estimated change, the stroke its interval, the tall line no change."
    return dot_plot(
        "slices", "Change from the original, slice by slice", description, [_named(row) for row in rows], panels
    )


def _named(row: SliceRow) -> str:
    return "all rows" if row.slice == "all" else row.slice


def _heading(metric: str, rows: list[SliceRow], position: int) -> str:
    score = next(row.scores[position] for row in rows if row.scores[position] is not None)
    assert score is not None
    unit = "" if score["unit"] == "share" else f", {score['unit']}"
    better = "right" if score["direction"] == "higher" else "left"
    name = "NLL" if metric == "nll" else metric.replace("_", " ").capitalize()
    return f"{name} change{unit} ({better} is better)"


def _compare(first: Judgement, final: Judgement, gates: dict[str, Gate]) -> list[Comparison]:
    before, after = _standings(first, gates), _standings(final, gates)
    return [
        Comparison(gate=gate.replace("_", " "), slice=name, first=standing, final=after.get((gate, name)))
        for (gate, name), standing in before.items()
    ]


def _standings(judgement: Judgement, gates: dict[str, Gate]) -> dict[tuple[str, str], Standing]:
    return {
        (verdict["gate"], verdict["slice"]): Standing(
            state=verdict["state"], judged=judged_text(verdict, gates[verdict["gate"]])
        )
        for verdict in judgement.verdicts
    }
