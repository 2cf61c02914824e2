"""The tables that the MLflow page shows: small JSON copies of what the Parquet files hold in full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from compress_explain.editing.edits import counted
from compress_explain.record.ledger import Record
from compress_explain.record.outcome import Run

from .figures import layer_rows
from .names import slugs

COMPONENT_ROWS = 500
_GATE_COLUMNS = ["state", "gate", "slice", "estimate", "low", "high", "limit", "slack", "n", "n_needed", "message"]
_COMPONENT_COLUMNS = ["component", "kind", "status", "removed_step", "removed_reason", "restored_step",
                      "restored_reason", "expected_loss_change", "flops_saved", "parameters_saved"]  # fmt: skip


def views_of(run: Run) -> dict[str, pd.DataFrame]:
    """Every table by its path, in the order in which to read them."""
    return {name: make(run) for name, make in _VIEWS.items()}


def gate_view(verdicts: list[dict[str, Any]]) -> pd.DataFrame:
    """Every verdict."""
    return pd.DataFrame(verdicts, columns=_GATE_COLUMNS)


def _gates(run: Run) -> pd.DataFrame:
    return gate_view(run.summary["verdicts"])


def _scores(run: Run) -> pd.DataFrame:
    """Every metric on every slice."""
    return run.scores


def _slices(run: Run) -> pd.DataFrame:
    """Which slice a metric's short name means."""
    names = run.scores.drop_duplicates("slice")[["slice", "n"]]
    shorts = slugs(names.loc[names["slice"] != "all", "slice"])
    return names.assign(name_in_metrics=[shorts.get(name, "all") for name in names["slice"]])


def _steps(run: Run) -> pd.DataFrame:
    """Expected beside observed, one row a step."""
    rows = []
    for step in run.summary["steps"]:
        row: dict[str, Any] = {"step": step["step"]}
        for quantity in sorted(step["observed"].keys() - {"n"}):
            row |= {f"{quantity} {which}": step[which][quantity] for which in ("expected", "observed")}
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else ["step"])


def _layers(run: Run) -> pd.DataFrame:
    return pd.DataFrame(layer_rows(run))


def _components(run: Run) -> pd.DataFrame:
    """The removed and restored components that save most; all are in ``tables/components.parquet``."""
    touched = run.components[run.components["status"] != "kept"]
    columns = [column for column in _COMPONENT_COLUMNS if column in touched]
    return touched.sort_values("flops_saved", ascending=False, kind="stable")[columns].head(COMPONENT_ROWS)


def _ledger(run: Run) -> pd.DataFrame:
    rows = [
        {"seq": record.seq, "time": record.time, "kind": record.kind, "step": record.step,
         "summary": _sentence(record), "hash": record.hash}
        for record in run.ledger
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _sentence(record: Record) -> str:
    """One line for one record."""
    body = record.body
    match record.kind:
        case "planned":
            return f"{body['author']}: {body['action']} {counted(body['counts']) or 'nothing'}"
        case "applied":
            return f"expected loss change {body['expected']['loss_change']:+.4f}"
        case "observed":
            return f"observed loss change {body['observed']['loss_change']:+.4f}"
        case "judged":
            return f"{body['state']} on {body['split']}, {len(body['verdicts'])} verdicts"
        case "materialized":
            return f"{body['parameters']:,} parameters, {body['bytes']:,} bytes"
    plain = {key: value for key, value in body.items() if isinstance(value, str | int | float)}
    return ", ".join(f"{key} {value}" for key, value in plain.items())[:200]


_VIEWS: dict[str, Callable[[Run], pd.DataFrame]] = {
    "overview/1_gates.json": _gates,
    "overview/2_scores.json": _scores,
    "overview/3_steps.json": _steps,
    "overview/4_layers.json": _layers,
    "overview/5_components.json": _components,
    "overview/6_ledger.json": _ledger,
    "overview/7_slice_names.json": _slices,
}
