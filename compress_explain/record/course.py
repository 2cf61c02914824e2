"""The course of a run: after every step how much is gone, what was expected of it, what was observed.

And from that, up to how many FLOPs removed an expectation could be relied on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from compress_explain.record.ledger import Ledger, Record

TOLERANCE = 0.25  # of the observed loss change
TINY = 0.005  # nats: half a percent of the probability of the right label


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step that was carried out.

    ``flops_removed`` is the share of the layer FLOPs that is gone when it is done, in [0, 1].
    ``expected`` and ``observed`` hold a :class:`~compress_explain.pricing.Joint` each; ``observed``
    is None for a trial of which only the gates were asked. ``compensated`` is one more: what
    refitting the rest then changed.
    """

    step: str
    author: str
    action: str
    counts: dict[str, int]
    flops_removed: float
    reverted: bool
    expected: dict[str, Any] = field(repr=False)
    observed: dict[str, Any] | None = field(repr=False)
    compensated: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def error(self) -> float | None:
        """Expected less observed loss change, nats; None where one of them is missing or not finite."""
        if self.observed is None:
            return None
        error = self.expected["loss_change"] - self.observed["loss_change"]
        return float(error) if np.isfinite(error) else None

    @property
    def ratio(self) -> float | None:
        """Expected over observed loss change; None where the latter is too small to divide by."""
        if self.error is None or self.observed is None or abs(self.observed["loss_change"]) < TINY:
            return None
        return float(self.expected["loss_change"] / self.observed["loss_change"])

    @property
    def held(self) -> bool | None:
        """Whether the expectation was within :data:`TOLERANCE` of the observation, or within :data:`TINY` nats."""
        if self.error is None or self.observed is None:
            return None
        return abs(self.error) <= max(TOLERANCE * abs(self.observed["loss_change"]), TINY)


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How far expectations held: over the removal steps in order, the last good and the first bad one."""

    removals: tuple[Stage, ...]
    first_bad: Stage | None
    last_good: Stage | None

    @property
    def held(self) -> int:
        """How many removal steps were foretold well."""
        return sum(bool(stage.held) for stage in self.removals)

    @property
    def good_again(self) -> int:
        """How many were, after the first that was not."""
        after = self.removals[self.removals.index(self.first_bad) + 1 :] if self.first_bad else ()
        return sum(bool(stage.held) for stage in after)

    def facts(self) -> dict[str, Any]:
        """As plain values, for ``run.json``."""
        return {
            "tolerance": TOLERANCE,
            "tiny": TINY,
            "held": self.held,
            "of": len(self.removals),
            "flops_removed_while_it_held": self.last_good.flops_removed if self.last_good else None,
            "first_bad_step": self.first_bad.step if self.first_bad else None,
        }


def course(ledger: Ledger, flops: int) -> list[Stage]:
    """Every step in order; ``flops`` are the layer FLOPs of the original."""
    stages, gone = [], 0
    for applied in ledger.of_kind("applied"):
        planned = ledger.find("planned", applied.step)
        assert planned is not None, "a plan is recorded before it is applied"
        after = gone + int(planned.body["flops_saved"])
        stages.append(_stage(ledger, applied, planned.body, after / max(1, flops)))
        gone = gone if stages[-1].reverted else after
    return stages


def trust(stages: Sequence[Stage]) -> Trust:
    """Where the expectations of removals stopped being within the tolerance."""
    removals = tuple(stage for stage in stages if stage.action == "remove" and stage.held is not None)
    bad = next((index for index, stage in enumerate(removals) if not stage.held), None)
    good = removals[:bad]
    return Trust(
        removals=removals,
        first_bad=None if bad is None else removals[bad],
        last_good=good[-1] if good else None,
    )


def stage_facts(stage: Stage) -> dict[str, Any]:
    """A stage as plain values."""
    return asdict(stage) | {"within_tolerance": stage.held}


def _stage(ledger: Ledger, applied: Record, plan: dict[str, Any], flops_removed: float) -> Stage:
    observed, compensated = ledger.find("observed", applied.step), ledger.find("compensated", applied.step)
    return Stage(
        step=applied.step,
        author=plan["author"],
        action=plan["action"],
        counts=plan["counts"],
        flops_removed=flops_removed,
        reverted=ledger.find("reverted", applied.step) is not None,
        expected=applied.body["expected"],
        observed=observed.body["observed"] if observed else None,
        compensated=compensated.body["observed"] if compensated else None,
    )
