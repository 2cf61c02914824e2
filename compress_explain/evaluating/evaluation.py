"""An evaluation: two models on one file of rows, judged as a run judges what it made, and kept in a folder like a run's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from compress_explain.comparison.contest import Contest, Side
from compress_explain.comparison.decided import Decided, Forward, decide_all
from compress_explain.comparison.gates import Gate, State, Verdict, check_gates, judge, overall
from compress_explain.comparison.predictions import Pairs, paired
from compress_explain.comparison.waivers import Waiver, check_waivers, waived
from compress_explain.data.encoding import cut
from compress_explain.data.examples import ALL, Examples
from compress_explain.errors import Exit, InputError
from compress_explain.evaluating.opening import Opened
from compress_explain.plugins.evaluator import Evaluator, Measuring, metrics_for, telling
from compress_explain.progress import Progress
from compress_explain.record.attempts import count_attempt
from compress_explain.record.champion import Champion
from compress_explain.record.folder import open_folder, write_json, write_text
from compress_explain.record.judged import measure_once, record_judgement, scores_file
from compress_explain.record.ledger import Ledger
from compress_explain.record.outcome import EXITS, REPORT
from compress_explain.record.protocol import Protocol, described, processor_digest, protocol_of
from compress_explain.record.provenance import environment
from compress_explain.record.replay import read_ledger

SUMMARY = "evaluation.json"
STEP = "artifact"  # as a run calls the judgement of what is deployed on test rows


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is to be judged, and by what: ``test`` are the rows as the original reads them."""

    original: Opened
    candidate: Opened
    test: Examples = field(repr=False)
    evaluators: Sequence[Evaluator | Measuring]
    gates: Sequence[Gate] = ()
    waivers: Sequence[Waiver] = ()
    champion: Champion | None = None
    batch_size: int = 32
    seed: int = 0
    redact: bool = False

    def __post_init__(self) -> None:
        names = [type(each).__name__.lower() for each in self.evaluators]
        if len(set(names)) < len(names):
            raise InputError("evaluators", names, "one is named twice", "name each once")
        metrics = metrics_for(self.evaluators, self.test.task)
        slices = [name for name in self.test.slices if name != ALL]
        check_gates(self.gates, metrics, slices)
        check_waivers(self.waivers, date.today())
        if self.champion is not None:
            self.champion.check(self.test.digest)
        _check_classes(self.original, self.candidate)

    @property
    def protocol(self) -> Protocol:
        """Under which both are compared."""
        model = self.original.module
        return protocol_of(
            self.test, self.original.subject.processor, self.evaluators, batch_size=self.batch_size, seed=self.seed,
            precision="float32" if model is None else str(model.dtype).removeprefix("torch."),
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """Every decision that shapes the result, as plain values."""
        return {
            "original": self.original.source,
            "candidate": self.candidate.source,
            "task": self.test.task,
            "evaluators": [described(each) for each in self.evaluators],
            "gates": [{key: value for key, value in asdict(gate).items() if value is not None} for gate in self.gates],
            "waivers": [waiver.facts() for waiver in self.waivers],
            "champion": None if self.champion is None else self.champion.source,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def identity(self) -> str:
        """A digest of both models, the rows and the settings: two evaluations with the same one are the same."""
        facts = [self.settings(), self.original.digest, self.candidate.digest, self.protocol.digest]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def read_by_candidate(self) -> Examples:
        """The same rows, cut by the candidate's own tokenizer where that is another one.

        Raises:
            InputError: the task's decisions hang on the tokens, and the tokens are not the same.
        """
        processor = self.candidate.subject.processor
        if processor_digest(processor) == processor_digest(self.original.subject.processor):
            return self.test
        kind = self.original.subject.kind
        if kind.reads == "image":
            return self.test
        if kind.decides != "row":
            problem = f"its tokens are not the original's, and a model for {kind.name} answers for tokens"
            raise InputError("candidate", self.candidate.source, problem, "judge models with one tokenizer")
        limit = min(self.test.max_length or processor.model_max_length, processor.model_max_length)
        if processor.pad_token_id is None:
            raise InputError(
                "candidate", self.candidate.source, "its tokenizer has no padding token", "set one and save it"
            )
        inputs = cut(processor, self.test.texts, limit)
        padding = dict.fromkeys(inputs, 0) | {"input_ids": int(processor.pad_token_id)}
        return replace(self.test, inputs=inputs, padding=padding)

    def contest(self, pairs: Pairs) -> Contest:
        """Both models at hand."""
        order = _order(self.original, self.candidate)
        sides = []
        for name, opened, examples in (
            ("original", self.original, self.test),
            ("compressed", self.candidate, self.read_by_candidate),
        ):
            own = None if order is None or name == "original" else tuple(order)
            side = Side(
                name=name, forward=_ordered(opened.forward, own), examples=examples, processor=opened.subject.processor,  # type: ignore[arg-type]
                module=opened.module, path=opened.path, form=opened.form, order=own,
            )  # fmt: skip
            sides.append(side)
        return Contest(
            original=sides[0], compressed=sides[1], pairs=pairs, batch_size=self.batch_size,
            threads=torch.get_num_threads(),
        )  # fmt: skip


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation, read from its folder."""

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / SUMMARY).exists():
            raise InputError("evaluation", str(self.folder), f"no {SUMMARY} here", "give the folder of a finished one")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The figures of ``evaluation.json``."""
        summary: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text())
        return summary

    @property
    def state(self) -> State:
        state: State = self.summary["state"]
        return state

    @property
    def exit_code(self) -> Exit:
        return EXITS[self.state]

    @cached_property
    def ledger(self) -> Ledger:
        """The verified ledger."""
        return read_ledger(self.folder)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row a score."""
        return pd.read_parquet(scores_file(self.ledger, STEP))

    @cached_property
    def pairs(self) -> Pairs:
        """What both models decided."""
        return Pairs.load(self.folder / "predictions" / f"{STEP}-test.parquet")


def evaluate(evaluation: Evaluation, folder: Path, progress: Progress, *, resume: bool = False) -> Evaluated:
    """Ask both models, score, judge, and write the folder; what is recorded is not repeated on resuming.

    Raises:
        InputError: the folder cannot be used, or a model gives no finite answer.
    """
    with open_folder(folder, evaluation.identity(), resume=resume) as ledger:
        _start(evaluation, ledger, progress)
        pairs = _predict(evaluation, ledger, progress)
        measured = measure_once(
            ledger, STEP, evaluation.evaluators, lambda: evaluation.contest(pairs), len(evaluation.test), progress
        )
        verdicts = _judge(evaluation, ledger, pairs, measured)
        _finish(evaluation, ledger, verdicts)
        evaluated = Evaluated(folder)
        write_text(folder / REPORT, _page(evaluation, evaluated))
        return evaluated


def _start(evaluation: Evaluation, ledger: Ledger, progress: Progress) -> None:
    if ledger.find("started", "start"):
        return
    protocol = evaluation.protocol
    file = protocol.save(ledger.path.parent)
    body = {
        "identity": evaluation.identity(),
        "settings": evaluation.settings(),
        "models": {name: {"source": opened.source, "digest": opened.digest, "form": opened.form}
                   for name, opened in (("original", evaluation.original), ("candidate", evaluation.candidate))},
        "splits": {"test": {"digest": evaluation.test.digest, "rows": len(evaluation.test),
                            "truncated": evaluation.test.truncated, "left_out": evaluation.test.left_out}},
        "environment": environment(),
        "protocol": protocol.digest,
    }  # fmt: skip
    ledger.append("started", "start", body, (file,))
    attempt = count_attempt(
        ledger.path.parent, model=evaluation.original.digest, data=evaluation.test.digest, protocol=protocol.digest
    )
    ledger.append("attempted", "test", attempt.facts())
    if attempt.number > 1:
        progress.say(f"attempt {attempt.number} at a verdict on these rows: each one makes a pass by luck likelier")


def _predict(evaluation: Evaluation, ledger: Ledger, progress: Progress) -> Pairs:
    path = ledger.path.parent / "predictions" / f"{STEP}-test.parquet"
    if not ledger.find("predicted", f"{STEP}-test"):
        original = _ask(evaluation, evaluation.original, evaluation.test, "original", progress)
        candidate = _ask(
            evaluation, evaluation.candidate, evaluation.read_by_candidate, "candidate", progress, original
        )
        paired(evaluation.test, original, candidate).save(path)
        ledger.append("predicted", f"{STEP}-test", {"split": "test", "rows": len(evaluation.test)}, (path,))
    return Pairs.load(path)


def _ask(
    evaluation: Evaluation,
    opened: Opened,
    examples: Examples,
    name: str,
    progress: Progress,
    like: Decided | None = None,
) -> Decided:
    choices = None if like is None else like.choices
    with progress.track(f"{name} on {len(examples):,} rows", len(examples)) as advance:
        decided = decide_all(opened.forward, examples, evaluation.batch_size, advance, choices)
    if not np.isfinite(decided.logits).all():
        rows = int((~np.isfinite(decided.logits).all(1)).sum())
        problem = f"{rows} of its answers are not finite numbers"
        raise InputError(name, opened.source, problem, "check its weights, and its inputs on those rows")
    order = _order(evaluation.original, opened)
    return decided if order is None else replace(decided, logits=decided.logits[:, order])


def _judge(evaluation: Evaluation, ledger: Ledger, pairs: Pairs, measured: list[Any]) -> list[Verdict]:
    scores = [score for each in telling(evaluation.evaluators) for score in each.evaluate(pairs)] + measured
    champion = [] if evaluation.champion is None else evaluation.champion.scores(evaluation.evaluators, pairs)
    gates = [gate for gate in evaluation.gates if evaluation.champion or gate.against != "champion"]
    verdicts = waived(judge(gates, scores, champion), evaluation.waivers, date.today())
    record_judgement(ledger, STEP, "test", scores, verdicts, date.today())
    return verdicts


def _finish(evaluation: Evaluation, ledger: Ledger, verdicts: list[Verdict]) -> None:
    judged, attempted = ledger.find("judged", STEP), ledger.find("attempted", "test")
    started = ledger.find("started", "start")
    assert judged is not None and attempted is not None and started is not None, "recorded before"
    state = overall(verdicts)
    if not ledger.find("finished", "end"):
        ledger.append("finished", "end", {"state": state})
    summary = {
        "state": state,
        "judged": bool(verdicts),
        "settings": evaluation.settings(),
        "models": started.body["models"],
        "splits": started.body["splits"],
        "protocol": started.body["protocol"],
        "attempt": attempted.body["number"],
        "verdicts": judged.body["verdicts"],
        "redacted": evaluation.redact,
        "ledger_head": ledger.head,
    }
    write_json(ledger.path.parent / SUMMARY, summary)


def _page(evaluation: Evaluation, evaluated: Evaluated) -> str:
    from compress_explain.report.evaluated import render_evaluation

    texts = None if evaluation.redact else evaluation.test.texts
    return render_evaluation(evaluated, texts, evaluation.original.subject.labels)


def _check_classes(original: Opened, candidate: Opened) -> None:
    """Raises InputError when the two do not decide between the same classes."""
    if original.subject.task != candidate.subject.task:
        problem = f"it is a model for {candidate.subject.task}, the original for {original.subject.task}"
        raise InputError("candidate", candidate.source, problem, "judge models of one task")
    _order(original, candidate)


def _ordered(forward: Forward, order: tuple[int, ...] | None) -> Forward:
    """The same answers with classes in the order of the original's."""
    return forward if order is None else lambda inputs: forward(inputs)[..., list(order)]


def _order(original: Opened, other: Opened) -> list[int] | None:
    """Which of the other's classes stands for each of the original's, by name; None where they stand in one order."""
    mine, theirs = original.subject.labels, other.subject.labels
    if original.subject.kind.decides not in ("row", "word"):
        return None
    if len(mine) != len(theirs):
        problem = f"it decides between {len(theirs)} classes, the original between {len(mine)}"
        raise InputError("candidate", other.source, problem, "judge models with the same classes")
    places = {name.lower(): index for index, name in theirs.items()}
    names = [mine[index].lower() for index in sorted(mine)]
    if set(names) != set(places):
        return None  # unnamed in one of them: in the order in which they stand
    order = [places[name] for name in names]
    return None if order == sorted(order) else order
