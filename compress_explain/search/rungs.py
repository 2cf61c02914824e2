"""Who goes on from one rung to the next, and why the others do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compress_explain.errors import InputError
from compress_explain.search.candidates import Candidate, points
from compress_explain.search.expected import Expected
from compress_explain.search.fronts import dominated, fronts, kept
from compress_explain.search.options import AIMS, By
from compress_explain.search.space import Pipeline, Space

CHAINS = 24  # of removals that are combined with what may follow them
_MISSED = 0.1  # by which share an aim may be missed before anything is tried: what is foretold is not what is measured


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What came of a rung: those that go on, and of each of the others why it does not."""

    name: str
    candidates: tuple[Candidate, ...] = field(repr=False)
    kept: tuple[int, ...]
    why: Mapping[int, str] = field(repr=False)

    @property
    def going_on(self) -> list[Candidate]:
        """Those that go on, in the order in which they should."""
        by_number = {each.number: each for each in self.candidates}
        return [by_number[number] for number in self.kept]


@dataclass(kw_only=True)
class _Field:
    """Candidates as they are priced, each with its edits, and those that are out already."""

    expect: Callable[[Pipeline], Expected]
    found: dict[int, Expected] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    why: dict[int, str] = field(default_factory=dict)
    _numbers: dict[tuple[str, ...], int] = field(default_factory=dict)
    _twins: dict[frozenset[tuple[str, str]], int] = field(default_factory=dict)

    def add(self, pipelines: Sequence[Pipeline]) -> list[int]:
        """Price them; the numbers of those that can be carried out and are like none before them."""
        return [number for pipeline in pipelines if (number := self._add(pipeline)) is not None]

    def _add(self, pipeline: Pipeline) -> int | None:
        words = tuple(step.words for step in pipeline.steps)
        if words in self._numbers:
            return self._numbers[words] if self._numbers[words] not in self.why else None
        try:
            expected = self.expect(pipeline)
        except InputError as error:
            self.refused[pipeline.words] = f"{error.culprit}: {error.problem}"
            return None
        number = self._numbers[words] = len(self._numbers) + 1
        self.found[number] = expected
        twin = self._twins.setdefault(expected.changes, number)
        if twin != number:
            self.why[number] = f"the same edits as {twin}"
            return None
        return number

    def candidates(self, numbers: Sequence[int]) -> list[Candidate]:
        return [
            Candidate(number=number, pipeline=each.pipeline, cost=each.cost, harm=each.harm)
            for number in numbers
            for each in (self.found[number],)
        ]

    def drop(self, numbers: Sequence[int], axes: Sequence[By], most: int) -> list[int]:
        """Keep at most so many and say why of the others."""
        candidates = self.candidates(numbers)
        chosen, why = keep(candidates, axes, most)
        self.why |= why
        return chosen


def priced_rung(
    space: Space,
    expect: Callable[[Pipeline], Expected],
    axes: Sequence[By],
    most: int,
    miss: Callable[[Candidate], float],
) -> tuple[Rung, dict[int, Expected], dict[str, str]]:
    """Rung 0: every pipeline is priced, nothing is tried. Also the expectations by number, and who was refused and why.

    ``miss`` says by which share a candidate misses what was aimed at. Chains of removals are compared among themselves
    first, and those that are worth it combined with what may follow.
    """
    field_ = _Field(expect=expect)
    closed = field_.add([each for each in space.chains if not each.open])
    closed = field_.drop(closed, [axis for axis in axes if axis != "milliseconds"] or ["work"], CHAINS)
    chains = [field_.found[number].pipeline for number in closed]
    opened = [each for each in space.chains if each.open]
    numbers = field_.add([*space.own, *space.following([*chains, *opened])])
    numbers = _aiming(field_, list(dict.fromkeys(numbers)), miss)
    chosen = field_.drop(numbers, axes, most)
    for number in field_.found.keys() - set(chosen) - field_.why.keys():
        field_.why[number] = "goes on tuned, not by itself"
    rung = Rung(
        name="priced", candidates=tuple(field_.candidates(sorted(field_.found))), kept=tuple(chosen), why=field_.why
    )
    return rung, field_.found, field_.refused


