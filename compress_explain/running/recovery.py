"""Making up for what is gone: refits, and tuning by what the original says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pandas as pd
from safetensors.torch import save_file

from compress_explain.comparison.predictions import Pairs
from compress_explain.compensation import Compensator, summed_up
from compress_explain.editing.edits import Plan
from compress_explain.editing.refits import (
    load_refits,
    refitted_factors,
    save_refits,
)
from compress_explain.pricing import (
    observed_joint,
)
from compress_explain.running.session import Session
from compress_explain.tuning import Recipe, Tuner, lessons_for


def compensate(session: Session, plan: Plan, pairs: Pairs, *, passing: bool = False) -> Pairs:
    """Refit what is left to make up for what is gone now, and observe that; ``pairs`` are from before.

    In ``passing``, with more of the same to come, it is done on fewer rows.
    """
    step = plan.step
    if not plan.calls_for_refits or (session.job.compensation is None and session.recipe is None):
        return pairs
    refit(session, plan, passing=passing)
    after = session.observe(f"{step}-refitted")
    if not session.ledger.find("compensated", step):
        session.ledger.append("compensated", step, {"observed": asdict(observed_joint(pairs, after))})
    return after


def refit(session: Session, plan: Plan, *, passing: bool = False) -> None:
    """Put the weights in place that make up best for what is gone now; what was tuned is tuned again, briefly."""
    step = plan.step
    if not plan.calls_for_refits:
        return
    if session.recipe is not None:
        _tune(session, step, session.recipe, session.recipe.again)
        return
    compensator = _compensator(session, passing=passing)
    if compensator is None:
        return
    table, tensors = session.table(f"refits-{step}"), session.folder / "tensors" / f"refits-{step}.safetensors"
    if not session.ledger.find("refitted", step):
        with session.progress.track(f"compensating ({step})", len(session.anatomy.layers)) as advance:
            repairs = compensator.refit(advance, anew=not passing and _fitted_in_passing(session))
        pd.DataFrame([asdict(repair) for repair in repairs]).to_parquet(table, index=False)
        factors = {session.anatomy.linears[name].module: each for name, each in session.masks.factors.items()}
        save_refits(session.masks.refits, session.anatomy, session.masks.removed, tensors, factors)
        rows = compensator.examples
        body = {"split": rows.name, "rows": len(rows), "passing": passing, "linears": len(session.masks.refits),
                **summed_up(repairs)}  # fmt: skip
        session.ledger.append("refitted", step, body, (table, tensors))
    _put(session, tensors)


def tune(session: Session, step: str, recipe: Recipe, before: Pairs) -> Pairs:
    """Let what is left learn from the original, and observe that; ``before`` is from before it."""
    session.recipe = recipe
    _tune(session, step, recipe)
    after = session.observe(step)
    change = observed_joint(before, after)
    session.progress.say(
        f"{step}: tuned; loss {change.loss_change:+.4f}, accuracy on {after.split} now {after.compressed_right.mean():.4f}"
    )
    return after


def _tune(session: Session, step: str, recipe: Recipe, share: float = 1.0) -> None:
    table, tensors = session.table(f"tuned-{step}"), session.folder / "tensors" / f"tuned-{step}.safetensors"
    under_way = session.folder / "tensors" / f"tuning-{step}.safetensors"
    if not session.ledger.find("tuned", step):
        validation, words = session.job.splits.validation, session.job.subject.task == "text-classification"
        calibration, seed = session.job.splits.calibration, session.job.seed
        tuner = Tuner(
            masks=session.masks, recipe=recipe, share=share, path=under_way, validation=session.read(validation),
            lessons=lessons_for(recipe, calibration, session.lexicon, words=words, seed=seed),
            original=session.untouched(validation),
        )  # fmt: skip
        with session.progress.track(f"tuning ({step})", tuner.rows) as advance:
            tuned = tuner.run(advance)
        tuned.to_frame().to_parquet(table, index=False)
        save_file(tuned.tensors, tensors)
        session.ledger.append("tuned", step, tuned.facts(), (table, tensors))
    under_way.unlink(missing_ok=True)
    _put(session, tensors)


def _put(session: Session, tensors: Path) -> None:
    """Compute with what the file holds, at once and on resuming, so that both compute alike."""
    with session.masks.untouched():
        refits = load_refits(session.masks.model, session.anatomy, session.masks.removed, tensors)
    factors = refitted_factors(session.masks.factors, session.anatomy, session.masks.removed, tensors)
    session.masks.refit(refits, factors)


def _compensator(session: Session, *, passing: bool = False) -> Compensator | None:
    """It reads calibration as the original cuts it, so that both can be compared token by token."""
    calibration, chosen = session.job.splits.calibration, session.job.compensation
    if chosen is None:
        return None
    rows = min(chosen.rows_a_round, len(calibration)) if passing else len(calibration)
    if rows not in session.compensators:
        some = calibration.draw(rows, session.job.seed)
        session.compensators[rows] = Compensator(session.masks, some, chosen, session.job.batch_size)
    return session.compensators[rows]


def _fitted_in_passing(session: Session) -> bool:
    """Whether the weights of now were fitted to fewer rows than there are."""
    fitted = session.ledger.of_kind("refitted")
    return bool(fitted) and fitted[-1].body["rows"] < len(session.job.splits.calibration)
