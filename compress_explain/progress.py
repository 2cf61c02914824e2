"""Telling a person how far a long step is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

Advance = Callable[[int], None]


class Progress:
    """Where a run says what it is doing. ``quiet`` says nothing at all."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.quiet = quiet

    def say(self, text: str) -> None:
        """One line about a decision or a result."""
        if not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Advance]:
        """A step of ``total`` rows; the body calls what it is given with the rows it has done."""
        if self.quiet:
            yield lambda rows: None
        elif self.console.is_terminal:
            yield from self._bar(label, total)
        else:
            yield from self._lines(label, total)

    def _bar(self, label: str, total: int) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description:<44}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        with Bar(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda rows: bar.advance(task, rows)

    def _lines(self, label: str, total: int) -> Iterator[Advance]:
        """Quick steps stay silent; slow ones say every ten seconds how long they will still take."""
        started = told = time.monotonic()
        done = 0

        def advance(rows: int) -> None:
            nonlocal done, told
            done += rows
            now = time.monotonic()
            if now - told >= (2 if told == started else 10) and done < total:
                told = now
                left = (now - started) / max(done, 1) * (total - done)
                self.say(f"{label}: {done:,} of {total:,}, about {left:.0f} s left")

        yield advance
        if time.monotonic() - started > 2:
            self.say(f"{label}: done in {time.monotonic() - started:.1f} s")
