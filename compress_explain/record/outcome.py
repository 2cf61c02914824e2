"""What a run leaves behind: the state of every component, a summary, the report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from transformers import PreTrainedModel

from compress_explain.comparison.gates import State
from compress_explain.data.examples import ALL
from compress_explain.editing.edits import Edit
from compress_explain.errors import Exit, InputError
from compress_explain.model.anatomy import Anatomy, Layer, Sublayer
from compress_explain.model.embedding import TOKEN
from compress_explain.model.stream import CHANNEL
from compress_explain.pricing import Audit, Prices
from compress_explain.pricing.menu import FLOAT_BYTES
from compress_explain.record.checkpoint import load_compressed
from compress_explain.record.course import Stage, course, trust
from compress_explain.record.dossier import dossier, dossier_text, shares
from compress_explain.record.folder import write_json, write_text
from compress_explain.record.ledger import Ledger
from compress_explain.record.replay import applied_plans, read_ledger

if TYPE_CHECKING:
    from compress_explain.data.loading import Splits
    from compress_explain.running.session import Session

SUMMARY = "run.json"
REPORT = "report.html"
ANATOMY = "anatomy.json"
_AUDITS = ("audit-of-all", "audit")  # the first that is there counts: `compress-explain audit` looks at more than a run
EXITS = {"pass": Exit.PASSED, "fail": Exit.GATE_FAILED, "inconclusive": Exit.INCONCLUSIVE}


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
        return EXITS[self.state]

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

    @cached_property
    def anatomy(self) -> dict[str, Any]:
        """What is known of every component: ``anatomy.json``, whose ``about`` explains its fields."""
        facts: dict[str, Any] = json.loads((self.folder / ANATOMY).read_text())
        return facts

    @cached_property
    def prices(self) -> Prices:
        """What every edit of the original was expected to do."""
        return Prices.load(_start(self.folder))

    @cached_property
    def audit(self) -> Audit | None:
        """What some of those edits really did, each made on its own; None when none was asked for."""
        return _audit(self.folder)

    @cached_property
    def course(self) -> list[Stage]:
        """Every step that was carried out: what was expected of it and what was observed."""
        return course(self.ledger, self.summary["flops"]["original"])

    def load_model(self) -> PreTrainedModel:
        """The compressed model.

        Raises:
            InputError: the gates failed on validation, so none was written.
        """
        return load_compressed(self.folder / "artifact")


def finish(session: Session, state: State) -> Run:
    """Write what people read, close the ledger, and return the run."""
    folder, ledger = session.folder, session.ledger
    components = component_table(session)
    files = (folder / "tables" / "components.parquet", folder / ANATOMY)
    end, judged = ledger.find("finished", "end"), ledger.standing("judged")
    open_ended = end is None
    if open_ended:
        components.to_parquet(files[0], index=False)
        write_text(files[1], dossier_text(_known(session, components)))
    write_json(folder / SUMMARY, summarise(session, state, components))
    if open_ended:
        ledger.append("finished", "end", {"state": state}, files)
    elif end and judged and judged.seq > end.seq and not ledger.find("finished", judged.body["split"]):
        ledger.append("finished", judged.body["split"], {"state": state})  # it was chosen among several, and read test
    run = Run(folder)
    write_report(run, session.job.splits, session.job.subject.labels)
    return run


def write_report(run: Run, splits: Splits, labels: dict[int, str]) -> None:
    """Render the page of a finished run, again when something was added to its folder."""
    from compress_explain.report import render_report

    texts = None if run.summary["redacted"] else {split.name: split.texts for split in splits}
    write_text(run.folder / REPORT, render_report(run, texts, labels))


def component_table(session: Session) -> pd.DataFrame:
    """What became of every component that meets a site, with its price on the untouched model.

    And of every sublayer, layer, token and channel that ever went. What a unit holds goes with it.
    """
    prices = Prices.load(_start(session.folder))
    decision, gradient = shares(prices)
    table = prices.to_frame()
    overall = table[table["slice"] == ALL].drop(columns=["slice", "edit", "n"]).reset_index(drop=True)
    overall = overall.assign(decision_share=decision[0], gradient_share=gradient)
    overall = overall[overall["kind"].isin(session.anatomy.kinds)].reset_index(drop=True)
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
    story |= _gone_with_units(session, story)
    overall = pd.concat([overall, _more_rows(session)], ignore_index=True)
    columns = ("status", "removed_step", "removed_reason", "restored_step", "restored_reason")
    for column in columns:
        default = "kept" if column == "status" else None
        overall[column] = [story.get(component, {}).get(column, default) for component in overall["component"]]
    return overall


def _gone_with_units(session: Session, story: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The story of what was still there when the sublayer or layer that holds it was removed."""
    anatomy, masks = session.anatomy, session.masks
    found: dict[str, dict[str, Any]] = {}
    for unit in sorted(masks.units, key=lambda each: each.kind):  # a layer has the word over its sublayers
        entry = story[unit.name]
        reason = {**entry, "removed_reason": f"with {unit.name}: {entry['removed_reason']}"}
        groups = [anatomy.groups[name] for name in anatomy.within(unit.name) if name in anatomy.groups]
        for component in (component for group in groups for component in group.components):
            if story.get(component, {}).get("status") != "removed":
                found.setdefault(component, reason)
    return found


