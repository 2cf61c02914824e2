"""The steps of a search. Each is recorded when it is done and read back, not repeated, on resuming."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from compress_explain.comparison.decided import decide_all
from compress_explain.comparison.predictions import Pairs, logits_of, paired
from compress_explain.data.examples import Examples
from compress_explain.editing.edits import Plan
from compress_explain.editing.masks import Masks
from compress_explain.inquiry import tokens_of
from compress_explain.model.anatomy import Anatomy, read_anatomy
from compress_explain.plugins.strategy import ranges_of
from compress_explain.pricing import Engine, RayWorkers
from compress_explain.progress import Progress
from compress_explain.record.folder import open_folder
from compress_explain.record.ledger import Ledger
from compress_explain.record.outcome import Run
from compress_explain.record.provenance import environment
from compress_explain.run import execute
from compress_explain.running.job import Job
from compress_explain.search.candidates import Candidate, Seen, agreement, seen
from compress_explain.search.costs import Cost
from compress_explain.search.expected import Expected, Harm, open_pricebook
from compress_explain.search.hands import each, together
from compress_explain.search.naming import Named, name_one
from compress_explain.search.options import By, Search
from compress_explain.search.rungs import Rung, axes_of, keep, priced_rung, promising
from compress_explain.search.space import Pipeline, Space, space
from compress_explain.search.trials import TRIALS, Outcome, Trial, carried_out, figures, folder_name, on_validation
from compress_explain.search.tries import Try, tried

_SPLIT = 3  # times fewer go on to each next rung


@dataclass(kw_only=True)
class Seeking:
    """One search under way: the job without strategies, what may be tried, and the ledger of what was decided."""

    job: Job
    search: Search
    ledger: Ledger
    progress: Progress
    engine: Engine
    space: Space
    anatomy: Anatomy = field(repr=False)
    _began: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        return self.ledger.path.parent

    @property
    def by(self) -> By:
        return self.search.counted(timed=self.job.target is not None)

    @property
    def axes(self) -> list[By]:
        return axes_of(self.by, self.search.aims)

    @cached_property
    def _before(self) -> float:
        """Seconds that were spent before this process."""
        return max((float(record.body.get("elapsed", 0.0)) for record in self.ledger), default=0.0)

    @property
    def elapsed(self) -> float:
        """Seconds spent on this search, also by processes that were stopped."""
        return self._before + time.monotonic() - self._began

    @property
    def over(self) -> bool:
        """Whether nothing new is to be begun."""
        return self.search.minutes is not None and self.elapsed > 60 * self.search.minutes

    def start(self) -> None:
        """Record what is searched, among what, and where."""
        _ = self._before
        if self.ledger.find("started", "start"):
            self.progress.say("resuming: what is recorded is not repeated")
            return
        subject = self.job.subject
        body = {
            "identity": identity(self.job, self.search),
            "settings": self.job.settings() | {"search": self.search.settings(), "own": self._own},
            "model": {"source": subject.source, "digest": subject.digest, "class": self.anatomy.model_class,
                      "parameters": self.anatomy.parameters, "flops": self.anatomy.flops, "tokens": self.anatomy.tokens},
            "splits": {split.name: {"digest": split.digest, "rows": len(split), "truncated": split.truncated}
                       for split in self.job.splits},
            "space": {"steps": sorted(self.space.variants), "left_out": dict(self.space.left_out)},
            "environment": environment(),
        }  # fmt: skip
        self.ledger.append("started", "start", body)

    @property
    def _own(self) -> str | None:
        return self.space.own[0].words if self.space.own else None

    # Rung 0

    def price(self) -> Rung:
        """Price every pipeline from one pricing of the original, and keep what is worth trying."""
        path = self._table("priced")
        if not self.ledger.find("ranked", "priced"):
            with Masks(self.job.subject.model, self.anatomy) as masks:
                book, rows = open_pricebook(self.job, masks, self.space.variants.values(), self.progress)
                most = self.search.trials * _SPLIT**2
                rung, found, refused = priced_rung(self.space, book.expect, self.axes, most, self._miss)
            files = [self._table("prices-start"), path]
            book.menus[0][1].save(files[0])
            self._table_of(rung).to_parquet(path, index=False)
            files += [self._save_edits(each, found[each.number]) for each in rung.going_on]
            body = {"split": rows.name, "rows": len(rows), "edits": sum(len(prices) for _, prices in book.menus),
                    "considered": len(rung.candidates), "kept": list(rung.kept), "refused": refused}  # fmt: skip
            self._record("ranked", "priced", body, tuple(files))
        rung = self._read_rung("priced")
        self.progress.say(
            f"{len(rung.candidates):,} pipelines priced, none of them tried: {len(rung.kept)} are worth it"
        )
        return rung

    def _miss(self, candidate: Candidate) -> float:
        """By which share it is expected to miss what is aimed at."""
        return candidate.cost.beyond(self.search.aims)

    def _save_edits(self, candidate: Candidate, expected: Expected) -> Path:
        path = self._edits(candidate)
        Plan(step=path.stem, author="search", edits=expected.edits).to_frame().to_parquet(path, index=False)
        return path

    def _edits(self, candidate: Candidate) -> Path:
        return self._table(f"edits-{candidate.number:04d}")

    # Rungs 1 and 2

    def try_masked(self, before: Rung) -> Rung:
        """Try what is worth it by mask on some rows of validation, without making up for anything."""
        return self._tried("masked", before, rows=self.search.rows, refit_rows=None, most=self.search.trials * _SPLIT)

    def try_refitted(self, before: Rung) -> Rung:
        """Try what is left of it on all rows of validation, refitted once."""
        compensation = self.job.compensation
        refit_rows = None if compensation is None else compensation.rows_a_round
        return self._tried("refitted", before, rows=None, refit_rows=refit_rows, most=self.search.trials)

    def _tried(self, name: str, before: Rung, *, rows: int | None, refit_rows: int | None, most: int) -> Rung:
        if not self.ledger.find("ranked", name):
            self._try_all(name, before.going_on, rows, refit_rows)
            found = [self._with_what_was_seen(name, each) for each in before.going_on]
            tried_ones = [each for each in found if each.seen is not None]
            candidates = tried_ones or before.going_on  # when the time was up at once, what is known must do
            why = {each.number: "not tried: the time was up" for each in found if each.seen is None and tried_ones}
            chosen, others = (
                promising(candidates, self.axes, most, self._miss)
                if name == "refitted"
                else keep(candidates, self.axes, most)
            )
            rung = Rung(name=name, candidates=tuple(found), kept=tuple(chosen), why=why | others)
            path = self._table(name)
            self._table_of(rung).to_parquet(path, index=False)
            told = agreement([each.harm for each in tried_ones], [each.seen.kl for each in tried_ones if each.seen])
            self._record("ranked", name, {"considered": len(found), "kept": chosen, "agreement": told}, (path,))
        rung = self._read_rung(name)
        self.progress.say(f"{len(rung.candidates)} tried ({name}): {len(rung.kept)} go on")
        return rung

    def _try_all(self, name: str, candidates: Sequence[Candidate], rows: int | None, refit_rows: int | None) -> None:
        """Try those that were not, and record each as it is done."""
        left = [each for each in candidates if not self.ledger.find("tried", f"{name}-{each.number:04d}")]
        if not left or self.over:
            return
        original = self._original(name, rows)
        attempts = [self._attempt(candidate, rows, refit_rows, original) for candidate in left]
        examples = attempts[0].validation(self.job)
        with self.progress.track(f"trying pipelines ({name})", len(left)) as advance:
            for place, decided in each(self.engine, tried, self.job, attempts):
                candidate, pairs = left[place], original.beside(decided)
                path = self.folder / "predictions" / f"{name}-{candidate.number:04d}.parquet"
                pairs.save(path)
                body = asdict(seen(self.job, pairs, original)) | {"split": examples.name}
                self._record("tried", f"{name}-{candidate.number:04d}", body, (path,))
                advance(1)
                if self.over:
                    break

    def _attempt(self, candidate: Candidate, rows: int | None, refit_rows: int | None, original: Pairs) -> Try:
        path = self._edits(candidate)
        plan = Plan.from_frame(pd.read_parquet(path), step=path.stem, author="search")
        ranges = next((found for each in candidate.pipeline.strategies if (found := ranges_of(each))), None)
        return Try(edits=plan.edits, ranges=ranges, rows=rows, refit_rows=refit_rows, choices=original.decided.choices)

    def _original(self, name: str, rows: int | None) -> Pairs:
        """The original beside itself on the rows of a rung."""
        path = self.folder / "predictions" / f"original-{name}.parquet"
        if not self.ledger.find("predicted", f"original-{name}"):
            whole = self.job.splits.validation
            examples: Examples = whole if rows is None else whole.draw(rows, self.job.seed)
            decided = decide_all(logits_of(self.job.subject.model), examples, self.job.batch_size)
            paired(examples, decided, decided).save(path)
            self._record("predicted", f"original-{name}", {"split": examples.name, "rows": len(examples)}, (path,))
        return Pairs.load(path)

    def _with_what_was_seen(self, name: str, candidate: Candidate) -> Candidate:
        record = self.ledger.find("tried", f"{name}-{candidate.number:04d}")
        if record is None:
            return replace(candidate, seen=None)
        return replace(candidate, seen=_seen({key: record.body[key] for key in Seen.__dataclass_fields__}))

    # Trials

    def carry_out(self, rung: Rung) -> list[Trial]:
        """Carry out in full what is left, each in a folder of its own; those that were begun."""
        trials = [
            Trial(
                number=place,
                pipeline=candidate.pipeline,
                folder=self.folder / TRIALS / folder_name(place, candidate.pipeline),
            )
            for place, candidate in enumerate(rung.going_on, start=1)
        ]
        left = [trial for trial in trials if not self.ledger.find("trial", f"{trial.number:02d}")]
        function = carried_out if isinstance(self.engine, RayWorkers) else partial(_said, self.progress)
        done = len(trials) - len(left)
        for few in _portions(left, together(self.engine)):  # so that the time can be looked at in between
            if self.over and done:
                break
            for place, outcome in each(self.engine, function, self.job, few):
                self._record_trial(few[place], outcome, rung)
                done += 1
        return [trial for trial in trials if self.ledger.find("trial", f"{trial.number:02d}")]

    def _record_trial(self, trial: Trial, outcome: Outcome, rung: Rung) -> None:
        candidate = rung.going_on[trial.number - 1]
        body: dict[str, Any] = {
            "candidate": candidate.number, "pipeline": trial.pipeline.words, "trouble": outcome.trouble,
            "folder": trial.folder.relative_to(self.folder).as_posix(), "expected": asdict(candidate.harm),
            "expected_cost": candidate.cost.facts(),
        }  # fmt: skip
        if outcome.trouble is None:
            body |= figures(Run(trial.folder))
        self._record("trial", f"{trial.number:02d}", body)
        self.progress.say(
            f"trial {trial.number}, {trial.pipeline.words}: "
            + (
                outcome.trouble
                or f"{body['state']} on validation, accuracy {body['accuracy_change']:+.4f}, {body['flops']:.0%} of FLOPs"
            )
        )

    # The choice

    def name(self, trials: Sequence[Trial]) -> Named:
        """Which trial the gates and what is aimed at pick, judged on validation alone."""
        if not self.ledger.find("named", "end"):
            bodies = {trial.number: self._trial(trial) for trial in trials}
            named = name_one(bodies, self.by, self.search.aims, timed=self.job.target is not None)
            done = [body for body in bodies.values() if body["trouble"] is None]
            harms = [Harm(**body["expected"]) for body in done]
            told = agreement(harms, [body["kl"] for body in done])
            self._record("named", "end", {"number": named.number, "why": named.why, "agreement": told})
        body = self.ledger.find("named", "end").body  # type: ignore[union-attr]
        return Named(number=body["number"], why=body["why"])

    def judge(self, trials: Sequence[Trial], named: Named) -> None:
        """Let the named trial, and no other, read the test split."""
        if named.number is None or self.ledger.find("judged", "test"):
            return
        trial = next(each for each in trials if each.number == named.number)
        run = execute(trial.job(self.job), trial.folder, self.progress, resume=True)
        body = figures(run) | {"split": run.summary["judged_split"], "verdicts": run.summary["verdicts"]}
        self._record("judged", "test", body)

    def _trial(self, trial: Trial) -> dict[str, Any]:
        record = self.ledger.find("trial", f"{trial.number:02d}")
        assert record is not None, "only trials that were carried out are asked for"
        return record.body

    # What is written down

    def _table(self, name: str) -> Path:
        return self.folder / "tables" / f"{name}.parquet"

    def _table_of(self, rung: Rung) -> pd.DataFrame:
        """One row a pipeline: what it costs, what was expected and seen, whether it goes on and why not."""
        rows = [
            each.row() | {"kept": each.number in rung.kept, "why": rung.why.get(each.number)}
            for each in rung.candidates
        ]
        return pd.DataFrame(rows)

    def _read_rung(self, name: str) -> Rung:
        record = self.ledger.find("ranked", name)
        assert record is not None, "a rung is recorded when it is done"
        rows: list[dict[str, Any]] = pd.read_parquet(self._table(name)).to_dict("records")  # type: ignore[assignment]
        variants = self.space.variants
        return Rung(
            name=name,
            candidates=tuple(_candidate(row, variants) for row in rows),
            kept=tuple(record.body["kept"]),
            why={row["number"]: row["why"] for row in rows if isinstance(row["why"], str)},
        )

    def _record(self, kind: str, step: str, body: dict[str, Any], files: tuple[Path, ...] = ()) -> None:
        self.ledger.append(kind, step, body | {"elapsed": round(self.elapsed, 1)}, files)


@contextmanager
def open_seeking(
    job: Job, search: Search, folder: Path, progress: Progress, engine: Engine, *, resume: bool
) -> Iterator[Seeking]:
    """Lock the search's folder; ``job`` lists strategies only as one more pipeline.

    Raises:
        InputError: the folder or an option cannot be used.
    """
    found = space(search, job.target, job.strategies)
    bare = replace(job, strategies=(), registries=())
    search.counted(timed=job.target is not None)
    with open_folder(folder, identity(job, search), resume=resume) as ledger:
        anatomy = read_anatomy(job.subject.model, tokens_of(job.subject, job.splits.calibration))
        (folder / TRIALS).mkdir(exist_ok=True)
        seeking = Seeking(
            job=bare, search=search, ledger=ledger, progress=progress, engine=engine, space=found, anatomy=anatomy
        )
        seeking.start()
        yield seeking


def identity(job: Job, search: Search) -> str:
    """A digest of model, data and settings: two searches with the same one are the same search."""
    facts = [replace(job, strategies=()).identity(), space(search, job.target, job.strategies).own, search.settings()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=lambda each: each.words).encode()).hexdigest()


def _said(progress: Progress, base: Job, trial: Trial) -> Outcome:
    progress.say(f"trial {trial.number}: {trial.pipeline.words}")
    return on_validation(base, trial, progress)


def _portions(trials: Sequence[Trial], size: int) -> Iterator[Sequence[Trial]]:
    yield from (trials[start : start + size] for start in range(0, len(trials), size))


def _candidate(row: Mapping[str, Any], variants: Mapping[str, Any]) -> Candidate:
    """A row of a rung's table."""
    observed = {name: row.get(f"observed_{name}") for name in Seen.__dataclass_fields__}
    timed = {
        name: None if pd.isna(row[name]) else float(row[name]) for name in ("milliseconds", "milliseconds_allowed")
    }
    return Candidate(
        number=int(row["number"]),
        pipeline=Pipeline(steps=tuple(variants[words] for words in row["steps"])),
        cost=Cost(flops=row["flops"], parameters=row["parameters"], bytes=row["bytes"], work=row["work"], **timed),
        harm=Harm(summed=row["expected_summed"], together=row["expected_together"]),
        seen=None if pd.isna(observed["kl"]) else _seen(observed),
    )  # fmt: skip


def _seen(values: Mapping[str, Any]) -> Seen:
    reserve = values["reserve"]
    return Seen(
        kl=float(values["kl"]), loss_change=float(values["loss_change"]), accuracy_change=float(values["accuracy_change"]),
        state=str(values["state"]), reserve=None if pd.isna(reserve) else float(reserve), rows=int(values["rows"]),
    )  # fmt: skip
