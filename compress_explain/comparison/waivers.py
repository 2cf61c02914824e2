"""Waivers: somebody takes it upon himself that a gate does not hold, says why, and until when."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any

from compress_explain.comparison.gates import EVERY, Verdict
from compress_explain.data.examples import ALL
from compress_explain.errors import InputError

_LONGEST = 366  # days


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """One gate, or all gates of a metric with the slice ``*``, that need not hold; ``until`` is the last day, as 2027-01-31.

    The verdict stays what it is and is shown; it only does not count until then. At most a year.
    """

    metric: str
    slice: str = ALL
    who: str
    why: str
    until: str

    def __post_init__(self) -> None:
        where = f"waivers: {self.metric} on {self.slice}"
        for name, value in (("who", self.who), ("why", self.why)):
            if not value.strip():
                raise InputError(where, value, f"{name} is empty", "say who takes the responsibility, and why")
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", self.until):
            raise InputError(where, self.until, "not a date", "write the last day as 2027-01-31")
        try:
            date.fromisoformat(self.until)
        except ValueError:
            raise InputError(where, self.until, "there is no such day", "write the last day as 2027-01-31") from None

    @property
    def last_day(self) -> date:
        return date.fromisoformat(self.until)

    def covers(self, verdict: Verdict) -> bool:
        """Whether it is about this gate."""
        return self.metric == verdict.gate.metric and self.slice in (EVERY, verdict.slice)

    def holds_on(self, day: date) -> bool:
        """Whether it counts on ``day``."""
        return day <= self.last_day

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def check_waivers(waivers: Sequence[Waiver], today: date) -> None:
    """Refuse what no one can mean: a waiver that has ended before it is given, or one without an end in sight.

    Raises:
        InputError: it lies in the past, or more than a year ahead.
    """
    for waiver in waivers:
        where = f"waivers: {waiver.metric} on {waiver.slice}"
        if (waiver.last_day - today).days > _LONGEST:
            raise InputError(where, waiver.until, "more than a year ahead", "give an earlier day, and look again then")


def waived(verdicts: Iterable[Verdict], waivers: Sequence[Waiver], day: date) -> list[Verdict]:
    """The verdicts with the waiver that covers each, if it counts on ``day``; one that has ended is told in the message."""
    return [_waived(verdict, waivers, day) for verdict in verdicts]


def _waived(verdict: Verdict, waivers: Sequence[Waiver], day: date) -> Verdict:
    covering = [waiver for waiver in waivers if verdict.state != "pass" and waiver.covers(verdict)]
    if not covering:
        return verdict
    longest = max(covering, key=lambda waiver: waiver.last_day)
    if longest.holds_on(day):
        words = f"waived by {longest.who} until {longest.until}: {longest.why}"
        return replace(verdict, waiver=longest.facts(), message=f"{verdict.message}; {words}")
    return replace(verdict, message=f"{verdict.message}; the waiver by {longest.who} ended on {longest.until}")
