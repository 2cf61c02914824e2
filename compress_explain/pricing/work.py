"""Pricing and auditing as work that falls into shards, independent of one another and of who does them.

The shards depend on the data and the edits alone. Merged in their order they give one result,
whatever the number of workers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from compress_explain.examples import Batch, Examples
from compress_explain.masks import Masks
from compress_explain.pricing.decision import decide
from compress_explain.pricing.exact import Trials, difference, exact_of_group, exact_sums, masked
from compress_explain.pricing.linear import Linearised, linearised
from compress_explain.pricing.menu import Candidate, Menu
from compress_explain.pricing.prefix import Prefix
from compress_explain.pricing.slopes import Slopes
from compress_explain.pricing.sums import Sums

_SHARD_ROWS = 512
_SHARD_EDITS = 24

Advance = Callable[[int], None]


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
class Refinement:
    """Where a linearisation is not believed: rows whose label has a probability below 1 - ``doubt``.

    The loss is steep on these few, so that is where an error of the linearised margin counts.
    Edits of components of ``kinds``, and of single ``components``, are priced exactly there, by
    masking. Measured on MiniLM/SST-2: docs/measurements.md.
    """

    doubt: float = 0.2
    kinds: tuple[str, ...] = ("head", "kv_group")
    components: frozenset[str] = frozenset()


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
    seed: int = 0

    @property
    def shards(self) -> int:
        return -(-len(self.examples) // self._shard_rows)

    @property
    def rows(self) -> int:
        return len(self.examples)

    @property
    def identity(self) -> str:
        refinement = self.refinement
        doubt = None if refinement is None else [refinement.doubt, *refinement.kinds, *sorted(refinement.components)]
        facts = [self.menu.names, self.batch_size, doubt, self.flow, self.projections, self.seed, self.masks.components]
        return _digest(self.masks, self.examples, [*facts, list(self.menu.components)])

    @property
    def _shard_rows(self) -> int:
        return max(1, _SHARD_ROWS // self.batch_size) * self.batch_size

    @cached_property
    def _slopes(self) -> Slopes:
        return Slopes(self.masks, self.menu.groups, self.menu.linears, self.menu.weight_edits)

    @cached_property
    def _trials(self) -> Trials:
        return Trials(self.masks, self.menu.wholes)

    def run(self, shard: int, advance: Advance = lambda rows: None) -> Sums:
        batches = self._batches(shard)
        sums = Sums.zeros(len(self.examples.slice_names), len(self.menu.components))
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

    def _batches(self, shard: int) -> list[Batch]:
        size = self._shard_rows // self.batch_size
        return list(islice(self.examples.batches(self.batch_size), shard * size, (shard + 1) * size))

    def _estimate(self, sums: Sums, batches: list[Batch], advance: Advance) -> None:
        from compress_explain.pricing.tokens import add_gauss_newton

        assert self.projections is not None
        done = add_gauss_newton(
            sums, self._slopes, self.examples, batches, projections=self.projections, seed=self.seed
        )
        for rows in done:
            advance(rows)

    def _linearise(self, sums: Sums, batches: list[Batch], advance: Advance) -> None:
        doubtful: list[np.ndarray] = []
        for each in linearised(self._slopes, self.examples, batches, flow=self.flow):
            rows = each.batch.rows
            membership = self.examples.slice_matrix(rows)
            sums.count(membership)
            doubt = self._doubt(each)
            sure = membership * ~doubt
            doubtful.append(rows[doubt.numpy()])
            for (columns, refined), impact in zip(self._blocks, each.impacts(), strict=True):
                if refined is None:
                    sums.add(columns, membership, impact)
                else:
                    sums.add(columns, sure, impact)
                    if not refined.all():
                        others = {name: values * ~refined for name, values in impact.items()}
                        sums.add(columns, membership - sure, others)
            for (columns, _), flow in zip(self._blocks, each.flow, strict=False):
                sums.flow[columns] += flow.double().sum(0)
            advance(len(rows))
        if self.refinement is not None:
            self._refine(sums, np.concatenate(doubtful))

    def _doubt(self, each: Linearised) -> torch.Tensor:
        """Rows that are not priced linearly."""
        if self.refinement is None:
            return torch.zeros(len(each.batch.rows), dtype=torch.bool)
        label = each.decision.logits.softmax(-1).gather(1, each.decision.labels[:, None])[:, 0]
        return 1 - label > self.refinement.doubt

    @cached_property
    def _blocks(self) -> list[tuple[slice, torch.Tensor | None]]:
        """The columns of each block and, when some of them are refined, which."""
        blocks, start = [], 0
        for index, width in enumerate(self._slopes.widths):
            chosen = self._refined(index) if index < len(self.menu.groups) else None
            blocks.append((slice(start, start + width), chosen))
            start += width
        return blocks

    def _refined(self, index: int) -> torch.Tensor | None:
        group, refinement = self.menu.groups[index], self.refinement
        if refinement is None:
            return None
        if group.kind in refinement.kinds:
            return torch.ones(group.count, dtype=torch.bool)
        chosen = torch.tensor([component in refinement.components for component in group.components])
        return chosen if chosen.any() else None

    def _refine(self, sums: Sums, rows: np.ndarray) -> None:
        """Add the exact impact of the refined edits on ``rows``."""
        with torch.inference_mode(), masked(self.masks):
            for batch in self.examples.batches(self.batch_size, rows):
                prefix = Prefix(self.masks, batch.inputs)
                labels = torch.from_numpy(self.examples.labels[batch.rows])
                decision = decide(prefix.logits.float(), labels)
                membership = self.examples.slice_matrix(batch.rows)
                everyone = torch.arange(len(batch.rows))
                for group, (columns, refined) in zip(self.menu.groups, self._blocks, strict=False):
                    if refined is None:
                        continue
                    chosen = refined.nonzero().flatten()
                    after = exact_of_group(self.masks, prefix, group, chosen, everyone)
                    impact = difference(decision, decision.of(after.float().transpose(0, 1)).transpose(0, 1))
                    full = {name: _spread(values, chosen, group.count) for name, values in impact.items()}
                    sums.add(columns, membership, full)


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
        return _digest(self.masks, self.examples, [edits, self.batch_size, self.masks.components])

    def run(self, shard: int, advance: Advance = lambda rows: None) -> Sums:
        chosen = self.candidates[shard * _SHARD_EDITS : (shard + 1) * _SHARD_EDITS]
        trials = Trials(self.masks, chosen)
        batches = self.examples.batches(self.batch_size)
        return exact_sums(trials, self.examples, batches, reuse=self.reuse, advance=advance)


def _spread(values: torch.Tensor, chosen: torch.Tensor, count: int) -> torch.Tensor:
    full = torch.zeros(len(values), count, dtype=values.dtype)
    full[:, chosen] = values
    return full


def _digest(masks: Masks, examples: Examples, facts: Sequence[object]) -> str:
    """Of the weights, the rows, their slices, and ``facts``."""
    digest = hashlib.sha256(json.dumps([examples.digest, examples.slice_names, *facts]).encode())
    for members in examples.slices.values():
        digest.update(np.ascontiguousarray(members).tobytes())
    for name, tensor in masks.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else str(tensor).encode())
    return digest.hexdigest()
