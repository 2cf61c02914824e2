"""One progress for what takes several passes over the same rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from compress_explain.progress import Advance


@dataclass(kw_only=True)
class Pace:
    """Told of the rows of each of so many ``passes``, it tells ``advance`` of each row once.

    >>> told = []
    >>> pace = Pace(advance=told.append, passes=2, rows=4)
    >>> for rows in (3, 1, 3):
    ...     pace(rows)
    >>> pace.done()
    >>> told, sum(told)
    ([1, 1, 1, 1], 4)
    """

    advance: Advance = field(repr=False)
    passes: int
    rows: int
    seen: int = 0

    def __call__(self, rows: int) -> None:
        before = self.seen // self.passes
        self.seen += rows
        self.advance(self.seen // self.passes - before)

    def done(self) -> None:
        """All passes are over, also those that were left out."""
        self(self.rows * self.passes - self.seen)
