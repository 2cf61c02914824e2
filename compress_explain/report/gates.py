"""The gate table: every verdict with its interval drawn against its limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compress_explain.comparison.gates import Gate
from compress_explain.report.charts import Scale, Whisker, scale_over, whisker
from compress_explain.report.judgement import Judgement
from compress_explain.report.numbers import plain, signed

_WIDTH = 200  # of a whisker, in px


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """One verdict, ready to be shown; the numbers are written out already."""

    state: str
    gate: str
    slice: str
    original: float | None
    compressed: float | None
    judged: str
    limit: str
    n: int
    note: str
    whisker: Whisker | None


def gate_rows(gates: dict[str, Gate], judgement: Judgement) -> list[GateRow]:
    """One row a verdict, in the order of the ``gates``, which are named by what they say."""
    scales = _scales(judgement.verdicts, gates)
    return [_row(verdict, gates[verdict["gate"]], scales, judgement) for verdict in judgement.verdicts]


def declared_gates(settings: dict[str, Any]) -> dict[str, Gate]:
    """The gates of the settings of a run or an evaluation, by what they say."""
    gates = (Gate(**declared) for declared in settings["gates"])
    return {gate.rule_text: gate for gate in gates}


def judged_text(verdict: dict[str, Any], gate: Gate) -> str:
    """Estimate and interval; with signs where a difference is judged."""
    if not _measured(verdict):
        return "not measured"
    write = signed if gate.relative else plain
    return f"{write(verdict['estimate'])} ({write(verdict['low'])} to {write(verdict['high'])})"


def _row(verdict: dict[str, Any], gate: Gate, scales: dict[tuple[str, bool], Scale], judgement: Judgement) -> GateRow:
    score = judgement.scores.get((verdict["metric"], verdict["slice"]), {})
    judged = judged_text(verdict, gate)
    return GateRow(
        state=verdict["state"],
        gate=verdict["gate"].replace("_", " "),
        slice=verdict["slice"],
        original=score.get("original"),
        compressed=score.get("compressed"),
        judged=judged,
        limit=f"±{plain(verdict['limit'])}"
        if gate.max_change is not None
        else (signed if gate.relative else plain)(verdict["limit"]),
        n=verdict["n"],
        note=_note(verdict, gate),
        whisker=_whisker(verdict, gate, scales, judged) if _measured(verdict) else None,
    )


def _scales(verdicts: Sequence[dict[str, Any]], gates: dict[str, Gate]) -> dict[tuple[str, bool], Scale]:
    """One scale for all gates of a metric, so that their whiskers can be compared down the column."""
    values: dict[tuple[str, bool], list[float]] = {}
    for verdict in filter(_measured, verdicts):
        relative = gates[verdict["gate"]].relative
        seen = values.setdefault((verdict["metric"], relative), [0.0] if relative else [])
        seen += [verdict["low"], verdict["high"], verdict["limit"]]
        if gates[verdict["gate"]].max_change is not None:
            seen.append(-verdict["limit"])
    return {key: scale_over(seen, 6, _WIDTH - 6) for key, seen in values.items()}


def _whisker(verdict: dict[str, Any], gate: Gate, scales: dict[tuple[str, bool], Scale], judged: str) -> Whisker:
    return whisker(
        scales[verdict["metric"], gate.relative],
        estimate=verdict["estimate"],
        interval=(verdict["low"], verdict["high"]),
        limit=verdict["limit"],
        bounded_below=gate.bounded_below,
        both=gate.max_change is not None,
        zero=gate.relative,
        state=verdict["state"],
        title=f"{verdict['gate']} on {verdict['slice']}: {judged}",
    )


def _measured(verdict: dict[str, Any]) -> bool:
    return all(verdict[part] is not None for part in ("estimate", "low", "high"))


def _note(verdict: dict[str, Any], gate: Gate) -> str:
    rest: str = verdict["message"].rpartition(verdict["gate"])[2].strip("; :")
    if rest:
        return rest[0].upper() + rest[1:]
    slack = plain(abs(verdict["slack"]))
    if gate.rule == "point":
        side = "within" if verdict["state"] == "pass" else "beyond"
        return f"The estimate alone decides: {side} the limit by {slack}"
    if verdict["state"] == "pass":
        return f"The whole interval clears the limit, by {slack} at its nearest"
    return "The whole interval lies beyond the limit"
