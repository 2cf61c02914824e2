"""One look at a model in training: its loss, and how much of each signal its layers show above a model that has learned nothing.

What is asked, of which decisions, split how and resampled how, stays the same over a training, so that two looks can be compared
resample by resample.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from transformers import PreTrainedModel

from compress_explain.data.examples import Examples
from compress_explain.errors import InputError
from compress_explain.signals.findings import Finding
from compress_explain.signals.probing.asked import DECISION, QUALITY, Asked, asked_of
from compress_explain.signals.probing.parts import Part, parts_of
from compress_explain.signals.probing.quality import GIVEN_OUTPUT, quality_of
from compress_explain.signals.probing.reading_off import CHANCE, fewest, read_off, too_few
from compress_explain.signals.probing.resampling import Draws, Estimate, Readings
from compress_explain.signals.similarity.cka import cka_interval, debiased_cka
from compress_explain.signals.similarity.outlines import outline
from compress_explain.signals.stream.layers import Layers, layers_of
from compress_explain.signals.stream.nothing import without_knowledge
from compress_explain.signals.stream.states import States, Where, drawn_decisions, read_splits, where_read

LOSS, PROBE, CKA, LEFT_OUT = "loss", "probe", "cka", "left out"
ABOVE = "selectivity"
LAST, BEFORE = "cka_last", "cka_before"
_ALIKE = 2000  # decisions that CKA takes, at most
_OUTLINED = 256  # of them, which are kept for how alike any two steps are


@dataclass(frozen=True, kw_only=True)
class Observing:
    """How closely: at most ``decisions`` are looked at, and probes learn from at most ``learning_rows`` rows if rows are given for that.

    ``strength`` is that of probes (scikit-learn's C); ``confidence`` is two-sided.
    """

    decisions: int = 2048
    learning_rows: int = 1024
    strength: float = 0.03
    resamples: int = 400
    confidence: float = 0.90
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"decisions": 50, "learning_rows": 50, "resamples": 50, "seed": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                problem = f"must be at least {smallest}"
                raise InputError(f"observe: {name}", getattr(self, name), problem, "leave it out for the usual one")
        if not 0 < self.confidence < 1 or not 0 < self.strength < math.inf:
            problem = "confidence lies in (0, 1) and strength above 0"
            raise InputError("observe", (self.confidence, self.strength), problem, "leave both out for the usual ones")


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A look at one step: ``findings`` for a reader, and for what is computed over several steps, with every resample,
    ``above`` and ``held``: what each signal shows at every depth above the control and above chance, and the ``loss`` in nats at the one
    depth there is. ``outline`` is what the last depth holds of some decisions, for how alike any two steps are.
    """

    step: int
    findings: tuple[Finding, ...] = field(repr=False)
    above: dict[str, Readings] = field(repr=False)
    held: dict[str, Readings] = field(repr=False)
    loss: Readings = field(repr=False)
    outline: Float[np.ndarray, "some features"] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Observer:
    """What stays the same over a training. ``control`` is what a model of its shape with random weights holds."""

    observing: Observing
    splits: tuple[Examples, ...] = field(repr=False)
    chosen: tuple[Bool[np.ndarray, " decisions"], ...] = field(repr=False)
    layers: Layers = field(repr=False)
    where: Where
    control: States = field(repr=False)
    questions: tuple[Asked, ...] = field(repr=False)
    left_out: tuple[Finding, ...] = field(repr=False)  # what could not be asked, with the reason
    draws: Draws = field(repr=False)
    asked: dict[str, Readings] = field(repr=False)  # of the control
    batch_size: int = 32

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        examples: Examples,
        observing: Observing,
        *,
        learning: Examples | None = None,
        batch_size: int = 32,
    ) -> Observer:
        """For a training of ``model``, which is not changed; probes learn from rows of ``learning`` if there are any.

        Raises:
            InputError: the task's decisions do not stand at places of the stream.
        """
        seed = observing.seed
        splits = (examples,) if learning is None else (learning.draw(observing.learning_rows, seed), examples)
        chosen = tuple(drawn_decisions(each, observing.decisions, seed) for each in splits)
        layers = layers_of(model)
        nothing = _untrained(model, seed)
        where = where_read(nothing, layers, examples)
        control = read_splits(nothing, layers, splits, where, chosen, batch_size=batch_size)
        parts = _parts(control.rows, 0 if learning is None else int(chosen[0].sum()), seed)
        draws = Draws.of(parts, control.rows, observing.resamples, seed)
        every = [each for each in asked_of(splits, control.guesses, chosen) if each.signal != DECISION]
        questions = tuple(each for each in every if not too_few(each, draws))
        return cls(
            observing=observing, splits=splits, chosen=chosen, layers=layers, where=where, control=control, questions=questions,
            left_out=tuple(_too_few(each, draws) for each in every if each not in questions),
            draws=draws, asked={each.signal: read_off(control, each, draws, observing.strength) for each in questions},
            batch_size=batch_size,
        )  # fmt: skip

    @property
    def signals(self) -> tuple[str, ...]:
        return (*(each.signal for each in self.questions), QUALITY)

    def states(self, model: PreTrainedModel) -> States:
        """What a model of the training holds now, at the decisions that are looked at."""
        return read_splits(model, self.layers, self.splits, self.where, self.chosen, batch_size=self.batch_size)

    def told(
        self, step: int, states: States, *, before: States | None = None, last: States | None = None
    ) -> Observation:
        """All of one step; how alike it is to the step ``before`` and to the ``last``, where those are at hand."""
        loss = _loss(states, self.draws)
        findings = [self._finding(LOSS, "loss", loss.at(0), "nats"), *self.left_out]
        above, held = {}, {}
        for signal, figure, unit, read, control, chance in self._read(states):
            above[signal], held[signal] = _above(read, control, chance), _above_chance(read, chance)
            told = ((PROBE, figure, "", read), (PROBE, figure, "random", control), (PROBE, ABOVE, "", above[signal]))
            for part, name, model, readings in told:
                for place, depth in enumerate(states.depths):
                    findings.append(self._finding(part, name, readings.at(place), unit, signal, model, depth))
        for figure, other in ((BEFORE, before), (LAST, last)):
            findings += [] if other is None else list(self._alike(figure, states, other))
        return Observation(
            step=step, findings=tuple(findings), above=above, held=held, loss=loss,
            outline=outline(states.at(states.depths[-1])[self._some(_OUTLINED)]),
        )  # fmt: skip

    def _read(self, states: States) -> Iterator[tuple[str, str, str, Readings, Readings, float]]:
        strength, seed, figures = self.observing.strength, self.observing.seed, (GIVEN_OUTPUT,)
        for each in self.questions:
            read = read_off(states, each, self.draws, strength)
            yield each.signal, "auc", "AUC", read, self.asked[each.signal], CHANCE
        own = quality_of(states, states, self.draws, strength, figures=figures, seed=seed)
        control = quality_of(self.control, states, self.draws, strength, figures=figures, seed=seed)
        read, nothing = own.readings[GIVEN_OUTPUT], control.readings[GIVEN_OUTPUT]
        yield QUALITY, GIVEN_OUTPUT, "rank correlation", read, nothing, 0.0

    def _alike(self, figure: str, states: States, other: States) -> Iterator[Finding]:
        some = self._some(_ALIKE)
        for depth in states.depths:
            mine, theirs = states.at(depth)[some], other.at(depth)[some]
            value = debiased_cka(mine, theirs)
            low, high = cka_interval(mine, theirs, self.observing.confidence, self.observing.seed)
            yield Finding(
                part=CKA, figure=figure, value=value, low=low, high=high, unit="CKA", n=len(some), layer=depth
            )

    def _some(self, most: int) -> Int[np.ndarray, " some"]:
        """Of the decisions that are reported, those that follow what is there to learn from."""
        reported = np.sort(np.concatenate([part.report for part in self.draws.parts]))
        drawn: np.ndarray = np.sort(np.random.default_rng(self.observing.seed).permutation(reported)[:most])
        return drawn

    def _finding(
        self, part: str, figure: str, estimate: Estimate, unit: str, signal: str = "", model: str = "", layer: str = ""
    ) -> Finding:
        low, high = estimate.interval(self.observing.confidence)
        return Finding(
            part=part, figure=figure, value=estimate.value, low=low, high=high, unit=unit, n=self.draws.reported, signal=signal,
            model=model, layer=layer,
        )  # fmt: skip


