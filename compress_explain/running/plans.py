"""Plans: proposed and recorded, then carried out by mask, and taken back when they did not do what they were for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from compress_explain.choosing.factoring import factored_facts
from compress_explain.comparison.gates import Verdict
from compress_explain.comparison.predictions import Pairs
from compress_explain.data.examples import ALL
from compress_explain.editing.edits import Edit, Plan
from compress_explain.editing.narrowed_stream import silent_channels
from compress_explain.editing.refits import (
    load_factors,
    save_factors,
)
from compress_explain.errors import EditError
from compress_explain.model.embedding import TOKEN
from compress_explain.model.stream import CHANNEL
from compress_explain.plugins.strategy import Narrowing
from compress_explain.pricing import (
    Joint,
    expected_joint,
    share_of,
    together,
)
from compress_explain.pricing.channels import of_channels
from compress_explain.record.replay import applied_plans
from compress_explain.running.channels_back import AT_ONCE, blocks_gone, channels_back
from compress_explain.running.reinstate import choose_restorations, tokens_back
from compress_explain.running.session import Session
from compress_explain.running.signals_on_the_way import speaking_signal, spoken_by
from compress_explain.signals.scoring import signal_of


def propose(session: Session, step: str, author: str, decide: Callable[[], tuple[Edit, ...]]) -> Plan:
    """Let ``decide`` make a plan and record it before anything is changed."""
    path = session.table(f"edits-{step}")
    if session.ledger.find("planned", step):
        return Plan.from_frame(pd.read_parquet(path), step=step, author=author)
    edits = decide()
    plan = Plan(step=step, author=author, edits=edits)
    plan.to_frame().to_parquet(path, index=False)
    body = {"author": author, "action": edits[0].action if edits else "none", "counts": plan.counts(),
            "flops_saved": plan.flops_saved, "parameters_saved": plan.parameters_saved}  # fmt: skip
    if session.lexicon.rehearsals:
        body["vocabulary"] = session.lexicon.rehearsals.pop().facts
    if session.latency is not None:
        body["milliseconds"] = session.latency.predict(
            session.masks.removed_after(plan.of("remove"), plan.of("restore"))
        )
    session.ledger.append("planned", step, body, (path,))
    return plan


def apply(session: Session, plan: Plan, before: Pairs) -> Joint:
    """Price the plan as a whole on validation, from its state ``before``, then switch its components by mask."""
    record = session.ledger.find("applied", plan.step)
    if record is None:
        validation = session.job.splits.validation
        with session.progress.track(f"expected effect of the whole ({plan.step})", len(validation)) as advance:
            joint = expected_joint(
                session.masks, session.read(validation), plan.of_components, before.compressed, session.job.batch_size,
                advance, linears=plan.edits_of_linears,
            )[ALL]  # fmt: skip
        of_tokens = _expected_of_tokens(session, plan)
        others = plan.of_components or plan.edits_of_linears
        joint = joint if of_tokens is None else together(joint, of_tokens) if others else of_tokens
        _refuse_idle_edits(session, plan)
        _switch(session, plan)
        session.ledger.append("applied", plan.step, {"expected": asdict(joint)})
        return joint
    _switch(session, plan)
    return Joint(**record.body["expected"])


def revert(session: Session, plan: Plan) -> None:
    """Switch a plan's components back: it did not do what it was tried for."""
    if not session.ledger.find("reverted", plan.step):
        session.ledger.append("reverted", plan.step, {"counts": plan.counts(), "why": "a gate no longer held"})
    _switch_back(session, plan)
    session.masks.refit(*session.before[plan.step])


def restorations(
    session: Session, step: str, verdicts: Sequence[Verdict], allowance: float, most: float
) -> tuple[Edit, ...]:
    """What to put back, worth at most ``allowance`` FLOPs (one component: ``most``), priced for every gate at once.

    Where the tightest gate is about a signal, for that signal alone: the model answers with its probe then. Of channels the first few blocks are tried; they also come back when nothing is seen to help. Tokens come last:
    calibration does not use them and cannot price them.
    """
    plans = list(applied_plans(session.ledger))
    signal = speaking_signal(session, verdicts)
    about = [verdict for verdict in verdicts if signal_of(verdict.gate.metric) == signal]
    blocks = blocks_gone(plans, session.masks, _block(session))
    with (
        spoken_by(session, signal, session.read(session.priced)) as rows,
        session.progress.track(f"pricing restorations ({step})", len(rows)) as advance,
    ):
        chosen = choose_restorations(
            session.masks, rows, about, flops=allowance, most=most, blocks=blocks[:AT_ONCE],
            reserve=session.job.reinstatement.reserve, batch_size=session.job.batch_size, work=session.work, advance=advance,
        )  # fmt: skip
    return (
        chosen or channels_back(blocks, session.masks, flops=allowance, most=most) or tokens_back(plans, session.masks)
    )