def _more_rows(session: Session) -> pd.DataFrame:
    """One row a token, channel, sublayer or layer that was removed at some time; one that always stayed has no story."""
    first: dict[str, Edit] = {}
    for applied in applied_plans(session.ledger):
        for edit in applied.plan.edits:
            own = edit.kind in (TOKEN, CHANNEL) or edit.component in session.anatomy.units
            if own and edit.action == "remove" and not applied.reverted:
                first.setdefault(edit.component, edit)
    rows = [
        {
            "component": edit.component, "kind": edit.kind, "parameters_saved": edit.parameters_saved, "flops_saved": edit.flops_saved,
            "bytes_saved": FLOAT_BYTES * edit.parameters_saved, "expected_loss_change": edit.expected_loss_change,
        }
        for edit in first.values()
    ]  # fmt: skip
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["component"])


def summarise(session: Session, state: State, components: pd.DataFrame) -> dict[str, Any]:
    """The figures that every reader starts from."""
    ledger, anatomy = session.ledger, session.anatomy
    judged = ledger.of_kind("judged")
    standing = ledger.standing("judged")
    assert standing is not None, "a run is judged before it is summed up"
    by_status = components.groupby(["kind", "status"], sort=False).size()
    materialized = ledger.find("materialized", "artifact")
    saved_parameters, saved_flops = session.masks.saved
    stages = course(ledger, anatomy.flops)
    edited = components[components["component"].isin(_edited(session))]  # not what only went with a unit
    once_removed = edited[edited["status"] != "kept"]
    returned = edited[edited["status"] == "restored"]
    return {
        "state": state,
        "settings": session.job.settings(),
        "redacted": session.job.redact,
        "identity": session.job.identity(),
        "family": anatomy.family,
        "tokens": anatomy.tokens,
        "parameters": {"original": anatomy.parameters, "compressed": (
            materialized.body["parameters"] if materialized else anatomy.parameters - saved_parameters)},
        "flops": {"original": anatomy.flops, "compressed": anatomy.flops - saved_flops},
        "components": {kind: {status: int(by_status.get((kind, status), 0)) for status in ("kept", "removed", "restored")}
                       for kind in anatomy.kinds} | _more_counts(anatomy, by_status),
        "restored_share": {"count": len(returned) / max(1, len(once_removed)),
                           "flops": float(returned["flops_saved"].sum()) / max(1, int(once_removed["flops_saved"].sum()))},
        "first_verdicts": judged[0].body["verdicts"],
        "verdicts": standing.body["verdicts"],
        "judged_step": standing.step,
        "judged_split": standing.body["split"],
        "evaluations": session.evaluations,
        "steps": [{"step": stage.step, "reverted": stage.reverted, "expected": stage.expected, "observed": stage.observed,
                   "flops_removed": stage.flops_removed, "within_tolerance": stage.held}
                  for stage in stages if stage.observed is not None],
        "trust": trust(stages).facts(),
        "splits": {split.name: {"rows": len(split), "digest": split.digest, "truncated": split.truncated,
                                "left_out": split.left_out}
                   for split in session.job.splits},
        "artifact": "artifact" if materialized else None,
        "deployed": _deployed(ledger, anatomy),
        "target": _target(session),
    }  # fmt: skip


def _deployed(ledger: Ledger, anatomy: Anatomy) -> dict[str, Any] | None:
    """What runs and how its predictions differ from the masked model's; None where nothing was written."""
    made, compared = ledger.find("deployed", "artifact"), ledger.find("compared", "deployed")
    if made is None or compared is None:
        return None
    measured = ledger.find("measured", "runtime")
    return {
        "original_bytes": FLOAT_BYTES * anatomy.parameters,
        **made.body,
        "beside_masked": compared.body,
        "measured": None if measured is None else measured.body,
        "beside": {record.step: record.body for record in ledger.of_kind("written")},
    }


def _target(session: Session) -> dict[str, Any] | None:
    """What was aimed at and what was measured; nothing is measured where no artifact was written."""
    target, measured = session.job.target, session.ledger.find("timed", "artifact")
    if target is None:
        return None
    return measured.body if measured else {"aim": target.words, "met": None}


def _edited(session: Session) -> set[str]:
    return {edit.component for applied in applied_plans(session.ledger) for edit in applied.plan.edits}


def _more_counts(anatomy: Anatomy, by_status: pd.Series) -> dict[str, dict[str, int]]:
    """Of layers, sublayers, tokens and channels, if any of the kind ever went; what always stayed is in no table."""
    tokens = 0 if anatomy.embedding is None else anatomy.embedding.count
    channels = 0 if anatomy.stream is None else anatomy.stream.count
    units = ((Layer.kind, len(anatomy.layers)), (Sublayer.kind, len(anatomy.sublayers)))
    found = {}
    for kind, total in (*units, (TOKEN, tokens), (CHANNEL, channels)):
        gone, back = (int(by_status.get((kind, status), 0)) for status in ("removed", "restored"))
        if gone + back:
            found[kind] = {"kept": total - gone - back, "removed": gone, "restored": back}
    return found


def _known(session: Session, components: pd.DataFrame) -> dict[str, Any]:
    """The living model of the architecture, as far as this run knows it."""
    return dossier(
        session.anatomy,
        Prices.load(_start(session.folder)),
        components,
        course(session.ledger, session.anatomy.flops),
        applied_plans(session.ledger),
        _audit(session.folder),
    )


def _audit(folder: Path) -> Audit | None:
    paths = (folder / "tables" / f"{name}.parquet" for name in _AUDITS)
    return next((Audit.load(path) for path in paths if path.exists()), None)


def _start(folder: Path) -> Path:
    return folder / "tables" / "prices-start.parquet"
