"""The steps of a run, read from its ledger: each becomes a child run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pandas as pd

from compress_explain.editing.edits import counted
from compress_explain.record.ledger import Record
from compress_explain.record.outcome import Run

from .names import Point, points, slug, slugs

_EFFECTS = ("loss_change", "kl", "flips_to_wrong", "flips_to_right", "accuracy_change")
_PAST = {"remove": "removed", "quantize": "quantized", "factorize": "factored", "restore": "restored"}
SLICE_FIGURES = 90  # slices shown as metrics; all are in the table of scores


@dataclass(frozen=True, kw_only=True)
class Step:
    """One round of removals, restorations or trims, one quantization, or a judgement that stands on its own."""

    name: str
    title: str
    kind: str
    summary: str
    state: str | None
    started: int  # milliseconds since 1970
    ended: int
    points: list[Point] = field(repr=False)


def read_steps(run: Run) -> list[Step]:
    """Every step in the order in which it was taken."""
    by_step: dict[str, list[Record]] = {}
    for record in run.ledger:
        if record.kind in ("planned", "applied", "observed", "refitted", "compensated", "judged", "reverted"):
            by_step.setdefault(record.step, []).append(record)
        elif record.kind == "predicted":
            by_step.setdefault(record.step.rpartition("-")[0], []).append(record)
    described = {name: {record.kind: record for record in records} for name, records in by_step.items()}
    return [
        _step(run, name, kinds, by_step[name])
        for name, kinds in described.items()
        if "applied" in kinds or "judged" in kinds
    ]


def milliseconds(time: str) -> int:
    """A ledger's time as MLflow counts it."""
    return int(datetime.fromisoformat(time).timestamp() * 1000)


def gate_counts(verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    """How many gates passed, failed or stayed inconclusive, and the least slack of all."""
    states = [verdict["state"] for verdict in verdicts]
    slacks = [verdict["slack"] for verdict in verdicts]
    return {
        "gates/passed": states.count("pass"),
        "gates/failed": states.count("fail"),
        "gates/inconclusive": states.count("inconclusive"),
        "gates/worst_slack": None if None in slacks or not slacks else min(slacks),
    }


def _step(run: Run, name: str, kinds: dict[str, Record], records: list[Record]) -> Step:
    times = [milliseconds(record.time) for record in records]
    judged = kinds.get("judged")
    figures = _planned(kinds) | _effects(kinds) | (_judgement(run, judged) if judged else {})
    return Step(
        name=name,
        title=f"{name}: {_title(name, kinds)}",
        kind=_kind(name, kinds),
        summary="\n".join(_sentences(name, kinds)),
        state=judged.body["state"] if judged else None,
        started=min(times),
        ended=max(times),
        points=points(figures),
    )


def _kind(name: str, kinds: dict[str, Record]) -> str:
    planned = kinds.get("planned")
    if planned is None:
        return "judgement"
    if planned.body["author"] != "reinstatement":
        return {"quantize": "quantization", "factorize": "factorization"}.get(planned.body["action"], "removal")
    return "reinstatement" if planned.body["action"] == "restore" else "trim"


def _title(name: str, kinds: dict[str, Record]) -> str:
    planned, judged = kinds.get("planned"), kinds.get("judged")
    if planned is None:
        assert judged is not None, "a step is planned or judged"
        return f"judged on {judged.body['split']}: {judged.body['state']}"
    done = f"{counted(planned.body['counts'])} {_PAST[planned.body['action']]}"
    done += " again" if _kind(name, kinds) == "trim" else ""
    return done + (", then taken back" if "reverted" in kinds else "")


def _sentences(name: str, kinds: dict[str, Record]) -> Iterator[str]:
    planned, judged = kinds.get("planned"), kinds.get("judged")
    if planned is not None:
        yield f"By **{planned.body['author']}**: {_title(name, kinds)}.\n"
    if "reverted" in kinds:
        yield f"Taken back: {kinds['reverted'].body['why']}.\n"
    for which in ("expected", "observed"):
        effect = _effect(kinds, which)
        if effect:
            yield (
                f"- {which}: loss {effect['loss_change']:+.4f} nats, accuracy {effect['accuracy_change']:+.4f}, "
                f"{effect['flips_to_wrong']:.2%} of answers became wrong, {effect['flips_to_right']:.2%} became right"
            )
    if "compensated" in kinds:
        gave = kinds["compensated"].body["observed"]
        yield f"- refitting the rest: loss {gave['loss_change']:+.4f} nats, accuracy {gave['accuracy_change']:+.4f}"
    if judged is not None:
        yield f"\nGates on {judged.body['split']}: **{judged.body['state']}**\n"
        yield from (f"- {verdict['state']}: {verdict['message']}" for verdict in judged.body["verdicts"][:20])


def _effect(kinds: dict[str, Record], which: str) -> dict[str, Any]:
    for kind in ("observed", "applied"):
        if kind in kinds and which in kinds[kind].body:
            return dict(kinds[kind].body[which])
    return {}


def _effects(kinds: dict[str, Record]) -> dict[str, Any]:
    return {
        f"{which}/{name}": value
        for which in ("expected", "observed")
        for name, value in _effect(kinds, which).items()
        if name in _EFFECTS
    }


def _planned(kinds: dict[str, Record]) -> dict[str, Any]:
    if "planned" not in kinds:
        return {}
    body = kinds["planned"].body
    done = _PAST[body["action"]]
    amounts = {f"edits/{slug(kind)}s_{done}": count for kind, count in body["counts"].items()}
    return amounts | {"edits/parameters_saved": body["parameters_saved"], "edits/flops_saved": body["flops_saved"]}


def _judgement(run: Run, judged: Record) -> dict[str, Any]:
    """Overall scores, verdicts, and how every slice moved."""
    scores = pd.read_parquet(run.folder / "tables" / f"scores-{judged.step}.parquet")
    split = slug(judged.body["split"])
    whole, parts = scores[scores["slice"] == "all"], scores[scores["slice"] != "all"]
    figures: dict[str, Any] = {f"{split}/{slug(row.metric)}": float(row.compressed) for row in whole.itertuples()}
    named = slugs(parts["slice"])
    accuracy = parts[parts["metric"] == "accuracy"]
    for row in accuracy.head(SLICE_FIGURES).itertuples():
        figures[f"slice/accuracy_difference/{named[str(row.slice)]}"] = float(row.difference)
    return figures | gate_counts(judged.body["verdicts"])
