"""Figures as they are told: Markdown tables for a reader, JSON for whatever reads them next, bars beside both."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers

from compress_explain.model.loading import quieten

Row = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """What a figure was said to reach before it was measured."""

    limit: float
    at_least: bool = True

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:,g}"

    def judge(self, figure: float) -> Row:
        """The columns beside ``figure``; one that is not a number misses every bar."""
        met = figure >= self.limit if self.at_least else figure <= self.limit
        return {"bar": str(self), "met": "yes" if met else "**no**"}


def beside(figure: float, bar: Bar | None) -> Row:
    """The columns ``bar`` and ``met``, empty where there is no bar."""
    return {"bar": "", "met": ""} if bar is None else bar.judge(figure)


@dataclass(kw_only=True)
class Report:
    """All tables of one run: each is printed when it is added, and the file is written anew."""

    path: Path | None = None
    tables: dict[str, list[Row]] = field(default_factory=dict)

    def add(self, title: str, rows: list[Row]) -> None:
        """Append ``rows`` to the table called ``title``."""
        if not rows:
            return
        self.tables.setdefault(title, []).extend(rows)
        print(f"\n{title}\n\n{markdown(rows)}", flush=True)
        if self.path is not None:
            document = {"setup": setup(), "tables": self.tables}
            self.path.write_text(json.dumps(document, indent=1, default=float) + "\n")


def begin(path: Path | None, threads: int | None, about: Row | None = None) -> Report:
    """Set the threads that torch computes with, keep libraries quiet, and print ``about`` and where this runs."""
    quieten()
    if threads:
        torch.set_num_threads(threads)
    print(", ".join(f"{name} {value}" for name, value in (setup() | (about or {})).items()), flush=True)
    return Report(path=path)


def setup() -> Row:
    """Where and with what a run was made."""
    return {
        "date": date.today().isoformat(),
        "command": " ".join(sys.argv),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def markdown(rows: list[Row]) -> str:
    """A table of the columns of the first row.

    >>> print(markdown([{"what": "heads", "times": 2.125}]))
    | what | times |
    |---|---|
    | heads | 2.12 |
    """
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([told(row[column]) for column in columns] for row in rows)]
    return "\n".join(
        f"| {' | '.join(line)} |" if index != 1 else f"|{'|'.join(line)}|" for index, line in enumerate(lines)
    )


def told(value: Any) -> str:
    """A value as a person would write it.

    >>> [told(value) for value in (1234.5, 12.34, 0.98765, 0.000012, float("nan"), None, 872, "heads")]
    ['1,234', '12.3', '0.988', '1.2e-05', '–', '–', '872', 'heads']
    """
    if value is None or value != value:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if 0 < size < 5e-4:
        return f"{value:.1e}"
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"
