"""Gates again, from what was stored: no model is needed, and the same gates give the same verdicts bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from compress_explain.comparison.gates import Gate, State, Verdict, check_gates, judge, overall
from compress_explain.comparison.scores import Score
from compress_explain.comparison.waivers import Waiver, waived
from compress_explain.data.examples import ALL
from compress_explain.errors import InputError, LedgerError
from compress_explain.plugins.catalog import EVALUATORS
from compress_explain.plugins.evaluator import Evaluator, Measuring, asked_on_the_way, metrics_for, on_the_way, telling
from compress_explain.record.champion import Champion
from compress_explain.record.judged import judged_pairs, measured_before, scores_file, scores_frame
from compress_explain.record.ledger import Ledger, Record
from compress_explain.record.replay import read_ledger

AT_THE_END = ("artifact", "deployed")  # the steps at which what will be deployed is judged, by all evaluators and gates


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Verdicts that were given again, on ``day``; ``same`` says whether scores and verdicts are those recorded, None with other gates."""

    folder: Path
    split: str
    day: date
    scores: tuple[Score, ...] = field(repr=False)
    verdicts: tuple[Verdict, ...] = field(repr=False)
    same: bool | None

    @property
    def state(self) -> State:
        return overall(self.verdicts)


def judge_again(
    folder: Path, gates: Sequence[Gate] | None = None, *, champion: Champion | None = None, today: date | None = None
) -> Judged:
    """Score the stored predictions of a run or an evaluation, and judge them by ``gates``, or by its own.

    With its own gates what comes out is compared with what was recorded, under the waivers of that day; the verdicts
    returned are those of ``today``, when waivers may have ended or been added.

    Raises:
        InputError: there is no such folder or nothing was judged in it, an evaluator is not installed, or a
            gate asks for what was not told.
        LedgerError: what is stored was changed, or gives other scores or verdicts than those recorded.
    """
    ledger = read_ledger(folder)
    record, settings = ledger.standing("judged"), ledger.records[0].body.get("settings", {})
    if record is None:
        raise InputError("run", str(folder), "nothing was judged here yet", "finish it first, with --resume")
    evaluators = built(settings)
    pairs = judged_pairs(ledger, record)
    recorded = _recorded(record, settings, evaluators)
    at_the_end = record.step in AT_THE_END
    asked = telling(evaluators) if at_the_end or gates is not None else asked_on_the_way(recorded, evaluators)
    scores = [score for each in asked for score in each.evaluate(pairs)]
    scores += measured_before(ledger, record.step, evaluators)
    beside = [] if champion is None else champion.scores(evaluators, pairs)
    if champion is not None:
        champion.check(pairs.digest)
    own = gates is None
    chosen = recorded if gates is None else list(gates)
    if not own:
        metrics = metrics_for(evaluators, pairs.task)
        check_gates(chosen, metrics, [name for name in pairs.slices if name != ALL])
    if champion is None:
        chosen = [gate for gate in chosen if gate.against == "original"]
    verdicts = judge(chosen, scores, beside)
    same = _check(ledger, record, scores, verdicts, settings) if own else None
    day = today or date.today()
    return Judged(
        folder=folder, split=pairs.split, day=day, scores=tuple(scores), same=same,
        verdicts=tuple(waived(verdicts, waivers_of(ledger), day)),
    )  # fmt: skip


def built(settings: dict[str, Any]) -> list[Evaluator | Measuring]:
    """The evaluators that a run's or an evaluation's settings describe.

    Raises:
        InputError: one is not installed here.
    """
    found = []
    for facts in settings["evaluators"]:
        options = {key: value for key, value in facts.items() if key != "name"}
        found.append(EVALUATORS.build(facts["name"], options))
    return found


def waivers_of(ledger: Ledger) -> list[Waiver]:
    """Those of the settings, and those that were added later."""
    declared = ledger.records[0].body.get("settings", {}).get("waivers") or []
    return [Waiver(**facts) for facts in (*declared, *(record.body for record in ledger.of_kind("waived")))]


def _recorded(record: Record, settings: dict[str, Any], evaluators: Sequence[Evaluator | Measuring]) -> list[Gate]:
    """The gates that were judged then: on the way, only those on predictions."""
    gates = [Gate(**facts) for facts in settings["gates"]]
    return gates if record.step in AT_THE_END else on_the_way(gates, evaluators)


def _check(
    ledger: Ledger, record: Record, scores: list[Score], verdicts: list[Verdict], settings: dict[str, Any]
) -> bool:
    """True, or LedgerError: scores and verdicts as recorded, gates against a champion left aside."""
    stored = pd.read_parquet(scores_file(ledger, record.step))
    again = scores_frame(scores)
    if not stored.equals(again[list(stored.columns)]):
        raise LedgerError(
            f"{ledger.path}: the stored predictions give other scores than those recorded at {record.step}"
        )
    then = date.fromisoformat(record.body["day"])
    declared = [Waiver(**facts) for facts in settings.get("waivers") or []]
    expected = [row for row in record.body["verdicts"] if row["against"] == "original"]
    found = [verdict.row() for verdict in waived(verdicts, declared, then) if verdict.gate.against == "original"]
    if found != expected:
        raise LedgerError(f"{ledger.path}: the stored scores give other verdicts than those recorded at {record.step}")
    return True
