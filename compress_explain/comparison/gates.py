"""Gates: declared margins on scores, and their three-valued verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from compress_explain.comparison.discovery import DISCOVERED_FLIPS, DISCOVERED_SLICES
from compress_explain.comparison.gaps import ACCURACY_GAP, columns_of
from compress_explain.comparison.scores import Score
from compress_explain.data.examples import ALL
from compress_explain.errors import InputError, did_you_mean

State = Literal["pass", "fail", "inconclusive"]
Rule = Literal["non-inferiority", "equivalence", "point"]
Undecided = Literal["hold", "fail", "warn"]
Against = Literal["original", "champion"]
LIMITS = ("max_drop", "max_rise", "max_change", "min", "max")
EVERY = "*"  # every declared slice
_OWN_SLICES = (ACCURACY_GAP, DISCOVERED_FLIPS)  # told of columns, and of slices that nobody declared
_ROUNDING = 1e-12  # what differences of shares are off by, and more


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One margin on one metric, overall or per slice.

    Exactly one limit is given: ``max_drop`` and ``max_rise`` bound compressed minus original, ``max_change``
    bounds that on both sides, ``min`` and ``max`` bound the compressed model's own value. Under ``non-inferiority`` the
    whole interval must clear the limit to pass, and to fail; so it must under ``equivalence``, the rule of
    ``max_change``, on both sides (two one-sided tests, Schuirmann 1987); under ``point`` the estimate alone decides.

    ``against`` the champion, the difference is the one to the model that is released now, so that small losses do not add up
    unseen from release to release. ``on_inconclusive`` says what becomes of a verdict that the rows cannot settle: it
    holds the release up, fails, or only warns.
    """

    metric: str
    slice: str = ALL
    max_drop: float | None = None
    max_rise: float | None = None
    max_change: float | None = None
    min: float | None = None
    max: float | None = None
    rule: Rule | None = None
    against: Against = "original"
    on_inconclusive: Undecided = "hold"

    def __post_init__(self) -> None:
        where = f"gates: {self.metric} on {self.slice}"
        given = [name for name in LIMITS if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(where, given, "a gate has exactly one limit", f"give one of {', '.join(LIMITS)}")
        value = getattr(self, given[0])
        if not math.isfinite(value) or (given[0] in ("max_drop", "max_rise", "max_change") and value < 0):
            raise InputError(
                where, value, f"{given[0]} must be finite and not negative",
                "write the largest change that you accept, for example 0.01",
            )  # fmt: skip
        both = self.max_change is not None
        rule: Rule = self.rule or ("equivalence" if both else "non-inferiority")
        if (rule == "equivalence") != both and not (both and rule == "point"):
            remedy = "write max_change with the rule equivalence, and the other limits with non-inferiority or point"
            raise InputError(where, rule, f"not a rule for {given[0]}", remedy)
        object.__setattr__(self, "rule", rule)  # what it stands for when it is not given
        if self.against == "champion" and not self.relative:
            remedy = "give max_drop, max_rise or max_change, or leave out: against"
            raise InputError(where, given[0], "is about the model's own value, not about a difference", remedy)

    @property
    def limit(self) -> float:
        """The bound in the units of the judged quantity: a difference, or the value itself; of two, the upper."""
        if self.max_drop is not None:
            return -self.max_drop
        return next(value for value in (self.max_rise, self.max_change, self.min, self.max) if value is not None)

    @property
    def bounded_below(self) -> bool:
        return self.max_drop is not None or self.min is not None

    @property
    def relative(self) -> bool:
        """Whether the difference to the original is judged rather than the value itself."""
        return self.max_drop is not None or self.max_rise is not None or self.max_change is not None

    @property
    def rule_text(self) -> str:
        """The gate in words: ``accuracy drops by at most 0.02``."""
        against = " against the champion" if self.against == "champion" else ""
        if self.max_drop is not None:
            return f"{self.metric} drops by at most {self.max_drop:g}{against}"
        if self.max_rise is not None:
            return f"{self.metric} rises by at most {self.max_rise:g}{against}"
        if self.max_change is not None:
            return f"{self.metric} changes by at most {self.max_change:g} either way{against}"
        return f"{self.metric} is at {'least' if self.min is not None else 'most'} {self.limit:g}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a gate says of one slice.

    ``slack`` is the distance from the judged bound to the limit, positive when the gate is met;
    ``estimate``, ``low`` and ``high`` are of the judged quantity. ``n_needed`` is how many
    examples would settle an inconclusive gate if the estimate stays as it is. ``waiver`` is who took it upon
    himself that the gate does not hold, why and until when; see :mod:`compress_explain.comparison.waivers`.
    """

    gate: Gate
    slice: str
    state: State
    estimate: float
    low: float
    high: float
    slack: float
    n: int
    n_needed: int | None
    message: str
    waiver: dict[str, Any] | None = None

    @property
    def counts_as(self) -> State:
        """What it means for the release: its state, but for a waiver and what the gate says of inconclusive ones."""
        if self.waiver is not None or (self.state == "inconclusive" and self.gate.on_inconclusive == "warn"):
            return "pass"
        return "fail" if self.state == "inconclusive" and self.gate.on_inconclusive == "fail" else self.state

    def row(self) -> dict[str, Any]:
        """As plain values; what is not a finite number is None."""
        row = {
            "metric": self.gate.metric, "slice": self.slice, "gate": self.gate.rule_text, "rule": self.gate.rule,
            "limit": self.gate.limit, "state": self.state, "estimate": self.estimate, "low": self.low,
            "high": self.high, "slack": self.slack, "n": self.n, "n_needed": self.n_needed,
            "message": self.message, "against": self.gate.against, "counts_as": self.counts_as, "waiver": self.waiver,
        }  # fmt: skip
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }


def judge(gates: Sequence[Gate], scores: Iterable[Score], champion: Iterable[Score] = ()) -> list[Verdict]:
    """One verdict a gate and slice. A missing or non-finite score never passes.

    The scores of the ``champion`` are those of the compressed model beside it, for gates against it.
    """
    tables = {
        side: {(score.metric, score.slice): score for score in told}
        for side, told in (("original", scores), ("champion", champion))
    }
    verdicts = []
    for gate in gates:
        table = tables[gate.against]
        for slice_name in _every(gate, table) if gate.slice == EVERY else [gate.slice]:
            verdicts.append(_judge_one(gate, slice_name, table.get((gate.metric, slice_name))))
    return verdicts


def _every(gate: Gate, table: Iterable[tuple[str, str]]) -> list[str]:
    """The declared slices, whether the gate's metric was told of them or not; of a metric with slices of its own, those."""
    own = gate.metric in _OWN_SLICES
    told = (name for metric, name in table if (metric == gate.metric if own else metric not in _OWN_SLICES))
    return [name for name in dict.fromkeys(told) if name != ALL] or [EVERY]


def overall(verdicts: Sequence[Verdict]) -> State:
    """``fail`` if any gate failed, else ``inconclusive`` if any is, else ``pass``; waived ones do not count."""
    states = {verdict.counts_as for verdict in verdicts}
    for state in ("fail", "inconclusive"):
        if state in states:
            return state  # type: ignore[return-value]
    return "pass"


def check_gates(
    gates: Sequence[Gate], metrics: Iterable[str], slices: Sequence[str], columns: Iterable[str] | None = None
) -> None:
    """Refuse gates that no run could satisfy or that contradict each other.

    ``columns`` are what a ``*`` in a metric stands for; by default those that the slices are of.

    Raises:
        InputError: an unknown metric or slice, the same limit twice, or min above max.
    """
    known = list(named_after(metrics, slices if columns is None else columns))
    for gate in gates:
        if gate.metric not in known:
            raise InputError("gates: metric", gate.metric, "no evaluator gives this", did_you_mean(gate.metric, known))
        known_slices = _judged_on(gate, slices)
        if gate.slice not in known_slices:
            raise InputError(
                "gates: slice", gate.slice, "no row is in such a slice", did_you_mean(gate.slice, known_slices)
            )
        if gate.slice == EVERY and not slices:
            raise InputError("gates: slice", EVERY, "no slices are declared", "declare slices or use slice: all")
    for index, first in enumerate(gates):
        for second in gates[index + 1 :]:
            _check_pair(first, second)


def named_after(metrics: Iterable[str], slices: Iterable[str]) -> Iterator[str]:
    """The metrics, and in the place of those with a ``*`` one for every column of slices and every slice that stands alone.

    >>> list(named_after(["accuracy", "signals.attribute.*.retention"], ["negation", "length=q1", "length=q2"]))
    ['accuracy', 'signals.attribute.negation.retention', 'signals.attribute.length.retention']
    """
    columns = tuple(dict.fromkeys(name.partition("=")[0] for name in slices))
    for metric in metrics:
        yield from (metric.replace("*", column) for column in (columns if "*" in metric else ("",)))


def is_one_of(metric: str, metrics: Iterable[str]) -> bool:
    """Whether a metric is among others, of which those with a ``*`` stand for many."""
    return any(fnmatchcase(metric, each) for each in metrics)


def _judged_on(gate: Gate, slices: Sequence[str]) -> list[str]:
    """Where there is a figure of a gate's metric: on declared slices; gaps are between those of a column.

    Raises:
        InputError: the metric is told of slices that are not known before it is.
    """
    if gate.metric == DISCOVERED_FLIPS:
        problem = "the slices that it is told of are found anew each time"
        raise InputError("gates: metric", gate.metric, problem, f"gate {DISCOVERED_SLICES}, how many there are")
    if gate.metric == DISCOVERED_SLICES:
        return [ALL]
    if gate.metric == ACCURACY_GAP:
        return [EVERY, *columns_of(slices), *(name for name in slices if name.endswith("=*"))]
    return [ALL, EVERY, *slices]


def _check_pair(first: Gate, second: Gate) -> None:
    if (first.metric, first.slice, first.against) != (second.metric, second.slice, second.against):
        return
    where = f"gates: {first.metric} on {first.slice}"
    for name in LIMITS:
        values = [getattr(gate, name) for gate in (first, second)]
        if None not in values:
            raise InputError(where, values, f"{name} is given twice", "keep one of the two")
    low = first.min if first.min is not None else second.min
    high = first.max if first.max is not None else second.max
    if low is not None and high is not None and low > high:
        raise InputError(where, [low, high], "min lies above max, so no model can pass", "swap or widen the limits")


def _judge_one(gate: Gate, slice_name: str, score: Score | None) -> Verdict:
    if score is None:
        return _unjudged(gate, slice_name, "no such score was computed")
    estimate, low, high = (
        (score.difference, score.low, score.high)
        if gate.relative
        else (score.compressed, score.compressed_low, score.compressed_high)
    )
    if not all(math.isfinite(value) for value in (estimate, low, high)):
        return _unjudged(gate, slice_name, "the score is not a finite number", score.n)
    at_estimate, at_worst, at_best = _rooms(gate, estimate, low, high)
    state: State
    if gate.rule == "point":
        slack, state = at_estimate, "pass" if at_estimate >= 0 else "fail"
    else:
        slack = at_worst
        state = "pass" if at_worst >= 0 else "fail" if at_best < 0 else "inconclusive"
    if score.doubt:
        return _doubted(gate, score, estimate, low, high)
    width = at_estimate - at_worst if at_estimate > 0 else at_best - at_estimate  # of the side towards the limit
    needed = _examples_needed(at_estimate, width, score.n) if state == "inconclusive" else None
    return Verdict(
        gate=gate,
        slice=slice_name,
        state=state,
        estimate=estimate,
        low=low,
        high=high,
        slack=slack,
        n=score.n,
        n_needed=needed,
        message=_message(gate, score, state, needed, at_estimate),
    )


def _rooms(gate: Gate, estimate: float, low: float, high: float) -> tuple[float, float, float]:
    """How far inside the limit the estimate lies, and the worst and the best value of the interval."""
    if gate.max_change is not None:
        nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
        farthest = max(abs(low), abs(high))
        at = [gate.max_change - size for size in (abs(estimate), farthest, nearest)]
    else:
        sign = 1.0 if gate.bounded_below else -1.0
        worst, best = (low, high) if gate.bounded_below else (high, low)
        at = [sign * (value - gate.limit) for value in (estimate, worst, best)]
    at_estimate, at_worst, at_best = map(_room, at)
    return at_estimate, at_worst, at_best


def _room(distance: float) -> float:
    """The distance from a limit; 0 where it is none but for rounding, as of .90 from .91 at .01."""
    return 0.0 if abs(distance) < _ROUNDING else distance


def _unjudged(gate: Gate, slice_name: str, why: str, n: int = 0) -> Verdict:
    nan = math.nan
    return Verdict(
        gate=gate, slice=slice_name, state="fail", estimate=nan, low=nan, high=nan, slack=-math.inf, n=n,
        n_needed=None, message=f"{gate.rule_text}: {why}",
    )  # fmt: skip


def _doubted(gate: Gate, score: Score, estimate: float, low: float, high: float) -> Verdict:
    return Verdict(
        gate=gate, slice=score.slice, state="inconclusive", estimate=estimate, low=low, high=high, slack=0.0, n=score.n,
        n_needed=None, message=f"{gate.rule_text}: no verdict, {score.doubt}",
    )  # fmt: skip


def _examples_needed(at_estimate: float, half_width: float, n: int) -> int | None:
    """Intervals shrink with the root of n: how many rows until this one clears the limit."""
    if abs(at_estimate) < half_width / 1000:  # a million times as many: the estimate lies on the limit
        return None
    return math.ceil(n * (half_width / at_estimate) ** 2)


def _message(gate: Gate, score: Score, state: State, needed: int | None, at_estimate: float) -> str:
    change = f"{score.metric} {score.original:.4f} → {score.compressed:.4f}" if gate.relative else (
        f"{score.metric} {score.compressed:.4f}"
    )  # fmt: skip
    text = f"{change} on {score.slice} (n = {score.n}); the gate: {gate.rule_text}"
    if state == "inconclusive":
        settle = "pass" if at_estimate > 0 else "fail"
        text += (
            f"; {score.n} examples cannot tell, about {needed:,} would settle it as a {settle}"
            if needed
            else f"; the estimate lies on the limit, {score.n} examples cannot tell"
        )
    return text
