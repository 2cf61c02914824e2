"""What pipelines are expected to do, from one pricing of the original: nothing is tried and nothing is priced again.

Strategies plan on the prices of the start, round after round, as if those still held. What edits do
together is expected from their moves, where prices hold them: the KL of softened predictions under the sum of
all moves. Sublayers and layers are priced exactly, have no moves, and are added. The sum of all
prices by themselves stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from compress_explain.choosing.activations import Ranges, find_activations
from compress_explain.choosing.latency_table import LatencyTable
from compress_explain.data.examples import ALL, Examples
from compress_explain.data.perturbed import perturbed
from compress_explain.editing.edits import Edit
from compress_explain.editing.masks import Masks
from compress_explain.errors import InputError
from compress_explain.model.anatomy import Anatomy
from compress_explain.model.embedding import TOKEN
from compress_explain.plugins.strategy import Quantizing, Situation, Tuning, check_fit, menu_of, ranges_of, rounds_of
from compress_explain.pricing import MOVES, Menu, Prices, price
from compress_explain.progress import Progress
from compress_explain.running.job import Job
from compress_explain.running.timing import latency_of
from compress_explain.search.costs import Cost, cost_of
from compress_explain.search.space import Pipeline, Variant
from compress_explain.vocabulary import Lexicon

_ROUNDS = 3  # at most, of a strategy whose budget can be spread over any number of them


@dataclass(frozen=True, kw_only=True)
class Harm:
    """KL in nats, mean per decision: ``summed`` over all edits by themselves, ``together`` as far as moves tell."""

    summed: float
    together: float


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a pipeline is expected to come to: its edits, what the model then takes, and what they do."""

    pipeline: Pipeline
    edits: tuple[Edit, ...] = field(repr=False)
    cost: Cost
    harm: Harm

    @cached_property
    def changes(self) -> frozenset[tuple[str, str]]:
        """What is changed, and into what; and how what is left is tuned."""
        tuning = [(step.words, "tuned") for step in self.pipeline.steps if isinstance(step.strategy, Tuning)]
        return frozenset([*((edit.component, edit.into) for edit in self.edits), *tuning])


@dataclass(frozen=True, kw_only=True)
class _State:
    """The model as it is imagined after some steps."""

    off: dict[str, Tensor] = field(repr=False)
    quantized: dict[str, str] = field(default_factory=dict)
    edits: tuple[Edit, ...] = field(default=(), repr=False)
    of_tokens: float = 0.0


