"""The flow of a run, from top to bottom: price, plan, mask, compensate, observe, tune, judge, reinstate, materialize, deploy, judge, attribute."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from compress_explain.comparison.gates import State, Verdict, overall
from compress_explain.comparison.predictions import Pairs
from compress_explain.editing.edits import Edit, counted, undone
from compress_explain.errors import RunInterrupted
from compress_explain.plugins.strategy import Tuning, ranges_of, rounds_of, wants_prices
from compress_explain.progress import Progress
from compress_explain.record.outcome import Run, finish
from compress_explain.running.attribution import attribute
from compress_explain.running.blame import blame
from compress_explain.running.job import Job
from compress_explain.running.measuring import measure
from compress_explain.running.outlook import (
    audit_price,
    price_edits,
    prices_for,
    range_activations,
    situation,
    take_spectra,
    weigh_channels,
)
from compress_explain.running.plans import apply, at_whole_block, propose, restorations, revert
from compress_explain.running.recovery import compensate, refit, tune
from compress_explain.running.reinstate import Reinstatement, can_be_helped, noise
from compress_explain.running.session import Session, open_session
from compress_explain.running.shipping import (
    count_attempt,
    deploy,
    deployed_on_validation,
    materialize,
    observe_artifact,
    time_artifact,
)


def execute(job: Job, folder: Path, progress: Progress, *, resume: bool = False, on_test: bool = True) -> Run:
    """Carry out ``job`` in ``folder`` and return the finished run.

    Where it is one of several that a choice is made among, it is not judged ``on_test`` but on validation; when
    it was chosen it is resumed and then reads the test split.

    Raises:
        InputError: the folder cannot be used.
        RunInterrupted: stopped from outside; everything recorded so far is kept for ``resume``.
    """
    try:
        with open_session(job, folder, progress, resume=resume) as session:
            compressed = compress(session)
            state, masked = reinstate(session, compressed)
            if state != "fail":
                artifact = materialize(session)
                deploy(session, artifact, masked)
                time_artifact(session, artifact)
                count_attempt(session, on_test=on_test)
                step, pairs = observe_artifact(session, artifact, on_test=on_test)
                state = overall(session.judge(step, pairs, measure(session, artifact, step, pairs)))
            attribute(session, deployed_on_validation(session))
            blame(session, masked)
            return finish(session, state)
    except KeyboardInterrupt:
        raise RunInterrupted(f"stopped; continue with --resume (everything so far is kept in {folder})") from None


def compress(session: Session) -> Pairs:
    """Let each strategy propose and apply its edits, round by round, at fresh prices; make up for them, and observe.

    One that tunes edits nothing: what is left learns from the original.
    """
    validation = session.job.splits.validation
    prices, unfamiliar = price_edits(session, "start", session.priced), None
    audit_price(session)
    before = session.untouched(validation)
    for position, strategy in enumerate(session.job.strategies, start=1):
        author = type(strategy).__name__.lower()
        rounds = rounds_of(strategy, situation(session, prices))
        for round_number in range(rounds):
            step = f"{position}-{author}-{round_number + 1}"
            if isinstance(strategy, Tuning):
                before = tune(session, step, strategy.recipe, before)
                continue
            range_activations(session, step, ranges_of(strategy))
            take_spectra(session, step, strategy)
            weigh_channels(session, step, strategy)
            if wants_prices(strategy, session.anatomy, changed=bool(session.masks.components)):
                prices, unfamiliar = prices_for(session, step, strategy)
            now = situation(session, prices, unfamiliar, round_number, rounds)
            plan = propose(session, step, author, partial(strategy.plan, now))
            if not plan.edits:
                continue
            expected = apply(session, plan, before)
            after = session.observe(step)
            session.record_effect(step, before, after, expected)
            before = compensate(session, plan, after, passing=round_number + 1 < rounds)
            session.progress.say(
                f"{author}, round {round_number + 1}: {plan.verb} {counted(plan.counts())}; loss expected "
                f"{expected.loss_change:+.4f}, accuracy on {validation.name} now {before.compressed_right.mean():.4f}"
            )
    return before


def reinstate(session: Session, pairs: Pairs) -> tuple[State, Pairs]:
    """Judge on validation and, while a gate asks for it, undo the edits most guilty of it; what is then predicted."""
    limits = session.job.reinstatement
    verdicts = session.judge("validation", pairs)
    faster = sum(work for name, work in session.work.items() if not session.masks.gone(name))
    saved = session.masks.saved[1] + faster
    returned: list[Edit] = []
    for round_number in range(1, limits.max_rounds + 1):
        if not _wanting(verdicts, limits, started=bool(returned)):
            break
        _say_worst(session, round_number, verdicts)
        spent = -sum(edit.work_saved for edit in returned)
        most = limits.max_share * saved - spent
        allowance = min(limits.step * saved, most)
        step = f"reinstate-{round_number}"
        plan = propose(session, step, "reinstatement", partial(restorations, session, step, verdicts, allowance, most))
        if not plan.edits:
            break
        expected = apply(session, plan, pairs)
        after = session.observe(step)
        session.record_effect(step, pairs, after, expected)
        after = compensate(session, plan, after)
        judged = session.judge(step, after)
        if overall(verdicts) == "pass" and overall(judged) != "pass":
            revert(session, plan)  # it was for the reserve, and cost more than it gave
            break
        pairs, verdicts = after, judged
        returned += plan.edits
    if returned and not _wanting(verdicts, limits, started=True):
        pairs = _drop_unneeded(session, returned, pairs)
    return overall(verdicts), pairs


def _say_worst(session: Session, round_number: int, verdicts: list[Verdict]) -> None:
    """The gate that this round is for: the least slack for its noise."""
    worst = min(verdicts, key=lambda verdict: verdict.slack / noise(verdict))
    note = "holds, but with too little reserve" if worst.state == "pass" else worst.state
    session.progress.say(f"reinstatement, round {round_number}: {note}: {worst.message}")


def _drop_unneeded(session: Session, returned: list[Edit], pairs: Pairs) -> Pairs:
    """Take the least guilty restorations out again as long as every gate still holds with its reserve."""
    limits = session.job.reinstatement
    needed, kept = 0, len(returned)  # the first ``needed`` must stay, the first ``kept`` are back now
    for trial in range(1, limits.trims + 1):
        middle = at_whole_block(session, returned, (needed + kept) // 2)
        if not needed < middle < kept:
            break
        step = f"trim-{trial}"
        plan = propose(session, step, "reinstatement", partial(_without, returned[middle:kept]))
        apply(session, plan, pairs)
        refit(session, plan)
        after = session.observe(step)
        if _wanting(session.judge(step, after), limits, started=True):
            revert(session, plan)
            needed = middle
        else:
            kept, pairs = middle, after
    session.progress.say(f"reinstatement: {kept} of {len(returned)} restorations were needed")
    return pairs


def _without(restorations: Sequence[Edit]) -> tuple[Edit, ...]:
    return tuple(undone(edit) for edit in restorations)


def _wanting(verdicts: Sequence[Verdict], limits: Reinstatement, *, started: bool) -> bool:
    """Whether restoring could still help; once it has begun the gates are to hold with a reserve."""
    return any(can_be_helped(verdict, limits.reserve if started else 0.0) for verdict in verdicts)
