"""Gates: declared margins on scores, and their three-valued verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compress_explain.comparison.scores import Score
from compress_explain.data.examples import ALL
from compress_explain.errors import InputError, did_you_mean

State = Literal["pass", "fail", "inconclusive"]
Rule = Literal["non-inferiority", "point"]
EVERY = "*"  # every declared slice
_ROUNDING = 1e-12  # what differences of shares are off by, and more


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One margin on one metric, overall or per slice.

    Exactly one limit is given: ``max_drop`` and ``max_rise`` bound compressed minus original,
    ``min`` and ``max`` bound the compressed model's own value. Under ``non-inferiority`` the whole
    interval must clear the limit to pass, and to fail; under ``point`` the estimate alone decides.
    """

    metric: str
    slice: str = ALL
    max_drop: float | None = None
    max_rise: float | None = None
    min: float | None = None
    max: float | None = None
    rule: Rule = "non-inferiority"

    def __post_init__(self) -> None:
        given = [name for name in ("max_drop", "max_rise", "min", "max") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                f"gates: {self.metric} on {self.slice}",
                given,
                "a gate has exactly one limit",
                "give one of max_drop, max_rise, min, max",
            )
        value = getattr(self, given[0])
        if not math.isfinite(value) or (given[0] in ("max_drop", "max_rise") and value < 0):
            raise InputError(
                f"gates: {self.metric} on {self.slice}",
                value,
                f"{given[0]} must be finite and not negative",
                "write the largest change that you accept, for example 0.01",
            )

    @property
    def limit(self) -> float:
        """The bound in the units of the judged quantity: a difference, or the value itself."""
        if self.max_drop is not None:
            return -self.max_drop
        return next(value for value in (self.max_rise, self.min, self.max) if value is not None)

    @property
    def bounded_below(self) -> bool:
        return self.max_drop is not None or self.min is not None

    @property
    def relative(self) -> bool:
        """Whether the difference to the original is judged rather than the value itself."""
        return self.max_drop is not None or self.max_rise is not None

    @property
    def rule_text(self) -> str:
        """The gate in words: ``accuracy drops by at most 0.02``."""
        if self.max_drop is not None:
            return f"{self.metric} drops by at most {self.max_drop:g}"
        if self.max_rise is not None:
            return f"{self.metric} rises by at most {self.max_rise:g}"
        return f"{self.metric} is at {'least' if self.min is not None else 'most'} {self.limit:g}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a gate says of one slice.

    ``slack`` is the distance from the judged bound to the limit, positive when the gate is met;
    ``estimate``, ``low`` and ``high`` are of the judged quantity. ``n_needed`` is how many
    examples would settle an inconclusive gate if the estimate stays as it is.
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

    def row(self) -> dict[str, Any]:
        """As plain values; what is not a finite number is None."""
        row = {
            "metric": self.gate.metric, "slice": self.slice, "gate": self.gate.rule_text, "rule": self.gate.rule,
            "limit": self.gate.limit, "state": self.state, "estimate": self.estimate, "low": self.low,
            "high": self.high, "slack": self.slack, "n": self.n, "n_needed": self.n_needed,
            "message": self.message,
        }  # fmt: skip
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }


def judge(gates: Sequence[Gate], scores: Iterable[Score]) -> list[Verdict]:
    """One verdict a gate and slice. A missing or non-finite score never passes."""
    table = {(score.metric, score.slice): score for score in scores}
    slices = list(dict.fromkeys(slice_name for _, slice_name in table if slice_name != ALL)) or [EVERY]
    verdicts = []
    for gate in gates:
        for slice_name in slices if gate.slice == EVERY else [gate.slice]:
            verdicts.append(_judge_one(gate, slice_name, table.get((gate.metric, slice_name))))
    return verdicts


def overall(verdicts: Sequence[Verdict]) -> State:
    """``fail`` if any gate failed, else ``inconclusive`` if any is, else ``pass``."""
    states = {verdict.state for verdict in verdicts}
    for state in ("fail", "inconclusive"):
        if state in states:
            return state  # type: ignore[return-value]
    return "pass"


def check_gates(gates: Sequence[Gate], metrics: Iterable[str], slices: Sequence[str]) -> None:
    """Refuse gates that no run could satisfy or that contradict each other.

    Raises:
        InputError: an unknown metric or slice, the same limit twice, or min above max.
    """
    known = list(metrics)
    for gate in gates:
        if gate.metric not in known:
            raise InputError("gates: metric", gate.metric, "no evaluator gives this", did_you_mean(gate.metric, known))
        if gate.slice not in (ALL, EVERY, *slices):
            raise InputError(
                "gates: slice", gate.slice, "no row is in such a slice", did_you_mean(gate.slice, [ALL, EVERY, *slices])
            )
        if gate.slice == EVERY and not slices:
            raise InputError("gates: slice", EVERY, "no slices are declared", "declare slices or use slice: all")
    for index, first in enumerate(gates):
        for second in gates[index + 1 :]:
            _check_pair(first, second)


def _check_pair(first: Gate, second: Gate) -> None:
    if (first.metric, first.slice) != (second.metric, second.slice):
        return
    where = f"gates: {first.metric} on {first.slice}"
    for name in ("max_drop", "max_rise", "min", "max"):
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
    sign = 1.0 if gate.bounded_below else -1.0
    worst, best = (low, high) if gate.bounded_below else (high, low)
    at_estimate, at_worst, at_best = (_room(sign * (value - gate.limit)) for value in (estimate, worst, best))
    state: State
    if gate.rule == "point":
        slack, state = at_estimate, "pass" if at_estimate >= 0 else "fail"
    else:
        slack = at_worst
        state = "pass" if at_worst >= 0 else "fail" if at_best < 0 else "inconclusive"
    if score.doubt and state != "inconclusive":
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
