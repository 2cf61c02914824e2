"""What runs after deployment: the file, how its linears are stored, and how it differs from the masked model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from compress_explain.replay import applied_plans

if TYPE_CHECKING:
    from compress_explain.outcome import Run


@dataclass(frozen=True, kw_only=True)
class StoredLinear:
    """One linear in the file; ``sqnr`` is in dB and None where its weight is as it was."""

    name: str
    scheme: str
    bits: int
    bytes: int
    sqnr: float | None
    expected: float | None


@dataclass(frozen=True, kw_only=True)
class DeployedFile:
    """The file and its linears; differences are from the masked model on ``rows`` rows of ``split``."""

    file: str
    megabytes: float
    share: float
    opset: int
    quantized: int
    agreement: float
    rows: int
    split: str
    loss_change: float
    linears: tuple[StoredLinear, ...]


def deployed(run: Run) -> DeployedFile | None:
    """None where the torch checkpoint is what was judged."""
    facts = run.summary["deployed"]
    if facts is None:
        return None
    table = pd.read_parquet(run.folder / "tables" / "linears.parquet")
    plans = [applied.plan for applied in applied_plans(run.ledger) if not applied.reverted]
    expected = {edit.component: edit.expected_loss_change for plan in plans for edit in plan.edits if edit.into}
    linears = tuple(
        StoredLinear(
            name=row["component"],
            scheme=row["scheme"],
            bits=int(row["bits"]),
            bytes=int(row["bytes"]),
            sqnr=float(row["sqnr"]) if row["sqnr"] != float("inf") else None,
            expected=expected.get(row["component"]) if row["digest"] else None,
        )
        for row in table.to_dict("records")
    )
    beside = facts["beside_masked"]
    return DeployedFile(
        file=facts["file"],
        megabytes=facts["bytes"] / 1e6,
        share=facts["bytes"] / facts["original_bytes"],
        opset=facts["opset"],
        quantized=sum(bool(linear.expected is not None) for linear in linears),
        agreement=beside["agreement"],
        rows=beside["n"],
        split=beside["split"],
        loss_change=beside["change"]["loss_change"],
        linears=linears,
    )
