"""Whose doing it was: the change by step, layer and kind of edit, and which edits turned which answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from compress_explain.report.charts import DotPlot, Line, dot_plot, shortened
from compress_explain.report.flips import REDACTED
from compress_explain.report.numbers import count, share, signed
from compress_explain.running.attribution import CONFIDENCE, read_shares
from compress_explain.running.blame import read_blame

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run

_TURNED, _LETTERS = 12, 240
_HEADINGS = {"step": "Step", "layer": "Layer", "kind": "Kind of edit"}
_SPOKEN = {
    "interaction": "together only",
    "refitted": "refitting and tuning",
    "deployed": "the deployed form",
    "vocabulary": "fewer tokens",
    "total": "the whole change",
}


@dataclass(frozen=True, kw_only=True)
class ShareRow:
    """One line: each change with its interval, written out."""

    name: str
    accuracy: str
    nll: str
    whole: bool


@dataclass(frozen=True, kw_only=True)
class ShareTable:
    """What steps, layers or kinds of edit add; the lines add up to the last."""

    heading: str
    rows: tuple[ShareRow, ...]
    figure: DotPlot


@dataclass(frozen=True, kw_only=True)
class Turned:
    """One answer that went wrong, and the group of edits without which it would have gone least wrong."""

    row: int
    text: str
    group: str
    expected: float
    observed: float
    back: bool


@dataclass(frozen=True, kw_only=True)
class Turner:
    """One group of edits: how many turned answers undoing it alone would bring back."""

    group: str
    parts: int
    back: int
    mean: float


@dataclass(frozen=True, kw_only=True)
class Blamed:
    """Of ``turned`` answers, ``explained`` were looked into; ``rank_correlation`` says how well the price told what was seen."""

    turned: int
    explained: int
    back: int
    rank_correlation: float | None
    answers: tuple[Turned, ...]
    turners: tuple[Turner, ...]


@dataclass(frozen=True, kw_only=True)
class Attributed:
    """The section: a sentence, a table of each sort, and what was found out about turned answers."""

    sentence: str
    split: str
    n: int
    confidence: float
    tables: tuple[ShareTable, ...]
    blamed: Blamed | None


def attributed(run: Run, texts: dict[str, tuple[str, ...]] | None) -> Attributed | None:
    """None where a run attributed nothing; ``texts`` maps splits to their rows' texts, None shows none."""
    frame, record = read_shares(run.folder), run.ledger.find("attributed", "end")
    if frame is None or record is None:
        return None
    return Attributed(
        sentence=_sentence(frame),
        split=record.body["split"],
        n=int(frame["n"].iloc[0]),
        confidence=CONFIDENCE,
        tables=tuple(_table(by, frame[frame["by"] == by]) for by in _HEADINGS),
        blamed=_blamed(run, texts),
    )


def _sentence(frame: pd.DataFrame) -> str:
    """What the edits cost, whose is most of it, and what refitting gave back."""
    steps = frame[(frame["by"] == "step") & (frame["figure"] == "nll")].set_index("name")["change"]
    layers = frame[(frame["by"] == "layer") & (frame["figure"] == "nll") & ~frame["name"].isin(list(_SPOKEN))]
    cost = float(steps.drop(["vocabulary", "refitted", "deployed", "total"], errors="ignore").sum())
    worst = layers.loc[layers["change"].idxmax()]
    text = (
        f"The edits by themselves change the loss by {signed(cost)} nats; most of that would be missing without those in "
        f"{worst['name']} ({signed(worst['change'])})"
    )
    if "refitted" in steps:
        text += f", and refitting and tuning what is left then change it by {signed(float(steps['refitted']))}"
    return f"{text}. The whole change is {signed(float(steps['total']))} nats."


def _table(by: str, frame: pd.DataFrame) -> ShareTable:
    names = list(dict.fromkeys(frame["name"]))
    rows = {figure: frame[frame["figure"] == figure].set_index("name") for figure in ("accuracy", "nll")}
    lines: list[Line | None] = [
        Line(
            stretch=(rows["nll"].loc[name, "low"], rows["nll"].loc[name, "high"]),
            marks=(("dot", rows["nll"].loc[name, "change"]),),
            title=f"{_spoken(name)}: {_written(rows['nll'].loc[name])} nats",
        )
        for name in names
    ]
    heading = _HEADINGS[by]
    return ShareTable(
        heading=heading,
        rows=tuple(
            ShareRow(
                name=_spoken(name), accuracy=_written(rows["accuracy"].loc[name]), nll=_written(rows["nll"].loc[name]),
                whole=name == "total",
            )
            for name in names
        ),
        figure=dot_plot(
            f"share-{by}", f"Change of the loss by {heading.lower()}",
            "One line each: the dot is what it adds to the change of the loss, the stroke its interval, the tall line nothing.",
            [_spoken(name) for name in names], [("NLL change, nats (left is better)", lines)],
        ),
    )  # fmt: skip


def _spoken(name: str) -> str:
    return _SPOKEN.get(name, name)


def _written(row: pd.Series) -> str:
    return f"{signed(row['change'])} ({signed(row['low'])} to {signed(row['high'])})"


def _blamed(run: Run, texts: dict[str, tuple[str, ...]] | None) -> Blamed | None:
    frame, record = read_blame(run.folder), run.ledger.find("blamed", "end")
    if frame is None or record is None:
        return None
    shown = None if texts is None else texts.get(record.body["split"])
    most = frame.loc[frame.groupby("row")["observed"].idxmax()].sort_values("margin", kind="stable")
    grouped = frame.groupby("group", sort=False)
    turners = [
        Turner(group=str(name), parts=int(each["parts"].iloc[0]), back=int(each["back"].sum()),
               mean=float(each["observed"].mean()))
        for name, each in grouped
    ]  # fmt: skip
    return Blamed(
        turned=record.body["turned"],
        explained=record.body["explained"],
        back=int(frame.groupby("row")["back"].any().sum()),
        rank_correlation=record.body["rank_correlation"],
        answers=tuple(
            Turned(
                row=int(row["row"]),
                text=REDACTED if shown is None else shortened(shown[int(row["row"])], _LETTERS),
                group=str(row["group"]), expected=float(row["priced"]), observed=float(row["observed"]),
                back=bool(row["back"]),
            )
            for row in most.head(_TURNED).to_dict("records")
        ),
        turners=tuple(sorted(turners, key=lambda each: (-each.back, -each.mean))),
    )  # fmt: skip


def in_words(blamed: Blamed) -> str:
    """How much one group of edits explains, and how well that was foretold."""
    looked = (
        f"{count(blamed.explained)} of {count(blamed.turned)}"
        if blamed.explained < blamed.turned
        else count(blamed.turned)
    )
    text = (
        f"Of the right answers that went wrong, {looked} were looked into: undoing one group of edits alone brings "
        f"{count(blamed.back)} ({share(blamed.back / max(1, blamed.explained))}) of them back; the others fell to several groups together"
    )
    if blamed.rank_correlation is not None and np.isfinite(blamed.rank_correlation):
        text += (
            f". What undoing does was priced before it was tried: the ranks correlate at {blamed.rank_correlation:.2f}"
        )
    return f"{text}."