def _untrained(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A copy with the weights that training begins with, and with whatever hooks the model has."""
    nothing = copy.deepcopy(model).eval()
    nothing.load_state_dict(without_knowledge(model, seed).state_dict())
    return nothing


def _parts(rows: Int[np.ndarray, " n"], to_learn: int, seed: int) -> tuple[Part, ...]:
    """Where there are rows to learn from, probes learn from all of those; of the others each half chooses for the other.

    Many choices are made over a training, a layer at each step: few rows would choose badly.
    """
    if not to_learn:
        return parts_of(rows, 0, seed)
    names = np.random.default_rng(seed).permutation(np.unique(rows[to_learn:]))
    halves = [np.flatnonzero(np.isin(rows, half)) for half in np.array_split(names, 2)]
    fit = np.arange(to_learn)
    return tuple(Part(fit=fit, choose=other, report=half) for half, other in (halves, halves[::-1]))


def _too_few(asked: Asked, draws: Draws) -> Finding:
    few, note = fewest(asked, draws), too_few(asked, draws)
    return Finding(
        part=LEFT_OUT, figure="decisions", value=few, unit="decisions", n=draws.reported, signal=asked.signal, note=note
    )


def _loss(states: States, draws: Draws) -> Readings:
    """The mean loss of reported decisions; none of them chooses anything."""
    values = [[float(states.loss[part.report].mean())] for part in draws.parts]
    drawn = [
        [counts @ states.loss[part.report] / np.maximum(counts.sum(1), 1)]
        for part, counts in zip(draws.parts, draws.counts, strict=True)
    ]
    nothing: Float[np.ndarray, "parts one"] = np.full((len(values), 1), math.nan)
    return Readings(values=np.array(values), draws=np.array(drawn), choosing=nothing, weights=draws.weights)


def _above_chance(read: Readings, chance: float) -> Readings:
    return replace(
        read, values=read.values - chance, draws=read.draws - chance, choosing=read.choosing - chance
    )  # fmt: skip


def _above(read: Readings, control: Readings, chance: float) -> Readings:
    """What is read minus what the control gives, or minus chance at depths where the control does not even give that."""
    more = (control.weights @ control.values >= chance)[None]  # (one, depths); by value, as in Estimate.or_more
    return Readings(
        values=read.values - np.where(more, control.values, chance),
        draws=read.draws - np.where(more[..., None], control.draws, chance),
        choosing=read.choosing - np.where(more, control.choosing, chance),
        weights=read.weights,
    )
