"""A run under way: what every step of it needs. What is recorded is read back, not repeated, on resuming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from compress_explain.choosing.latency_table import LatencyTable
from compress_explain.comparison.decided import Decided, Forward, decide_all
from compress_explain.comparison.gates import Verdict, judge
from compress_explain.comparison.predictions import Pairs, logits_of, paired
from compress_explain.comparison.scores import Score
from compress_explain.comparison.waivers import waived
from compress_explain.compensation import Compensator
from compress_explain.data.examples import Examples
from compress_explain.deployment.forms import refuse_without_compiler
from compress_explain.editing.dense import refuse_norms_after
from compress_explain.editing.masks import Masks
from compress_explain.editing.refits import (
    Refits,
)
from compress_explain.errors import InputError
from compress_explain.inquiry import tokens_of
from compress_explain.model.anatomy import Anatomy, Layer, read_anatomy
from compress_explain.model.embedding import TOKEN
from compress_explain.plugins.evaluator import asked_on_the_way, on_the_way, telling
from compress_explain.plugins.strategy import Worth, check_fit
from compress_explain.pricing import (
    Joint,
    observed_joint,
)
from compress_explain.progress import Progress
from compress_explain.record.folder import open_folder
from compress_explain.record.judged import record_judgement
from compress_explain.record.ledger import Ledger
from compress_explain.record.provenance import environment
from compress_explain.record.traced import record_stream, with_stream_of
from compress_explain.running.job import Job
from compress_explain.running.signals_on_the_way import retained_on_the_way, steering_of
from compress_explain.running.timing import latency_of
from compress_explain.signals.steering import Steering
from compress_explain.tuning import Recipe
from compress_explain.vocabulary import Lexicon
from compress_explain.weight_edits import Factors


@dataclass
class Session:
    """One run under way: the untouched model, the masks over it, and the ledger of what happened."""

    job: Job
    ledger: Ledger
    progress: Progress
    anatomy: Anatomy
    masks: Masks
    originals: dict[str, Decided] = field(default_factory=dict, repr=False)
    work: dict[str, int] = field(
        default_factory=dict, repr=False
    )  # by quantized linear: the FLOPs that it is faster by
    recipe: Recipe | None = None  # that what is left was tuned by
    worth: Worth | None = None  # of the channels of the stream, for the plan at hand
    compensators: dict[int, Compensator] = field(default_factory=dict, repr=False)  # by how many rows they see
    before: dict[str, tuple[Refits, Mapping[str, Factors]]] = field(
        default_factory=dict, repr=False
    )  # by step: what was refitted and factored before it

    @property
    def folder(self) -> Path:
        return self.ledger.path.parent

    @property
    def evaluations(self) -> int:
        """Full evaluations of a compressed or original model so far."""
        return len(self.ledger.of_kind("predicted"))

    def start(self) -> None:
        """Record what is about to be compressed, with what, and where."""
        if self.ledger.find("started", "start"):
            self.progress.say("resuming: steps that are recorded are not repeated")
            return
        subject, protocol = self.job.subject, self.job.protocol
        file = protocol.save(self.folder)
        body = {
            "identity": self.job.identity(),
            "settings": self.job.settings(),
            "model": {"source": subject.source, "digest": subject.digest, "class": self.anatomy.model_class,
                      "parameters": self.anatomy.parameters, "flops": self.anatomy.flops, "tokens": self.anatomy.tokens},
            "splits": {split.name: {"digest": split.digest, "rows": len(split), "truncated": split.truncated,
                                    "left_out": split.left_out}
                       for split in self.job.splits},
            "environment": environment(),
            "protocol": protocol.digest,
        }  # fmt: skip
        self.ledger.append("started", "start", body, (file,))

    @cached_property
    def priced(self) -> Examples:
        """The rows of calibration that price."""
        return self.job.splits.calibration.draw(self.job.priced_rows, self.job.seed)

    @cached_property
    def steering(self) -> Steering:
        """What the original holds of the signals that gates are about."""
        return steering_of(self)

    def observe(self, step: str) -> Pairs:
        """Predictions of the masked model on validation, beside the original's."""
        validation = self.job.splits.validation
        return self.predictions(step, validation, logits_of(self.job.subject.model), self.read(validation))

    @cached_property
    def lexicon(self) -> Lexicon:
        """The model's tokens."""
        return self.job.lexicon(self.masks)

    def read(self, examples: Examples) -> Examples:
        """``examples`` as the model reads them without the tokens that are gone now."""
        return examples if self.masks.removed_tokens is None else self.lexicon.read(examples).examples

    def judge(self, step: str, pairs: Pairs, measured: Sequence[Score] | None = None) -> list[Verdict]:
        """Scores and verdicts from paired predictions, and at the end from what was ``measured`` of what will be deployed.

        On the way, when nothing is measured yet, gates on that and gates against the champion are not judged, and only those
        evaluators are asked whose figures somebody waits for.
        """
        job, day, champion = self.job, date.today(), list[Score]()
        gates = on_the_way(job.gates, job.evaluators)
        asked = asked_on_the_way(gates, job.evaluators) if measured is None else telling(job.evaluators)
        scores = [score for evaluator in asked for score in evaluator.evaluate(pairs)]
        scores += retained_on_the_way(self, step, gates) if measured is None else []
        if measured is not None:
            scores += measured
            gates = list(job.gates) if job.champion else [gate for gate in job.gates if gate.against != "champion"]
        if measured is not None and job.champion and pairs.digest == job.champion.pairs.digest:
            champion = job.champion.scores(job.evaluators, pairs)
        verdicts = waived(judge(gates, scores, champion), job.waivers, day)
        record_judgement(self.ledger, step, pairs.split, scores, verdicts, day)
        return verdicts

    def record_effect(self, step: str, before: Pairs, after: Pairs, expected: Joint) -> None:
        """Put what a step did beside what it was expected to do."""
        if not self.ledger.find("observed", step):
            body: dict[str, Any] = {"expected": asdict(expected), "observed": asdict(observed_joint(before, after))}
            if self.masks.removed_tokens is not None:
                validation = self.job.splits.validation
                body["reading"] = self.lexicon.read(validation).facts(validation)
            self.ledger.append("observed", step, body)

    def untouched(self, examples: Examples) -> Pairs:
        """The original paired with itself: the state before the first edit."""
        original = self.original(examples)
        return paired(examples, original, original)

    def original(self, examples: Examples) -> Decided:
        """What the original decides on a split; its masks are off while they are computed."""
        if examples.name not in self.originals:
            path = self.folder / "predictions" / f"original-{examples.name}.parquet"
            if not self.ledger.find("predicted", f"original-{examples.name}"):
                with self.masks.untouched():
                    forward = logits_of(self.job.subject.model)
                    decided = self.predict(forward, examples, f"original on {examples.name}")
                paired(examples, decided, decided).save(path)
                body = {"split": examples.name, "rows": len(examples)}
                self.ledger.append("predicted", f"original-{examples.name}", body, (path,))
            self.originals[examples.name] = Pairs.load(path).decided
        return self.originals[examples.name]

    @cached_property
    def latency(self) -> LatencyTable | None:
        """What this machine takes, as it was found when the run began; None without a target."""
        target, path = self.job.target, self.table("latency")
        if target is None:
            return None
        if not self.ledger.find("timed", "start"):
            with self.masks.untouched():
                table = latency_of(self.job, target, self.anatomy, self.progress)
            table.save(path)
            self.ledger.append("timed", "start", table.facts() | {"aim": target.words}, (path,))
        return LatencyTable.load(path)

    @property
    def milliseconds(self) -> float | None:
        """What the target allows."""
        return None if self.job.target is None or self.latency is None else self.job.target.milliseconds(self.latency)

    def predictions(self, step: str, examples: Examples, forward: Forward, read: Examples) -> Pairs:
        """Of what ``forward`` makes of them when it reads ``examples`` as ``read``, beside the original's."""
        path = self.folder / "predictions" / f"{step}-{examples.name}.parquet"
        name = f"{step}-{examples.name}"
        if self.ledger.find("predicted", name):
            return Pairs.load(path)
        original = self.original(examples)
        label = f"evaluating on {examples.name} ({step})"
        pairs = paired(examples, original, self.predict(forward, read, label, original.choices))
        pairs.save(path)
        self.ledger.append("predicted", name, {"split": examples.name, "rows": len(examples)}, (path,))
        return pairs

    def predict(self, forward: Forward, examples: Examples, label: str, choices: np.ndarray | None = None) -> Decided:
        with self.progress.track(label, len(examples)) as advance:
            decided = decide_all(forward, examples, self.job.batch_size, advance, choices)
        rows = np.repeat(np.arange(len(examples)), examples.decisions)
        broken = np.zeros(len(examples), dtype=bool)
        broken[rows[~np.isfinite(decided.logits).all(1)]] = True
        if broken.any():
            raise InputError(
                "model",
                self.job.subject.source,
                f"{label}: the logits of {int(broken.sum())} rows are not finite (first: row {int(broken.argmax())})",
                "check the model's weights, and its inputs on that row",
            )
        return decided

    def table(self, name: str) -> Path:
        return self.folder / "tables" / f"{name}.parquet"


@contextmanager
def open_session(job: Job, folder: Path, progress: Progress, *, resume: bool) -> Iterator[Session]:
    """Lock the run's folder, read the model's anatomy and put the masks in place."""
    with open_folder(folder, job.identity(), resume=resume) as ledger:
        anatomy = read_anatomy(job.subject.model, tokens_of(job.subject, job.splits.calibration))
        anatomy = with_stream_of(job, anatomy, ledger)
        with Masks(job.subject.model, anatomy) as masks:
            session = Session(job=job, ledger=ledger, progress=progress, anatomy=anatomy, masks=masks)
            check_fit(job.strategies, anatomy)
            session.start()
            record_stream(anatomy, ledger)
            if job.runtime == "compiled" and not ledger.find("deployed", "artifact"):
                refuse_without_compiler()  # before anything is priced
            if "dense" in job.artifacts and any(Layer.kind in strategy.kinds for strategy in job.strategies):
                refuse_norms_after(anatomy)  # likewise
            if any(TOKEN in strategy.kinds for strategy in job.strategies):
                _ = session.lexicon.pieces  # refused before anything is priced
            _ = session.latency  # likewise
            yield session
