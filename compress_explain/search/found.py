"""What a search leaves behind: the front, a summary, the page; and a finished search read from its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from compress_explain.comparison.gates import State
from compress_explain.errors import Exit, InputError, LedgerError
from compress_explain.record.folder import write_json, write_text
from compress_explain.record.ledger import Ledger
from compress_explain.record.outcome import EXITS, REPORT, Run
from compress_explain.record.replay import read_ledger
from compress_explain.search.fronts import fronts
from compress_explain.search.naming import Named, cost, missed
from compress_explain.search.trials import Trial

if TYPE_CHECKING:
    from compress_explain.search.seeking import Seeking

SUMMARY = "search.json"
FRONT = "front.parquet"


@dataclass(frozen=True)
class Found:
    """A finished search, read from its folder."""

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / SUMMARY).exists():
            raise InputError("search", str(self.folder), f"no {SUMMARY} here", "give the folder of a finished search")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The figures of ``search.json``."""
        summary: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text())
        return summary

    @property
    def state(self) -> State:
        """What the gates say of the named point on test; ``fail`` where none was named."""
        state: State = self.summary["state"]
        return state

    @property
    def passed(self) -> bool:
        return self.state == "pass"

    @property
    def exit_code(self) -> Exit:
        return EXITS[self.state]

    @cached_property
    def ledger(self) -> Ledger:
        """The verified ledger of the search's own decisions."""
        return read_ledger(self.folder)

    @cached_property
    def front(self) -> pd.DataFrame:
        """One row a trial: its costs and harm, whether another beats it, whether it was named."""
        return pd.read_parquet(self.folder / FRONT)

    @property
    def trials(self) -> list[dict[str, Any]]:
        """The trials that were carried out, in order."""
        trials: list[dict[str, Any]] = self.summary["trials"]
        return trials

    @property
    def named(self) -> Run | None:
        """The run that was picked; None where none could be."""
        body = next((each for each in self.trials if each["named"]), None)
        return None if body is None else Run(self.folder / body["folder"])

    def rung(self, name: str) -> pd.DataFrame:
        """Every pipeline that reached the rung ``priced``, ``masked`` or ``refitted``, and why it went no further."""
        return pd.read_parquet(self.folder / "tables" / f"{name}.parquet")

    def verify(self) -> None:
        """Check the chains of the search and of every trial, and that they belong together.

        Raises:
            LedgerError: which does not fit, and how.
        """
        records = {
            record.body["folder"]: record for record in self.ledger.of_kind("trial") if not record.body["trouble"]
        }
        for folder, record in records.items():
            heads = {each.hash for each in read_ledger(self.folder / folder)}
            if record.body["ledger_head"] not in heads:
                raise LedgerError(f"{self.folder / folder}: its ledger is not the one that the search saw")


def finish(seeking: Seeking, trials: Sequence[Trial], named: Named) -> Found:
    """Write what people read, close the ledger, and return the search."""
    from compress_explain.report.searched import render_search

    folder, ledger = seeking.folder, seeking.ledger
    bodies = [_body(seeking, trial, named) for trial in trials]
    _mark_front(bodies, seeking)
    test = ledger.find("judged", "test")
    state: State = "fail" if test is None else test.body["state"]
    front = folder / FRONT
    if not ledger.find("finished", "end"):
        _front_table(bodies).to_parquet(front, index=False)
    write_json(folder / SUMMARY, _summary(seeking, bodies, named, state))
    if not ledger.find("finished", "end"):
        ledger.append("finished", "end", {"state": state, "elapsed": round(seeking.elapsed, 1)}, (front,))
    found = Found(folder)
    write_text(folder / REPORT, render_search(found))
    return found


def _body(seeking: Seeking, trial: Trial, named: Named) -> dict[str, Any]:
    record = seeking.ledger.find("trial", f"{trial.number:02d}")
    assert record is not None, "only trials that were carried out are told of"
    body = {key: value for key, value in record.body.items() if key != "elapsed"}
    done = body["trouble"] is None
    return {
        "number": trial.number,
        **body,
        "cost": _finite(cost(body, seeking.by)) if done else None,
        "missed": _finite(missed(body, seeking.search.aims)) if done else None,
        "named": trial.number == named.number,
    }


def _mark_front(bodies: Sequence[dict[str, Any]], seeking: Seeking) -> None:
    """Say of each trial whether no other is at least as good in cost, in what is aimed at and in accuracy."""
    told = [body for body in bodies if body["trouble"] is None and body["cost"] is not None]
    names = [name for name in seeking.axes if name != seeking.by]
    table = np.array(
        [
            [
                body["cost"],
                *(body[name] if body[name] is not None else np.inf for name in names),
                -body["accuracy_change"],
            ]
            for body in told
        ]
    ).reshape(len(told), len(names) + 2)
    best = {body["number"] for body, front in zip(told, fronts(table).tolist(), strict=True) if front == 0}
    for body in bodies:
        body["on_front"] = body["number"] in best


def _front_table(bodies: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row a trial, without what is a table itself."""
    rows = [{key: value for key, value in body.items() if not isinstance(value, dict)} for body in bodies]
    return pd.DataFrame(rows)


def _summary(seeking: Seeking, bodies: list[dict[str, Any]], named: Named, state: State) -> dict[str, Any]:
    """The figures that every reader starts from."""
    ledger = seeking.ledger
    started, test = ledger.records[0].body, ledger.find("judged", "test")
    rungs = [
        {"name": record.step, "considered": record.body["considered"], "kept": len(record.body["kept"]),
         "agreement": record.body.get("agreement")}
        for record in ledger.of_kind("ranked")
    ]  # fmt: skip
    priced, end = ledger.find("ranked", "priced"), ledger.find("named", "end")
    assert priced is not None and end is not None, "a search is summed up when a point was named"
    rungs.append(
        {"name": "trials", "considered": len(bodies), "kept": int(named.number is not None),
         "agreement": end.body["agreement"]}
    )  # fmt: skip
    return {
        "state": state,
        "named": named.number,
        "why": named.why,
        "by": seeking.by,
        "aims": seeking.search.aims,
        "target": None if seeking.job.target is None else seeking.job.target.words,
        "identity": started["identity"],
        "settings": started["settings"],
        "model": started["model"],
        "splits": started["splits"],
        "priced_rows": priced.body["rows"],
        "refused": priced.body["refused"],
        "left_out": started["space"]["left_out"],
        "rungs": rungs,
        "trials": bodies,
        "test": None if test is None else test.body,
        "seconds": max(float(record.body.get("elapsed", 0.0)) for record in ledger),
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