def _block(session: Session) -> int:
    """In how many at a time channels are put back."""
    return next((each.multiple_of for each in session.job.strategies if isinstance(each, Narrowing)), 1)


def at_whole_block(session: Session, edits: Sequence[Edit], place: int) -> int:
    """The last place up to ``place`` before which all channels come in whole blocks."""
    before = sum(edit.kind == CHANNEL for edit in edits[:place])
    while place and before % _block(session):
        place -= 1
        before -= edits[place].kind == CHANNEL
    return place


def _refuse_idle_edits(session: Session, plan: Plan) -> None:
    """A removal is believed only if there was something to remove (a dead part must be priced 0)."""
    priced = [edit for edit in plan.edits if edit.action == "remove" and edit.expected_loss_change != 0]
    suspects = [
        edit.component for edit in priced if edit.kind in (*session.anatomy.kinds, CHANNEL)
    ]  # others were tried
    for batch in session.read(session.priced).batches(session.job.batch_size):
        if not suspects:
            return
        suspects = _silent(session, suspects, batch.inputs)
    if suspects:
        raise EditError(f"{suspects[0]} has no output to remove, yet its removal was priced")


def _silent(session: Session, components: list[str], inputs: dict[str, Any]) -> list[str]:
    """Those whose removal cannot change anything on these inputs."""
    channels, stream = of_channels(components), session.anatomy.stream
    others = [each for each in components if each not in channels]
    found = session.masks.silent(others, inputs) if others else []
    if stream is None or not channels:
        return found
    return found + silent_channels(session.job.subject.model, stream, channels, inputs)


def _expected_of_tokens(session: Session, plan: Plan) -> Joint | None:
    """What the tokens of a plan are expected to do: what was rehearsed, or their part of it; None if it has none."""
    change = sum(edit.expected_loss_change for edit in plan.edits if edit.kind == TOKEN)
    rehearsed = [record for record in session.ledger.of_kind("planned") if "vocabulary" in record.body]
    if TOKEN not in plan.counts() or not rehearsed:
        return None
    whole = Joint(**rehearsed[-1].body["vocabulary"]["expected"])
    if rehearsed[-1].step == plan.step:
        return whole
    return share_of(whole, change / whole.loss_change if whole.loss_change else 0.0)


def _switch(session: Session, plan: Plan) -> None:
    session.before[plan.step] = session.masks.refits, session.masks.factors
    session.masks.remove(plan.of("remove"))
    _factorize(session, plan)
    session.masks.quantize(plan.quantized)
    session.masks.restore(plan.of("restore"))
    session.work |= {edit.component: edit.work_saved for edit in plan.edits if edit.action == "quantize"}


def _switch_back(session: Session, plan: Plan) -> None:
    session.masks.restore(plan.of("remove") + plan.of("quantize"))
    linears = {edit.component: edit.into for edit in plan.edits if edit.action == "restore" and edit.into}
    session.masks.remove(name for name in plan.of("restore") if name not in linears)
    session.masks.quantize({name: into for name, into in linears.items() if name not in plan.made_whole})


def _factorize(session: Session, plan: Plan) -> None:
    """Put two linears in the place of each that the plan factors: as the file holds them, at once and on resuming."""
    if not plan.factored:
        return
    path, table = session.folder / "tensors" / f"factors-{plan.step}.safetensors", session.table(f"factors-{plan.step}")
    modules = {session.anatomy.linears[name].module: name for name in plan.factored}
    if not session.ledger.find("factored", plan.step):
        made = {name: session.masks.factors_of(name, into) for name, into in plan.factored.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_factors({module: made[name] for module, name in modules.items()}, path)
        rows = session.read(session.job.splits.calibration.draw(session.job.audit.rows, session.job.seed))
        with session.progress.track(
            f"trying each factored linear alone ({plan.step})", len(rows) * len(made)
        ) as advance:
            facts = factored_facts(session.masks, rows, plan, batch_size=session.job.batch_size, advance=advance)
        facts.to_parquet(table, index=False)
        body = {"linears": len(made), "ranks": {name: each.rank for name, each in made.items()}}
        session.ledger.append("factored", plan.step, body, (table, path))
    session.masks.factorize({modules[module]: each for module, each in load_factors(path).items()})
