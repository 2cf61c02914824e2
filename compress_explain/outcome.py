"""What a run leaves behind: the state of every component, a summary, the report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from transformers import PreTrainedModel

from compress_explain.checkpoint import load_compressed
from compress_explain.errors import Exit, InputError
from compress_explain.folder import write_json, write_text
from compress_explain.gates import State
from compress_explain.ledger import Ledger, Record
from compress_explain.replay import applied_plans, read_ledger

if TYPE_CHECKING:
    from compress_explain.session import Session

SUMMARY = "run.json"
REPORT = "report.html"
_EXITS = {"pass": Exit.PASSED, "fail": Exit.GATE_FAILED, "inconclusive": Exit.INCONCLUSIVE}


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / SUMMARY).exists():
            raise InputError("run", str(self.folder), f"no {SUMMARY} here", "give the folder of a finished run")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The figures of ``run.json``."""
        summary: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text())
        return summary

    @property
    def state(self) -> State:
        """``pass``, ``fail`` or ``inconclusive``."""
        state: State = self.summary["state"]
        return state

    @property
    def passed(self) -> bool:
        return self.state == "pass"

    @property
    def exit_code(self) -> Exit:
        return _EXITS[self.state]

    @cached_property
    def ledger(self) -> Ledger:
        """The verified ledger."""
        return read_ledger(self.folder)

    @cached_property
    def components(self) -> pd.DataFrame:
        """One row a component: its price, and whether and why it was removed or restored."""
        return pd.read_parquet(self.folder / "tables" / "components.parquet")

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The scores that the verdict rests on."""
        return pd.read_parquet(self.folder / "tables" / f"scores-{self.summary['judged_step']}.parquet")

    def load_model(self) -> PreTrainedModel:
        """The compressed model.

        Raises:
            InputError: the gates failed on validation, so none was written.
        """
        return load_compressed(self.folder / "artifact")


def finish(session: Session, state: State) -> Run:
    """Write what people read, close the ledger, and return the run."""
    from compress_explain.report import render_report

    folder, ledger = session.folder, session.ledger
    components = component_table(session)
    components.to_parquet(folder / "tables" / "components.parquet", index=False)
    write_json(folder / "anatomy.json", _anatomy_facts(session, components))
    write_json(folder / SUMMARY, summarise(session, state, components))
    if not ledger.find("finished", "end"):
        files = (folder / "tables" / "components.parquet", folder / "anatomy.json")
        ledger.append("finished", "end", {"state": state}, files)
    run = Run(folder)
    texts = None if session.job.redact else {split.name: split.texts for split in session.job.splits}
    write_text(folder / REPORT, render_report(run, texts, session.job.subject.labels))
    return run


def component_table(session: Session) -> pd.DataFrame:
    """What became of every removable component, with its price on the untouched model."""
    prices = pd.read_parquet(session.folder / "tables" / "prices-start.parquet")
    overall = prices[prices["slice"] == "all"].drop(columns=["slice", "edit", "n"]).reset_index(drop=True)
    story: dict[str, dict[str, Any]] = {}
    for applied in applied_plans(session.ledger):
        if applied.reverted:
            continue
        for edit in applied.plan.edits:
            removed = edit.action == "remove"
            entry = story.setdefault(edit.component, {})
            if removed and entry.get("status") == "restored":  # a restoration that was not needed
                entry |= {"status": "removed", "restored_step": None, "restored_reason": None}
            elif removed:
                entry |= {"status": "removed", "removed_step": applied.plan.step, "removed_reason": edit.reason}
            else:
                entry |= {"status": "restored", "restored_step": applied.plan.step, "restored_reason": edit.reason}
    columns = ("status", "removed_step", "removed_reason", "restored_step", "restored_reason")
    for column in columns:
        default = "kept" if column == "status" else None
        overall[column] = [story.get(component, {}).get(column, default) for component in overall["component"]]
    return overall


def summarise(session: Session, state: State, components: pd.DataFrame) -> dict[str, Any]:
    """The figures that every reader starts from."""
    ledger, anatomy = session.ledger, session.anatomy
    judged = ledger.of_kind("judged")
    standing = _standing(ledger)
    by_status = components.groupby(["kind", "status"], sort=False).size()
    materialized = ledger.find("materialized", "artifact")
    saved_parameters, saved_flops = anatomy.saved(session.masks.removed)
    once_removed = components[components["status"] != "kept"]
    returned = components[components["status"] == "restored"]
    return {
        "state": state,
        "settings": session.job.settings(),
        "identity": session.job.identity(),
        "family": anatomy.family,
        "tokens": anatomy.tokens,
        "parameters": {"original": anatomy.parameters, "compressed": (
            materialized.body["parameters"] if materialized else anatomy.parameters - saved_parameters)},
        "flops": {"original": anatomy.flops, "compressed": anatomy.flops - saved_flops},
        "components": {kind: {status: int(by_status.get((kind, status), 0)) for status in ("kept", "removed", "restored")}
                       for kind in anatomy.kinds},
        "restored_share": {"count": len(returned) / max(1, len(once_removed)),
                           "flops": float(returned["flops_saved"].sum()) / max(1, int(once_removed["flops_saved"].sum()))},
        "first_verdicts": judged[0].body["verdicts"],
        "verdicts": standing.body["verdicts"],
        "judged_step": standing.step,
        "judged_split": standing.body["split"],
        "evaluations": session.evaluations,
        "steps": [{"step": record.step, "reverted": ledger.find("reverted", record.step) is not None, **record.body} for record in ledger.of_kind("observed")],
        "splits": {split.name: {"rows": len(split), "digest": split.digest, "truncated": split.truncated}
                   for split in session.job.splits},
        "artifact": "artifact" if materialized else None,
    }  # fmt: skip


def _standing(ledger: Ledger) -> Record:
    """The last judgement of a state that was not taken back."""
    reverted = {record.step for record in ledger.of_kind("reverted")}
    return [record for record in ledger.of_kind("judged") if record.step not in reverted][-1]


def _anatomy_facts(session: Session, components: pd.DataFrame) -> dict[str, Any]:
    """The catalogue with what each group lost; single components are in ``tables/components.parquet``."""
    anatomy = session.anatomy
    groups = {}
    for name, group in anatomy.groups.items():
        facts = asdict(group)
        facts["removed"] = session.masks.removed[name].nonzero().flatten().tolist()
        groups[name] = facts
    return {
        "family": anatomy.family,
        "model_class": anatomy.model_class,
        "tokens": anatomy.tokens,
        "parameters": anatomy.parameters,
        "flops": anatomy.flops,
        "layers": {name: asdict(layer) for name, layer in anatomy.layers.items()},
        "sublayers": {name: asdict(sublayer) for name, sublayer in anatomy.sublayers.items()},
        "linears": {name: asdict(linear) for name, linear in anatomy.linears.items()},
        "groups": groups,
        "components": len(components),
    }
