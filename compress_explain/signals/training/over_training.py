"""Observing a training from its checkpoints, and other seeds of it beside it: when do signals form, where, and are they kept?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compress_explain.data.examples import Examples
from compress_explain.errors import InputError
from compress_explain.progress import Advance, Progress
from compress_explain.signals.training.observations import FORMAT, STEPS, Kept
from compress_explain.signals.training.observed import write_observed
from compress_explain.signals.training.observing import Observer, Observing
from compress_explain.signals.training.series import Checkpoint, Load, Series, check_beside, loaded_for


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A training with its checkpoints, the rows that they are asked about, and rows for probes to learn from if there are any.

    ``seeds`` are other trainings of the same kind. ``load`` makes a model of a checkpoint's folder; that of transformers for the
    task of the examples where none is given, which does for every model that needs nothing but its folder.
    """

    series: Series
    examples: Examples = field(repr=False)
    learning: Examples | None = field(default=None, repr=False)
    seeds: tuple[Series, ...] = ()
    observing: Observing = field(default_factory=Observing)
    load: Load | None = field(default=None, repr=False)
    batch_size: int = 32

    @property
    def every(self) -> tuple[Series, ...]:
        return (self.series, *self.seeds)

    @property
    def loader(self) -> Load:
        return self.load or loaded_for(self.examples.task)

    def identity(self, series: Series, number: int) -> str:
        """Of what a look at a checkpoint is made: the weights that it concerns, the rows, how closely it looks, and how it is kept."""
        here: list[Checkpoint] = [series.checkpoints[number], series.checkpoints[max(0, number - 1)], series.last]
        rows = [each.digest for each in (self.examples, self.learning) if each is not None]
        facts = [FORMAT, [each.digest for each in here], rows, asdict(self.observing)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def observe(watched: Watched, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Look at every checkpoint of every seed, write the folder, and return its summary.

    What is in the folder already, made of the same, is not made again: one that was stopped continues where it was.

    Raises:
        InputError: the folder holds something else, other seeds do not fit, or the task has no places to look at.
    """
    progress = progress or Progress(quiet=True)
    check_beside(watched.series, watched.seeds)
    _check_folder(watched, out)
    total = sum(len(each) for each in watched.every)
    observer = Observer.of(
        watched.loader(watched.series.last.path), watched.examples, watched.observing, learning=watched.learning,
        batch_size=watched.batch_size,
    )  # fmt: skip
    with progress.track(f"looking at {total} checkpoints", total) as advance:
        for seed, series in enumerate(watched.every):
            _look(watched, series, observer, Kept(folder=out, seed=seed), advance)
    return write_observed(out, [each.name for each in watched.every], watched.observing)


def _look(watched: Watched, series: Series, observer: Observer, kept: Kept, advance: Advance) -> None:
    wanted = [watched.identity(series, number) for number in range(len(series))]
    if all(kept.made_of(each.step) for each in series.checkpoints):
        advance(len(series))
        return
    last, before = observer.states(watched.loader(series.last.path)), None
    for checkpoint, identity in zip(series.checkpoints, wanted, strict=True):
        final = checkpoint is series.last
        states = last if final else observer.states(watched.loader(checkpoint.path))
        if not kept.made_of(checkpoint.step):
            kept.put(observer.told(checkpoint.step, states, before=before, last=None if final else last), identity)
        before = states
        advance(1)


def _check_folder(watched: Watched, out: Path) -> None:
    if not out.exists() or not any(out.iterdir()):
        return
    known: dict[tuple[int, int], str] = {
        (seed, step): watched.identity(series, number)
        for seed, series in enumerate(watched.every)
        for number, step in enumerate(series.steps)
    }
    there = _there(out)
    if not there:
        raise InputError("out", str(out), "the folder holds other files", "choose an empty or a new folder")
    for seed, step in there:
        if Kept(folder=out, seed=seed).made_of(step) != known.get((seed, step)):
            problem = f"what it holds of step {step} was made of other weights, rows or settings"
            raise InputError("out", str(out), problem, "choose another folder with --out")


def _there(out: Path) -> Sequence[tuple[int, int]]:
    """Seeds and steps that have been looked at."""
    stems = [path.stem.partition("-") for path in (out / STEPS).glob("[0-9]*-*.parquet")]
    return [(int(seed), int(step)) for seed, _, step in stems]
