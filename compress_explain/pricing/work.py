"""Pricing and auditing as work that falls into shards, independent of one another and of who does them.

The shards depend on the data and the edits alone. Merged in their order they give one result,
whatever the number of workers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from compress_explain.data.examples import Batch, Examples
from compress_explain.editing.masks import Masks
from compress_explain.pricing.exact import Trials, exact_sums
from compress_explain.pricing.linear import linearised
from compress_explain.pricing.menu import Candidate, Menu
from compress_explain.pricing.moves import Sketch
from compress_explain.pricing.refine import Refinement, SecondPhase
from compress_explain.pricing.slopes import Slopes
from compress_explain.pricing.sums import Sums
from compress_explain.pricing.tokens import add_gauss_newton
from compress_explain.progress import Advance

_SHARD_ROWS = 512
_SHARD_EDITS = 12  # few enough for two workers to share the heads of six layers evenly
_EXACT_ROWS = 48  # at once in the second phase


@runtime_checkable
class Work(Protocol):
    """What an engine carries out: ``run`` each of ``shards`` and hand over the parts in order."""

    @property
    def shards(self) -> int: ...

    @property
    def rows(self) -> int:
        """How much ``advance`` will be told in all."""
        ...

    @property
    def identity(self) -> str:
        """A digest of everything that the result depends on."""
        ...

    def run(self, shard: int, advance: Advance) -> Sums: ...


@dataclass(frozen=True, kw_only=True)
class Pricing:
    """The expected impact of every edit of a menu on some examples; shards of examples."""

    masks: Masks = field(repr=False)
    examples: Examples
    menu: Menu
    batch_size: int = 32
    refinement: Refinement | None = None
    flow: bool = False
    projections: int | None = None
    moves: int = 0
    seed: int = 0

    @property
    def shards(self) -> int:
        return -(-len(self.examples) // self._shard_rows)

    @property
    def rows(self) -> int:
        return len(self.examples)

    @property
    def identity(self) -> str:
        refinement = None if self.refinement is None else asdict(self.refinement)
        facts = [
            self.menu.names,
            self._shard_rows,
            self.batch_size,
            refinement,
            self.flow,
            self.projections,
            self.moves,
            self.seed,
            self.masks.components,
            self.masks.quantized,
            dict(self.masks.ranks),
        ]
        return _digest(self.masks, self.examples, [*facts, list(self.menu.components)])

    @property
    def _shard_rows(self) -> int:
        return max(1, _SHARD_ROWS // self.batch_size) * self.batch_size

    @cached_property
    def _slopes(self) -> Slopes:
        return Slopes(self.masks, self.menu.groups, self.menu.edits_of_linears)

    @cached_property
    def _trials(self) -> Trials:
        return Trials(self.masks, self.menu.wholes)

    def run(self, shard: int, advance: Advance = lambda rows: None) -> Sums:
        batches = self._batches(shard)
        sums = Sums.zeros(len(self.examples.slice_names), len(self.menu.components), self.moves)
        if self.projections is not None and self.menu.linearisable:
            self._estimate(sums, batches, advance)
        elif self.menu.linearisable:
            self._linearise(sums, batches, advance)
        if self._trials.candidates:
            whole = exact_sums(self._trials, self.examples, batches)
            for name, total in whole.totals.items():
                sums.totals[name][:, self.menu.linearisable :] = total
            if not self.menu.linearisable:
                sums.count_as(whole)
                advance(sum(len(batch.rows) for batch in batches))
        return sums

    @cached_property
    def _sketch(self) -> Sketch:
        return Sketch(numbers=self.moves, rows=len(self.examples), seed=self.seed)

    def _batches(self, shard: int) -> list[Batch]:
        size = self._shard_rows // self.batch_size
        return list(islice(self.examples.batches(self.batch_size), shard * size, (shard + 1) * size))

    def _estimate(self, sums: Sums, batches: list[Batch], advance: Advance) -> None:
        assert self.projections is not None
        done = add_gauss_newton(
            sums, self._slopes, self.examples, batches, projections=self.projections, seed=self.seed
        )
        for rows in done:
            advance(rows)

    def _linearise(self, sums: Sums, batches: list[Batch], advance: Advance) -> None:
        second = SecondPhase(self._slopes, self.menu, self.refinement or Refinement(heads=0, neurons=0, linears=0))
        for each in linearised(self._slopes, self.examples, batches, flow=self.flow, reach=second.groups):
            membership = self.examples.slice_matrix(each.batch.rows)
            sums.count(membership)
            second.begin(each)
            for index, (columns, impact) in enumerate(zip(self._slopes.columns, each.impacts(), strict=True)):
                if second.takes(index):
                    second.keep(index, each, impact)
                else:
                    sums.add(columns, membership, impact)
            for columns, flow in zip(self._slopes.columns, each.flow, strict=False):
                sums.flow[columns] += flow.double().sum(0)
            if self.moves:
                for columns, softened in zip(self._slopes.columns, each.softened(), strict=True):
                    self._sketch.add(sums.moves[:, columns], each.batch.rows, softened)
            advance(len(each.batch.rows))
        second.settle(sums, self.examples, _EXACT_ROWS)


@dataclass(frozen=True, kw_only=True)
class Auditing:
    """The observed impact of single edits, each made on its own, on all examples; shards of edits."""

    masks: Masks = field(repr=False)
    examples: Examples
    candidates: tuple[Candidate, ...] = field(repr=False)
    batch_size: int = 32
    reuse: bool = True

    @property
    def shards(self) -> int:
        return -(-len(self.candidates) // _SHARD_EDITS)

    @property
    def rows(self) -> int:
        return len(self.examples) * len(self.candidates)

    @property
    def identity(self) -> str:
        edits = [[each.component, each.edit] for each in self.candidates]
        return _digest(self.masks, self.examples, [edits, _SHARD_EDITS, self.batch_size, self.masks.components])

    def run(self, shard: int, advance: Advance = lambda rows: None) -> Sums:
        chosen = self.candidates[shard * _SHARD_EDITS : (shard + 1) * _SHARD_EDITS]
        trials = Trials(self.masks, chosen)
        batches = self.examples.batches(self.batch_size)
        return exact_sums(trials, self.examples, batches, reuse=self.reuse, advance=advance)


def _digest(masks: Masks, examples: Examples, facts: Sequence[object]) -> str:
    """Of the weights, the rows, their slices, and ``facts``."""
    digest = hashlib.sha256(json.dumps([examples.digest, examples.slice_names, *facts]).encode())
    for members in examples.slices.values():
        digest.update(np.ascontiguousarray(members).tobytes())
    for name, tensor in masks.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else str(tensor).encode())
    return digest.hexdigest()
