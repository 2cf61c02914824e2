"""What was reinstated and why: round by round, and the trials of doing without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from compress_explain.record.ledger import Record
from compress_explain.report.numbers import kinds, share
from compress_explain.report.steps import step_title

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run

_REASONS = 5  # restorations shown with their reason in each round
_CAUSES = 4  # gates shown as the cause of a round


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The outcome of one judgement in brief: how many gates are in which state."""

    passed: int
    failed: int
    inconclusive: int
    split: str


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: why it was needed, what it put back, what was then judged."""

    title: str
    causes: tuple[dict[str, Any], ...]
    more_causes: int
    done: str
    flops: str
    first: tuple[dict[str, Any], ...]
    total: int
    outcome: Judged | None


@dataclass(frozen=True, kw_only=True)
class Trim:
    """One trial of taking restorations out again."""

    title: str
    done: str
    reverted: bool
    outcome: Judged | None

    @property
    def conclusion(self) -> str:
        if not self.reverted:
            return "not needed: left out"
        held = self.outcome is not None and not self.outcome.failed and not self.outcome.inconclusive
        return "needed for the reserve: put back again" if held else "needed: put back again"


@dataclass(frozen=True, kw_only=True)
class Reinstated:
    """The whole story; ``summary`` tells it in two sentences."""

    summary: str
    reserve: float
    rounds: tuple[Round, ...]
    trims: tuple[Trim, ...]


def reinstated(run: Run) -> Reinstated:
    """Read from the ledger every round of reinstatement and every trim."""
    plans = [record for record in run.ledger.of_kind("planned") if record.body["author"] == "reinstatement"]
    rounds = tuple(_round(run, plan) for plan in plans if not plan.step.startswith("trim-"))
    trims = tuple(_trim(run, plan) for plan in plans if plan.step.startswith("trim-"))
    reserve = run.summary["settings"]["reinstatement"]["reserve"]
    return Reinstated(summary=_summary(run, rounds), reserve=reserve, rounds=rounds, trims=trims)


def _summary(run: Run, rounds: tuple[Round, ...]) -> str:
    states = [verdict["state"] for verdict in run.summary["first_verdicts"]]
    if not any(each.total for each in rounds):
        if set(states) == {"pass"}:
            return "Nothing was restored: every gate held on validation as soon as the removals were made."
        return (
            "Nothing was restored: the gates that did not hold on validation could not be helped by it, "
            "or reinstatement was switched off."
        )
    restored = {kind: parts["restored"] for kind, parts in run.summary["components"].items() if parts["restored"]}
    part = run.summary["restored_share"]
    return (
        f"{_counted_rounds(rounds)} put back {kinds(restored)} for good: {share(part['count'])} of the components that had "
        f"been removed, {share(part['flops'])} of their FLOPs. {_standing(run)}"
    )


def _standing(run: Run) -> str:
    """How the gates stood on validation when restoring was over."""
    reverted = {record.step for record in run.ledger.of_kind("reverted")}
    judged = [record for record in run.ledger.of_kind("judged") if record.step not in {"artifact", *reverted}]
    states = [verdict["state"] for verdict in judged[-1].body["verdicts"]]
    return f"After that {states.count('pass')} of {len(states)} gates held on validation."


def _counted_rounds(rounds: tuple[Round, ...]) -> str:
    number = sum(1 for each in rounds if each.total)
    return "One round" if number == 1 else f"{number} rounds"


def _round(run: Run, plan: Record) -> Round:
    before = [record for record in run.ledger.of_kind("judged") if record.seq < plan.seq][-1]
    causes = _causes(before)
    table = pd.read_parquet(run.folder / "tables" / f"edits-{plan.step}.parquet")
    first: list[dict[str, Any]] = table.head(_REASONS).to_dict("records")  # type: ignore[assignment]
    return Round(
        title=step_title(plan.step),
        causes=tuple(causes[:_CAUSES]),
        more_causes=max(0, len(causes) - _CAUSES),
        done=kinds(plan.body["counts"]),
        flops=share(-plan.body["flops_saved"] / max(1, run.summary["flops"]["original"])),
        first=tuple(first),
        total=len(table),
        outcome=_outcome(run, plan.step),
    )


def _causes(judged: Record) -> list[dict[str, Any]]:
    """The verdicts that did not pass, the tightest first; when all pass, the one with least room."""
    verdicts = sorted(judged.body["verdicts"], key=_slack)
    wanting = [verdict for verdict in verdicts if verdict["state"] != "pass"]
    return wanting or verdicts[:1]


def _slack(verdict: dict[str, Any]) -> float:
    return float("-inf") if verdict["slack"] is None else float(verdict["slack"])


def _trim(run: Run, plan: Record) -> Trim:
    reverted = run.ledger.find("reverted", plan.step) is not None
    done = kinds(plan.body["counts"])
    return Trim(title=step_title(plan.step), done=done, reverted=reverted, outcome=_outcome(run, plan.step))


def _outcome(run: Run, step: str) -> Judged | None:
    record = run.ledger.find("judged", step)
    if record is None:
        return None
    states = [verdict["state"] for verdict in record.body["verdicts"]]
    return Judged(
        passed=states.count("pass"),
        failed=states.count("fail"),
        inconclusive=states.count("inconclusive"),
        split=record.body["split"],
    )