@dataclass(kw_only=True)
class Pricebook:
    """Everything that pipelines are priced from. ``masks`` are those of the untouched model."""

    job: Job = field(repr=False)
    masks: Masks = field(repr=False)
    progress: Progress = field(repr=False)
    menus: list[tuple[Menu, Prices]] = field(repr=False)  # the first holds all but what is rounded by ranges
    _states: dict[tuple[str, ...], _State] = field(default_factory=dict, repr=False)
    _tables: dict[str, LatencyTable] = field(default_factory=dict, repr=False)

    @property
    def anatomy(self) -> Anatomy:
        return self.masks.anatomy

    @cached_property
    def lexicon(self) -> Lexicon:
        return self.job.lexicon(self.masks)

    def expect(self, pipeline: Pipeline) -> Expected:
        """What ``pipeline`` is expected to come to.

        Raises:
            InputError: it does not fit this model or job, or cannot reach its budget.
        """
        job = replace(self.job, strategies=pipeline.strategies)
        check_fit(job.strategies, self.anatomy)
        latency = self._latency(job)
        state = self._after(pipeline.steps, job, latency)
        if not state.edits:
            raise InputError("pipeline", pipeline.words, "it changes nothing", "ask for less to be kept")
        removed = self.anatomy.closed(state.off)
        quantized = {name: self._saved(name, into, state) for name, into in state.quantized.items()}
        return Expected(
            pipeline=pipeline,
            edits=state.edits,
            cost=cost_of(self.anatomy, removed, quantized, job.storage, latency, job.target),
            harm=self._harm(state),
        )

    def _latency(self, job: Job) -> LatencyTable | None:
        if job.target is None:
            return None
        scheme = "float32" if job.scheme is None else job.scheme.name
        runtime = f"{'onnx' if job.deploys_onnx else 'torch'} {scheme}"
        if runtime not in self._tables:
            self._tables[runtime] = latency_of(job, job.target, self.anatomy, self.progress)
        return self._tables[runtime]

    def _after(self, steps: tuple[Variant, ...], job: Job, latency: LatencyTable | None) -> _State:
        """The state after these steps; what begins alike is imagined once."""
        if not steps:
            return _State(
                off={name: torch.zeros(group.count, dtype=torch.bool) for name, group in self.anatomy.groups.items()}
            )
        form = latency.runtime if latency is not None and any(step.open for step in steps) else ""
        by_bytes = str(job.storage) if any("bytes_kept" in step.options for step in steps) else ""
        key = (form, by_bytes, *(step.words for step in steps))
        if key not in self._states:
            before = self._after(steps[:-1], job, latency)
            self._states[key] = self._carried_out(steps[-1], before, job, latency)
        return self._states[key]

    def _carried_out(self, step: Variant, state: _State, job: Job, latency: LatencyTable | None) -> _State:
        strategy = step.strategy
        if isinstance(strategy, Tuning):
            return state
        if set(strategy.kinds) == {TOKEN} and state.edits:  # tokens meet nothing else, so they are planned once
            alone = self._after((step,), job, latency)
            return _State(
                off=state.off | {name: flags for name, flags in alone.off.items() if name not in self.anatomy.groups},
                quantized=state.quantized,
                edits=(*state.edits, *alone.edits),
                of_tokens=alone.of_tokens,
            )
        menu, prices = self._prices_for(step)
        situation = self._situation(state, menu, prices, job, latency)
        rounds = rounds_of(strategy, situation)
        if hasattr(strategy, "budget"):
            rounds = min(rounds, _ROUNDS)
        for number in range(rounds):
            situation = replace(self._situation(state, menu, prices, job, latency), round=number, rounds=rounds)
            state = self._with(state, strategy.plan(situation))
        return state

    def _situation(
        self, state: _State, menu: Menu, prices: Prices, job: Job, latency: LatencyTable | None
    ) -> Situation:
        removed = self.anatomy.closed(state.off)
        return Situation(
            anatomy=self.anatomy, prices=_as_left(menu, prices, removed), removed=removed, round=0,
            quantized=state.quantized, lexicon=self.lexicon, storage=job.storage, latency=latency,
            milliseconds=None if latency is None or job.target is None else job.target.milliseconds(latency),
        )  # fmt: skip

    def _with(self, state: _State, edits: tuple[Edit, ...]) -> _State:
        off = {name: flags.clone() for name, flags in state.off.items()}
        for edit in edits:
            if edit.action == "remove":
                part, index = self.anatomy.find(edit.component)
                off.setdefault(part.name, torch.zeros(part.count, dtype=torch.bool))[index] = True
        of_tokens = state.of_tokens
        while self.lexicon.rehearsals:
            of_tokens += self.lexicon.rehearsals.pop().expected[ALL].kl
        return _State(
            off=off,
            quantized=state.quantized | {edit.component: edit.into for edit in edits if edit.action == "quantize"},
            edits=(*state.edits, *edits),
            of_tokens=of_tokens,
        )

    def _prices_for(self, step: Variant) -> tuple[Menu, Prices]:
        """The prices that hold a step's edits."""
        if not isinstance(step.strategy, Quantizing):
            return self.menus[0]
        wanted = set(step.strategy.weight_edits)
        return next(each for each in self.menus if wanted <= {edit.name for edit in each[0].weight_edits})

    def _saved(self, linear: str, into: str, state: _State) -> tuple[float, float]:
        """The bytes and the work that the edit of a linear saves of what is left of it."""
        edit = next(each for each in reversed(state.edits) if each.component == linear and each.into == into)
        prices, index = self._column(linear, into)
        return self._left(linear, state) * float(prices.bytes[index]), float(edit.work_saved)

    def _left(self, linear: str, state: _State) -> float:
        """The share of a linear that is left."""
        gone = self.anatomy.closed(state.off)
        flags = torch.cat([gone[name] for name in self.anatomy.sublayers[linear.rpartition(".")[0]].groups])
        return float((~flags).float().mean())

    def _column(self, component: str, edit: str) -> tuple[Prices, int]:
        """Where an edit is priced."""
        for place, (_, prices) in enumerate(self.menus):
            index = self._columns[place].get((component, edit))
            if index is not None:
                return prices, index
        raise AssertionError(f"{component} was never priced under {edit}")

    @cached_property
    def _columns(self) -> list[dict[tuple[str, str], int]]:
        """By menu: where each edit of each component is."""
        return [
            {key: index for index, key in enumerate(zip(prices.components, prices.edits, strict=True))}
            for _, prices in self.menus
        ]

    def _harm(self, state: _State) -> Harm:
        """What everything that is changed in the end does; what lies in a unit that is gone, goes with it."""
        anatomy = self.anatomy
        units = [name for name, flags in state.off.items() if name in anatomy.units and flags.any()]
        inside = {inner for unit in units for inner in anatomy.within(unit)}
        chosen = [(unit, "remove") for unit in units if unit not in inside]
        for name, flags in state.off.items():
            if name in anatomy.groups and name not in inside:
                chosen += [(f"{name}.{index}", "remove") for index in flags.nonzero().flatten().tolist()]
        chosen += [(linear, into) for linear, into in state.quantized.items() if self._left(linear, state) > 0]
        return self._harm_of([self._column(*each) for each in chosen], state.of_tokens)

    def _harm_of(self, columns: Sequence[tuple[Prices, int]], of_tokens: float) -> Harm:
        summed = together = of_tokens
        for _, prices in self.menus:
            mine = np.array([index for each, index in columns if each is prices], dtype=int)
            summed += float(prices.values["kl"][prices.slices.index(ALL), mine].sum())
        moved, apart = self._moved(columns)
        if moved is None:
            return Harm(summed=summed, together=summed)
        return Harm(summed=summed, together=together + apart + 0.5 * float(moved @ moved))

    def _moved(self, columns: Sequence[tuple[Prices, int]]) -> tuple[np.ndarray | None, float]:
        """The sum of the moves of all that has any, and the softened KL of all that has none."""
        total, apart = None, 0.0
        for menu, prices in self.menus:
            mine = np.array([index for each, index in columns if each is prices], dtype=int)
            soft = prices.values["soft_kl"][prices.slices.index(ALL)]
            if prices.moves is None or np.isnan(soft[mine]).any():
                return None, 0.0
            whole = mine >= menu.linearisable
            apart += float(soft[mine[whole]].sum())
            moved = prices.moves[:, mine[~whole]].sum(1, dtype=np.float64)
            total = moved if total is None else total + moved
        return total, apart


