"""The flow of a search, from top to bottom: price, try by mask, try refitted, run in full, name one, judge it on test."""

from __future__ import annotations

from pathlib import Path

from compress_explain.errors import RunInterrupted
from compress_explain.pricing import Engine
from compress_explain.progress import Progress
from compress_explain.running.job import Job
from compress_explain.search.found import Found, finish
from compress_explain.search.hands import HERE, ready
from compress_explain.search.options import Search
from compress_explain.search.seeking import open_seeking


def search(
    job: Job,
    options: Search,
    folder: Path,
    progress: Progress,
    *,
    engine: Engine = HERE,
    resume: bool = False,
) -> Found:
    """Choose strategies, their order and budgets for ``job``, and return the finished search in ``folder``.

    Strategies that the job lists are one more pipeline among those that are considered. Each rung keeps those that
    no other beats in cost and harm, and their neighbours. Everything but the last judgement rests on calibration and validation.
    On the workers of an ``engine`` the pipelines of a rung are tried side by side; their folders must be on a file
    system that all of them see.

    Raises:
        InputError: an option or the folder cannot be used.
        RunInterrupted: stopped from outside; everything recorded so far is kept for ``resume``.
    """
    try:
        with open_seeking(job, options, folder, progress, engine, resume=resume) as seeking, ready(engine):
            priced = seeking.price()
            masked = seeking.try_masked(priced)
            refitted = seeking.try_refitted(masked)
            trials = seeking.carry_out(refitted)
            named = seeking.name(trials)
            seeking.judge(trials, named)
            return finish(seeking, trials, named)
    except KeyboardInterrupt:
        raise RunInterrupted(f"stopped; continue with --resume (everything so far is kept in {folder})") from None