def _aiming(field_: _Field, numbers: list[int], miss: Callable[[Candidate], float]) -> list[int]:
    """Those that come near what is aimed at; all of them if none does."""
    missed = {each.number: miss(each) for each in field_.candidates(numbers)}
    near = [number for number in numbers if missed[number] <= _MISSED]
    if not near:
        return numbers
    field_.why |= {
        number: f"misses what is aimed at by {missed[number]:.0%}" for number in numbers if number not in near
    }
    return near


def keep(candidates: Sequence[Candidate], axes: Sequence[By], most: int) -> tuple[list[int], dict[int, str]]:
    """Numbers of the non-dominated ones and their neighbours, at most so many, and why of each other one."""
    table = points(candidates, axes)
    chosen = set(kept(table, most))
    beaten, front = dominated(table), fronts(table)
    why = {}
    for place, candidate in enumerate(candidates):
        if place in chosen:
            continue
        by = next((other for other in np.flatnonzero(beaten[place]).tolist() if front[other] == 0), None)
        why[candidate.number] = (
            f"no better than {candidates[by].number} in anything"
            if by is not None
            else f"others of the front stand for its costs (at most {most} go on)"
        )
    return [candidates[place].number for place in sorted(chosen)], why


def promising(
    candidates: Sequence[Candidate], axes: Sequence[By], most: int, miss: Callable[[Candidate], float]
) -> tuple[list[int], dict[int, str]]:
    """Who is worth a full run: those of the front around the place where gates begin to hold.

    First the cheapest that holds, or would meet the aim, then by turns the next cheaper one, which reinstatement may
    mend, and the next dearer one, which may be needed; the rest from the fronts behind.
    """
    table = points(candidates, axes)
    order: list[int] = []
    found = fronts(table)
    for front in range(int(found.max(initial=-1)) + 1):
        mine = [place for place in np.argsort(table[:, 0], kind="stable").tolist() if found[place] == front]
        order += _outwards(mine, _first_that_holds([candidates[place] for place in mine], miss))
    chosen = [candidates[place].number for place in order[:most]]
    why = {
        candidates[place].number: f"{most} others are nearer to where the gates begin to hold" for place in order[most:]
    }
    return chosen, why


def _first_that_holds(ordered: Sequence[Candidate], miss: Callable[[Candidate], float]) -> int:
    """The place of the cheapest one that holds every gate and misses no aim by much; else of the one nearest to it."""
    reserves = [-np.inf if each.seen is None or each.seen.reserve is None else each.seen.reserve for each in ordered]
    missed = [miss(each) for each in ordered]
    if missed and min(missed) > 0:  # as near to the aim as can be
        return int(np.argmin(missed))
    aiming = [place for place in range(len(ordered)) if missed[place] == 0]
    if np.isneginf(reserves).all():  # nothing was tried, the time was up
        return len(ordered) // 2
    holds = [place for place in aiming if reserves[place] >= 0]
    return holds[0] if holds else max(aiming, key=lambda place: reserves[place], default=0)


def _outwards(places: Sequence[int], start: int) -> list[int]:
    """From ``start`` by turns to the left and to the right.

    >>> _outwards([10, 11, 12, 13], 1)
    [11, 10, 12, 13]
    """
    order = sorted(range(len(places)), key=lambda place: (abs(place - start), place > start))
    return [places[place] for place in order]


def axes_of(by: By, aims: Mapping[str, float]) -> list[By]:
    """What costs are compared by: what counts, and whatever is aimed at."""
    names: list[By] = [by]
    return names + [name.removesuffix("_kept") for name in AIMS if name in aims and name.removesuffix("_kept") != by]  # type: ignore[misc]
