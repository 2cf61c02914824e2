"""An evaluation: two models on one file of rows, judged as a run judges what it made, and kept in a folder like a run's."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from compress_explain.comparison.decided import Decided, decide_all
from compress_explain.comparison.gates import Verdict, judge, overall
from compress_explain.comparison.predictions import Pairs, paired
from compress_explain.comparison.waivers import waived
from compress_explain.data.examples import Examples
from compress_explain.errors import InputError
from compress_explain.evaluating.evaluated import STEP, SUMMARY, Evaluated
from compress_explain.evaluating.evaluation import Evaluation, order_of
from compress_explain.evaluating.opening import Opened
from compress_explain.plugins.evaluator import telling
from compress_explain.progress import Progress
from compress_explain.record.attempts import count_attempt
from compress_explain.record.folder import open_folder, write_json, write_text
from compress_explain.record.judged import measure_once, record_judgement
from compress_explain.record.ledger import Ledger
from compress_explain.record.outcome import REPORT
from compress_explain.record.provenance import environment


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
    order = order_of(evaluation.original, opened)
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
