"""Sublayers and layers that were removed as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress_explain.model.anatomy import Layer, Sublayer

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One of them: ``status`` now, what was still there of it when it went, and the reason of its last edit."""

    component: str
    status: str
    parameters: int
    flops: int
    why: str


def units(run: Run) -> list[Unit]:
    """Every sublayer and layer that was ever removed, in the order of removal."""
    rows = run.components[run.components["kind"].isin([Sublayer.kind, Layer.kind])]
    return [
        Unit(
            component=row["component"],
            status=row["status"],
            parameters=int(row["parameters_saved"]),
            flops=int(row["flops_saved"]),
            why=row["restored_reason"] if row["status"] == "restored" else row["removed_reason"],
        )
        for row in rows.to_dict("records")
    ]
