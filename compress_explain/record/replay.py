"""From the ledger back to the model: what became of every component, and the same weights again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from transformers import PreTrainedModel

from compress_explain.editing.edits import Plan
from compress_explain.editing.refits import Standing, load_factors, load_refits, refitted_factors
from compress_explain.editing.surgery import materialize
from compress_explain.errors import InputError
from compress_explain.model.anatomy import Anatomy, Removed, read_anatomy
from compress_explain.record.checkpoint import removed_flags
from compress_explain.record.folder import LEDGER
from compress_explain.record.ledger import Ledger, Record
from compress_explain.record.traced import with_traced
from compress_explain.weight_edits import Factors


@dataclass(frozen=True, kw_only=True)
class Applied:
    """A plan as it was carried out; ``reverted`` when it was taken back at once."""

    plan: Plan
    reverted: bool


def read_ledger(folder: Path) -> Ledger:
    """The verified ledger of a run.

    Raises:
        InputError: the folder holds no run.
    """
    path = folder / LEDGER
    if not path.exists():
        raise InputError("run", str(folder), f"no {LEDGER} here", "give the folder that a run wrote to")
    return Ledger(path)


def applied_plans(ledger: Ledger) -> Iterator[Applied]:
    """Every plan that was carried out, in order."""
    for record in ledger.of_kind("applied"):
        planned = ledger.find("planned", record.step)
        assert planned is not None, "a plan is recorded before it is applied"
        table = pd.read_parquet(ledger.path.parent / f"tables/edits-{record.step}.parquet")
        yield Applied(
            plan=Plan.from_frame(table, step=record.step, author=planned.body["author"]),
            reverted=ledger.find("reverted", record.step) is not None,
        )


def removed_components(ledger: Ledger) -> list[str]:
    """What is removed at the end of the ledger, in the order of removal."""
    removed: dict[str, None] = {}
    for applied in applied_plans(ledger):
        if applied.reverted:
            continue
        for component in applied.plan.of("remove"):
            removed[component] = None
        for component in applied.plan.of("restore"):
            removed.pop(component, None)  # a linear was quantized, not removed
    return list(removed)


def replay(base: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Apply a run's ledger to the base model again: the artifact's weights, bit for bit.

    Raises:
        InputError: the folder holds no run.
        LedgerError: the ledger does not verify.
    """
    ledger = read_ledger(Path(folder))
    anatomy = with_traced(read_anatomy(base, tokens=1), ledger)
    indices: dict[str, list[int]] = {}
    for component in removed_components(ledger):
        part, index = anatomy.find(component)
        indices.setdefault(part.name, []).append(index)
    flags = removed_flags(anatomy, indices)
    file = standing_refits(ledger)
    refits = {} if file is None else load_refits(base, anatomy, flags, file)
    factors = standing_factors(ledger, anatomy, flags)
    standing: Standing = {**refits, **{anatomy.linears[name].module: each for name, each in factors.items()}}
    return materialize(base, anatomy, flags, standing)


def standing_factors(ledger: Ledger, anatomy: Anatomy, removed: Removed) -> dict[str, Factors]:
    """By linear that is factored at the end of the ledger: its two, as they were fitted last."""
    factors: dict[str, Factors] = {}
    modules = {linear.module: name for name, linear in anatomy.linears.items()}
    plans = {applied.plan.step: applied.plan for applied in applied_plans(ledger) if not applied.reverted}
    last = standing_refits(ledger)
    for record in ledger:
        if ledger.find("reverted", record.step) is not None:
            continue
        if record.kind == "applied":
            whole = plans[record.step].made_whole
            factors = {name: each for name, each in factors.items() if name not in whole}
        elif record.kind == "factored":
            factors |= {modules[module]: each for module, each in load_factors(_tensors(ledger, record)).items()}
        elif record.kind == "refitted" or (record.kind == "tuned" and _tensors(ledger, record) == last):
            factors = refitted_factors(factors, anatomy, removed, _tensors(ledger, record))
    return factors


def standing_refits(ledger: Ledger) -> Path | None:
    """The file of the last refit or tuning that was not taken back."""
    standing = max(
        filter(None, map(ledger.standing, ("refitted", "tuned"))), key=lambda record: record.seq, default=None
    )
    if standing is None:
        return None
    return _tensors(ledger, standing)


def _tensors(ledger: Ledger, record: Record) -> Path:
    """The one file of weights of a record."""
    [tensors] = [name for name in record.files if name.endswith(".safetensors")]
    return ledger.path.parent / tensors
