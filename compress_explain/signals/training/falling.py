"""Early warnings: signals that fall from one look to the next while the loss improves, and what other seeds say of such a fall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compress_explain.signals.probing.resampling import Estimate
from compress_explain.signals.training.forming import Course
from compress_explain.signals.training.observing import Observation


@dataclass(frozen=True, kw_only=True)
class Fall:
    """A signal that is weaker at step ``after`` than at ``before``, while the loss got better by ``loss`` nats (below 0).

    ``layer`` is where it was. ``spread`` is the range of its strength over all seeds, the larger of the two steps'; None without other
    seeds. ``repeated`` counts the other seeds in which it fell between the same steps, of ``seeds``.
    """

    signal: str
    before: int
    after: int
    layer: str
    change: Estimate = field(repr=False)
    loss: Estimate = field(repr=False)
    spread: float | None = None
    repeated: int = 0
    seeds: int = 0

    @property
    def noise(self) -> bool:
        """Whether seeds differ by more than it fell."""
        return self.spread is not None and abs(self.change.value) < self.spread


def falls_of(
    course: Course, observations: Sequence[Observation], confidence: float, others: Sequence[Course] = ()
) -> list[Fall]:
    """Every step at which the interval of a signal's change, and that of the loss, lie below 0, of a signal that was surely there before.

    ``others`` are those of other seeds.
    """
    spread = spread_of([course, *others])
    found = []
    for number in range(1, len(course.steps)):
        change = course.strength[number].minus(course.strength[number - 1])
        loss = observations[number].loss.at(0).minus(observations[number - 1].loss.at(0))
        if not course.strength[number - 1].interval(confidence)[0] > 0:
            continue
        if not (change.interval(confidence)[1] < 0 and loss.interval(confidence)[1] < 0):
            continue
        before, after = course.steps[number - 1 : number + 1]
        beside = [each for each in others if {before, after} <= set(each.steps)]
        found.append(
            Fall(
                signal=course.signal, before=before, after=after, layer=course.layers[number - 1], change=change, loss=loss,
                spread=max((spread[step] for step in (before, after) if step in spread), default=None),
                repeated=sum(_at(each, after) < _at(each, before) for each in beside), seeds=len(beside),
            )
        )  # fmt: skip
    return found


def spread_of(courses: Sequence[Course]) -> Mapping[int, float]:
    """The range of a signal's strength over seeds at each step that all of them have; none for a single one."""
    if len(courses) < 2:
        return {}
    common = set.intersection(*(set(each.steps) for each in courses))
    return {step: max(told) - min(told) for step in sorted(common) for told in [[_at(each, step) for each in courses]]}


def by_chance(signals: int, steps: int, confidence: float) -> float:
    """How many falls are to be expected where nothing falls: one tail of each comparison of a step with the one before."""
    return signals * (steps - 1) * (1 - confidence) / 2


def _at(course: Course, step: int) -> float:
    return course.strength[course.steps.index(step)].value
