"""A training that was looked at step by step, and what became of each signal in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from compress_explain.signals.probing.resampling import Estimate
from compress_explain.signals.training.forming import Course, course_of
from compress_explain.signals.training.observations import Kept
from compress_explain.signals.training.observing import PROBE, Observation
from compress_explain.signals.training.reaching import Reach, reach_of


@dataclass(frozen=True, kw_only=True)
class Followed:
    """All looks at one training in the order of their steps; ``courses`` and ``reaches`` are by signal, in the order in which they were asked."""

    name: str
    kept: Kept
    observations: tuple[Observation, ...] = field(repr=False)
    courses: dict[str, Course] = field(repr=False)
    reaches: dict[str, Reach] = field(repr=False)

    @classmethod
    def of(cls, kept: Kept, name: str, confidence: float) -> Followed:
        observations = kept.all()
        depths = _depths(observations[0])
        courses = {signal: course_of(signal, observations, depths, confidence) for signal in observations[0].above}
        reaches = {signal: reach_of(signal, observations, confidence) for signal in courses}
        return cls(name=name, kept=kept, observations=observations, courses=courses, reaches=reaches)

    @cached_property
    def depths(self) -> tuple[str, ...]:
        """The places that were looked at, from the first to the last."""
        return _depths(self.observations[0])

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(each.step for each in self.observations)

    @property
    def losses(self) -> tuple[Estimate, ...]:
        """In nats, by step."""
        return tuple(each.loss.at(0) for each in self.observations)

    @property
    def decisions(self) -> int:
        """How many are reported."""
        return self.observations[0].findings[0].n

    def unit(self, signal: str) -> str:
        return next(each.unit for each in self.observations[0].findings if each.signal == signal)


def _depths(observation: Observation) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.layer for each in observation.findings if each.part == PROBE))