def open_pricebook(
    job: Job, masks: Masks, variants: Iterable[Variant], progress: Progress
) -> tuple[Pricebook, Examples]:
    """Price the original once, on rows of calibration that it does not know by heart, for every step that fits it.

    What is rounded by ranges of activations is priced once for each way of finding them.
    """
    rows = perturbed(job.splits.calibration.draw(job.priced_rows, job.seed), job.seed)
    by_ranges: dict[Ranges | None, list[Menu]] = {None: [_every_component(masks.anatomy)]}
    for variant in variants:
        menu = _menu(masks.anatomy, variant)
        if menu is not None:
            by_ranges.setdefault(ranges_of(variant.strategy), []).append(menu)
    menus = []
    for ranges, some in by_ranges.items():
        menu = _all_of(masks.anatomy, some)
        if ranges is not None:
            masks.activations = find_activations(masks, job.splits.calibration, ranges, batch_size=job.batch_size)
        with progress.track("pricing the original", len(rows)) as advance:
            menus.append((menu, _priced(job, masks, rows, menu, advance)))
    masks.activations = {}
    return Pricebook(job=job, masks=masks, progress=progress, menus=menus), rows


def _priced(job: Job, masks: Masks, rows: Examples, menu: Menu, advance: Callable[[int], None]) -> Prices:
    return price(masks, rows, menu=menu, batch_size=job.batch_size, moves=MOVES, advance=advance)


def _every_component(anatomy: Anatomy) -> Menu:
    return Menu(anatomy=anatomy, groups=tuple(anatomy.groups.values()))


def _menu(anatomy: Anatomy, variant: Variant) -> Menu | None:
    """What a step chooses from; None where that is tokens, nothing, or nothing that this model has."""
    strategy = variant.strategy
    if isinstance(strategy, Tuning) or TOKEN in strategy.kinds:
        return None
    try:
        return menu_of(anatomy, strategy)
    except InputError:  # told when a pipeline with it is priced
        return None


def _all_of(anatomy: Anatomy, menus: list[Menu]) -> Menu:
    """One menu with every edit of several."""
    linears = {each.name: each for menu in menus for each in (*menu.linears, *menu.shared_linears)}.values()
    return Menu(
        anatomy=anatomy,
        groups=tuple({each.name: each for menu in menus for each in menu.groups}.values()),
        linears=tuple(each for each in linears if not each.shared),
        weight_edits=tuple({each.name: each for menu in menus for each in menu.weight_edits}.values()),
        sublayers=tuple({each.name: each for menu in menus for each in menu.sublayers}.values()),
        layers=tuple({each.name: each for menu in menus for each in menu.layers}.values()),
        shared_linears=tuple(each for each in linears if each.shared),
    )


def _as_left(menu: Menu, prices: Prices, removed: Mapping[str, Tensor]) -> Prices:
    """The same prices where some components are gone: those cannot go again, and units save what is left in them."""
    flags = [removed[group.name] for group in menu.groups]
    parameters, flops, weight_bytes = menu.savings(removed)
    edits = menu.edits(torch.cat(flags).tolist() if flags else [])
    return replace(prices, edits=edits, parameters=parameters, flops=flops, bytes=weight_bytes)
