"""How fast the deployed model is to be on this machine, and whether it then was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress_explain.choosing.budget import Budget
from compress_explain.choosing.latency_table import LatencyTable
from compress_explain.errors import InputError

if TYPE_CHECKING:
    from compress_explain.plugins.strategy import Strategy


@dataclass(frozen=True, kw_only=True)
class Target:
    """At least ``speedup`` times as fast as the original, or a median of at most ``latency_p50_ms`` milliseconds.

    That is for ``batch`` examples of ``tokens`` tokens at once (None: what most rows of calibration
    stay below), on as many threads as torch has. The original is measured in the float32 form of
    the runtime that is deployed. A missed target is told; only gates fail a run.
    """

    speedup: float | None = None
    latency_p50_ms: float | None = None
    batch: int = 1
    tokens: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name in ("speedup", "latency_p50_ms") if (value := getattr(self, name)) is not None}
        if len(given) != 1:
            raise InputError("target", given, "exactly one aim is needed", "give speedup or latency_p50_ms")
        if self.speedup is not None and not 1 < self.speedup <= 1000:
            raise InputError("target.speedup", self.speedup, "lies outside (1, 1000]", "give times, such as 3")
        if self.latency_p50_ms is not None and not 0 < self.latency_p50_ms <= 1e6:
            raise InputError(
                "target.latency_p50_ms",
                self.latency_p50_ms,
                "lies outside (0, 1000000]",
                "give milliseconds, such as 5",
            )
        if self.batch < 1:
            raise InputError("target.batch", self.batch, "nothing would be measured", "give at least 1")
        if self.tokens is not None and self.tokens < 2:
            raise InputError("target.tokens", self.tokens, "no text is that short", "give at least 2")

    def milliseconds(self, table: LatencyTable) -> float:
        """What the deployed model may take, by the table's measure of the original."""
        if self.speedup is not None:
            return table.original.median / self.speedup
        assert self.latency_p50_ms is not None, "exactly one aim is given"
        return self.latency_p50_ms

    @property
    def words(self) -> str:
        """
        >>> Target(speedup=3).words, Target(latency_p50_ms=5, batch=8).words
        ('3 times as fast as the original', 'at most 5 ms')
        """
        if self.speedup is not None:
            return f"{self.speedup:g} times as fast as the original"
        return f"at most {self.latency_p50_ms:g} ms"


def check_open(strategies: Sequence[Strategy], target: Target | None) -> None:
    """Raises InputError when a strategy leaves its budget to a target that there is not, or none can be foretold with it."""
    for strategy in strategies:
        if target is not None and getattr(strategy, "ranges", None) is not None:
            name = type(strategy).__name__.lower()
            raise InputError(
                f"strategies: {name}", target.words, "a file that depends on what enters linears cannot be timed before that is found",
                "quantize with int8_dynamic, which is as fast, or leave target out",
            )  # fmt: skip
        budget = getattr(strategy, "budget", None)
        if target is None and isinstance(budget, Budget) and budget.left_to_target:
            name = type(strategy).__name__.lower()
            raise InputError(
                f"strategies: {name}", {}, "no budget, and no target to buy for",
                "give flops_kept, parameters_kept or bytes_kept; or the key target, with speedup or latency_p50_ms",
            )  # fmt: skip


def outcome(target: Target, body: dict[str, Any]) -> dict[str, Any]:
    """What was measured beside what was aimed at: ``met``, and by which share it ``missed`` (0 when it was met)."""
    speedup, took = body["speedup"], body["deployed"]["median"]
    if target.speedup is not None:
        missed = max(0.0, 1 - speedup / target.speedup)
    else:
        assert target.latency_p50_ms is not None, "exactly one aim is given"
        missed = max(0.0, took / target.latency_p50_ms - 1)
    return {"aim": target.words, "met": missed == 0.0, "missed": missed}


def told(body: dict[str, Any]) -> str:
    """A target in one sentence, with exactly what was measured against what."""
    if body["met"] is None:
        return f"target not measured: {body['aim']} was wanted, but no artifact was written"
    verdict = "met" if body["met"] else f"missed by {body['missed']:.1%}"
    low, high = body["speedup_interval"]
    return (
        f"target {verdict}: {body['aim']} was wanted; {body['deployed']['median']:.3g} ms against "
        f"{body['original']['median']:.3g} ms, {body['speedup']:.2f} times as fast (95%: {low:.2f} to {high:.2f}); {body['predicted']:.3g} ms were foretold. "
        f"Medians of {body['rounds']} calls in turn of the deployed file ({body['runtime']}) and the original "
        f"({body['reference']}), {body['batch']} x {body['tokens']} tokens, {threads_in_words(body['threads'])} "
        f"({body['clock']}), {body['processor']}"
    )


def threads_in_words(threads: int) -> str:
    """
    >>> threads_in_words(1), threads_in_words(8)
    ('1 thread', '8 threads')
    """
    return f"{threads} thread{'s' * (threads != 1)}"
