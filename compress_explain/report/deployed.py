"""What runs after deployment: the form, its files, how its linears are stored, how it differs from the masked model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from compress_explain.deployment.manifest import MANIFEST, File, read_manifest
from compress_explain.record.replay import applied_plans
from compress_explain.report.labels import answers
from compress_explain.report.numbers import count, share, signed, small
from compress_explain.weight_edits import whole_name

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run

_RUNS = {
    "torch": "a torch checkpoint in float32, as transformers computes it",
    "onnx": "an ONNX file, as ONNX Runtime computes it",
    "compiled": "machine code in bfloat16, compiled by torch for the kind of processor that it was made on",
}


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
class TimedForm:
    """One form that was timed: the median and its 95% interval in milliseconds."""

    name: str
    milliseconds: float
    low: float
    high: float
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Forms side by side, the fastest first, on what; and what was not measured and why."""

    timed: tuple[TimedForm, ...]
    left_out: tuple[tuple[str, str], ...]
    tokens: int | None
    batch: int
    threads: int
    rounds: int
    processor: str


@dataclass(frozen=True, kw_only=True)
class DeployedFile:
    """The file that runs, its linears and all files beside it.

    ``gap`` says how it differs from the masked model, in a sentence. ``unquantized`` linears were
    quantized in the search but are not in this form.
    """

    file: str
    runs: str
    megabytes: float
    share: float
    quantized: int
    unquantized: int
    gap: str
    linears: tuple[StoredLinear, ...]
    files: tuple[File, ...]
    measured: Measured | None


def deployed(run: Run) -> DeployedFile | None:
    """None where nothing was written."""
    facts = run.summary["deployed"]
    if facts is None:
        return None
    plans = [applied.plan for applied in applied_plans(run.ledger) if not applied.reverted]
    quantized: dict[str, float] = {}
    for edit in (edit for plan in plans for edit in plan.edits if edit.into):
        if edit.action == "quantize":
            quantized[edit.component] = edit.expected_loss_change
        else:
            quantized.pop(edit.component, None)
    linears = tuple(_linears(run, quantized))
    in_file = sum(linear.expected is not None for linear in linears)
    artifact = run.folder / "artifact"
    return DeployedFile(
        file=facts["file"],
        runs=_RUNS[facts["runtime"]] + (f" (opset {facts['opset']})" if facts["opset"] else ""),
        megabytes=facts["bytes"] / 1e6,
        share=facts["bytes"] / facts["original_bytes"],
        quantized=in_file,
        unquantized=0 if in_file else len(quantized),
        gap=_gap(facts["beside_masked"], answers(run)),
        linears=linears,
        files=read_manifest(artifact).files if (artifact / MANIFEST).exists() else (),
        measured=None if facts["measured"] is None else _measured(facts["measured"]),
    )


def _linears(run: Run, quantized: dict[str, float]) -> Iterator[StoredLinear]:
    for row in pd.read_parquet(run.folder / "tables" / "linears.parquet").to_dict("records"):
        yield StoredLinear(
            name=row["component"],
            scheme=row["scheme"],
            bits=int(row["bits"]),
            bytes=int(row["bytes"]),
            sqnr=float(row["sqnr"]) if row["sqnr"] != float("inf") else None,
            expected=quantized.get(whole_name(row["component"])) if row["digest"] else None,
        )


def _gap(beside: dict[str, Any], unit: str) -> str:
    """One line, with its units and of how many ``unit``: rows, words or tokens."""
    change = beside["change"]
    return (
        f"On {count(beside['n'])} {beside['split']} {unit} both give the same answer for {share(beside['agreement'])} "
        f"(n = {count(beside['n'])}); what runs differs by {signed(change['loss_change'])} nats of loss {'an example' if unit == 'rows' else f'a {unit[:-1]}'}, "
        f"{small(change['kl'])} nats of KL, and {small(beside['logits'])} in a logit at most."
    )


def _measured(facts: dict[str, Any]) -> Measured:
    timed = (
        TimedForm(name=row["form"], milliseconds=row["milliseconds"], low=row["low"], high=row["high"],
                  chosen=row["form"] == facts["chosen"])
        for row in sorted(facts["forms"], key=lambda row: row["milliseconds"])
    )  # fmt: skip
    return Measured(
        timed=tuple(timed),
        left_out=tuple((row["form"], row["why"]) for row in facts["left_out"]),
        tokens=facts["tokens"],
        batch=facts["batch"],
        threads=facts["threads"],
        rounds=facts["rounds"],
        processor=facts["processor"],
    )
