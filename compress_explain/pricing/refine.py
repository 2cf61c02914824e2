"""The second phase of a price: exact figures where the linearised ones matter most and err most.

The loss change of an edit is its margin change weighted by the doubt in the label, so an error of
the linearised move counts where a row is in doubt (before or after the move) and the move is large.
Pairs of a row and an edit are taken in the order of doubt x move, as a share of what there is in
the slices of the row, and computed exactly, by masking and with what comes before the edit reused,
until the passes that were granted are spent. What they teach about the others corrects those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from compress_explain.data.examples import Examples
from compress_explain.editing.masks import Masks
from compress_explain.errors import InputError
from compress_explain.model.anatomy import Anatomy, Linear
from compress_explain.pricing.curvature import bent
from compress_explain.pricing.decision import Decision
from compress_explain.pricing.exact import exact_of_edits, exact_of_pairs, masked
from compress_explain.pricing.impact import Impact, impact_of_change
from compress_explain.pricing.linear import Linearised
from compress_explain.pricing.menu import Menu
from compress_explain.pricing.prefix import Prefix
from compress_explain.pricing.slopes import Slopes, wide
from compress_explain.pricing.sums import Sums


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """How much exactness is bought: evaluation passes for heads, for neurons, and for all weight edits.

    Measured on MiniLM/SST-2: docs/measurements.md.
    """

    heads: float = 4.5
    neurons: float = 0.0
    linears: float = 0.3

    def __post_init__(self) -> None:
        for name in ("heads", "neurons", "linears"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise InputError(f"exact {name}", getattr(self, name), "not a number of passes", "give 0 or more")

    def passes(self, kind: str) -> float:
        """What is granted to the edits of components of ``kind``."""
        return {"neuron": self.neurons, "linear": self.linears}.get(kind, self.heads)


@dataclass
class _Block:
    """The columns of one group or linear, as linearised so far: one entry a batch."""

    index: int
    kind: str
    columns: slice
    changes: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    reach: list[Tensor] = field(default_factory=list)


class SecondPhase:
    """Collects what the first phase gives for the edits to be refined, and settles them at the end of a shard."""

    def __init__(self, slopes: Slopes, menu: Menu, refinement: Refinement) -> None:
        self.slopes, self.menu, self.refinement = slopes, menu, refinement
        kinds = [group.kind for group in menu.groups] + ["linear"] * len(menu.linears)
        self._blocks = {
            index: _Block(index, kind, columns)
            for index, (kind, columns) in enumerate(zip(kinds, slopes.columns, strict=True))
            if refinement.passes(kind) > 0
        }
        self._rows: list[np.ndarray] = []
        self._decisions: list[Decision] = []

    @property
    def groups(self) -> list[int]:
        """The blocks of components, not of linears, that are refined."""
        return [index for index in self._blocks if index < len(self.menu.groups)]

    def begin(self, each: Linearised) -> None:
        """A batch of the first phase."""
        self._rows.append(each.batch.rows)
        self._decisions.append(each.decision)

    def takes(self, index: int) -> bool:
        """Whether a block is refined: then it is kept here, and added to the sums at the end."""
        return index in self._blocks

    def keep(self, index: int, each: Linearised, impact: Impact) -> None:
        """One block of the batch, with its linearised impact."""
        decision = each.decision
        label = decision.logits.softmax(-1).gather(1, decision.labels[:, None])
        doubt = torch.maximum(1 - label, 1 - label * torch.exp(-impact["loss_change"]))
        self._blocks[index].changes.append(each.changes[index])
        self._blocks[index].scores.append(doubt * impact["logit_move"])
        if index in each.reach:
            self._blocks[index].reach.append(each.reach[index])

    def settle(self, sums: Sums, examples: Examples, batch_size: int) -> None:
        """Compute the chosen pairs exactly and add every kept block to ``sums``."""
        if not self._blocks or not self._rows:
            return
        rows, decision = np.concatenate(self._rows), _joined(self._decisions)
        linear = {index: torch.cat(block.changes) for index, block in self._blocks.items()}
        membership = examples.slice_matrix(rows)
        chosen = self._choose(torch.from_numpy(examples.lengths[rows]), membership)
        changes = {index: change.clone() for index, change in linear.items()}
        _replace(self.slopes, self.menu, examples, batch_size, rows, decision, changes, chosen)
        self._bend(decision, linear, changes, chosen)
        for index, block in self._blocks.items():
            sums.add(block.columns, membership, impact_of_change(decision, changes[index]))

    def _bend(
        self,
        decision: Decision,
        linear: dict[int, Tensor],
        changes: dict[int, Tensor],
        exact: dict[int, Bool[Tensor, "rows columns"]],
    ) -> None:
        """Correct the components' changes that stayed linear, from those of their kind that are exact."""
        removed = self.slopes.masks.removed
        for kind in dict.fromkeys(self._blocks[index].kind for index in self.groups):
            mine = [index for index in self.groups if self._blocks[index].kind == kind]
            off = torch.cat([removed[self.menu.groups[index].name] for index in mine])
            first, known, flags = (torch.cat([each[index] for index in mine], 1) for each in (linear, changes, exact))
            reach = torch.cat([torch.cat(self._blocks[index].reach) for index in mine], 1)
            for back in (False, True):  # what is put back bends the other way
                these = (off == back).nonzero().flatten()
                pairs = (each[:, these] for each in (first, known, flags, reach))
                known[:, these] = bent(decision.logits, *pairs)
            changes |= dict(zip(mine, known.split([changes[index].shape[1] for index in mine], 1), strict=True))

    def _choose(
        self, lengths: Int[Tensor, " rows"], membership: Float[Tensor, "slices rows"]
    ) -> dict[int, Bool[Tensor, "rows columns"]]:
        """The pairs of every block that are computed exactly: of each kind the best for its passes."""
        chosen: dict[int, Tensor] = {}
        for kind in dict.fromkeys(block.kind for block in self._blocks.values()):
            blocks = [block for block in self._blocks.values() if block.kind == kind]
            scores = _of_slices(torch.cat([torch.cat(block.scores) for block in blocks], 1), membership)
            widths = [block.columns.stop - block.columns.start for block in blocks]
            shares = torch.tensor([self._cost(block.index) for block in blocks]).repeat_interleave(torch.tensor(widths))
            costs = (lengths[:, None] * shares).flatten()
            order = scores.flatten().argsort(descending=True, stable=True)
            if kind == "linear":  # what depends on the whole batch cannot be tried on some of its rows
                edits = [self.slopes.weight_edits[self._linear(block.index).name] for block in blocks]
                alone = torch.tensor([not edit.batchwise for mine in edits for edit in mine])
                order = order[alone[order % len(alone)]]
            spent = costs[order] + _first(order // scores.shape[1], lengths)
            granted = self.refinement.passes(kind) * float(lengths.sum())
            flags = torch.zeros(scores.numel(), dtype=torch.bool)
            flags[order[spent.double().cumsum(0) <= granted]] = True
            parts = flags.view_as(scores).split(widths, dim=1)
            chosen |= {block.index: part for block, part in zip(blocks, parts, strict=True)}
        return chosen

    def _linear(self, index: int) -> Linear:
        return self.menu.linears[index - len(self.menu.groups)]

    def _cost(self, index: int) -> float:
        """Passes that one row costs under an edit of a block: the share of layers from there on."""
        layers = list(self.menu.anatomy.layers)
        groups = self.menu.groups
        name = groups[index].name if index < len(groups) else self._linear(index).name
        return 1 - layers.index(_layer(self.menu.anatomy, name)) / len(layers)


def _of_slices(
    scores: Float[Tensor, "rows columns"], membership: Float[Tensor, "slices rows"]
) -> Float[Tensor, "rows columns"]:
    """Scores as shares of each slice's total, added up over the slices of a row: every slice counts alike."""
    totals = membership @ scores.sum(1, dtype=membership.dtype)
    weights = membership.T @ totals.clamp(min=torch.finfo(totals.dtype).tiny).reciprocal()
    return scores * weights[:, None]


def _first(rows: Int[Tensor, " pairs"], lengths: Int[Tensor, " rows"]) -> Int[Tensor, " pairs"]:
    """What a pair costs besides when it is the first one of its row: a pass, whose outputs are kept for all of them."""
    found, first = np.unique(rows.numpy(), return_index=True)
    costs = torch.zeros(len(rows), dtype=lengths.dtype)
    costs[first] = lengths[found]
    return costs


def _layer(anatomy: Anatomy, name: str) -> str:
    return next(layer for layer in anatomy.layers if name.startswith(layer + "."))


def _joined(decisions: list[Decision]) -> Decision:
    return Decision(
        torch.cat([each.logits for each in decisions]),
        torch.cat([each.labels for each in decisions]),
        None if decisions[0].rest is None else torch.cat([each.rest for each in decisions if each.rest is not None]),
        None
        if decisions[0].classes is None
        else torch.cat([each.classes for each in decisions if each.classes is not None]),
    )


def _replace(
    slopes: Slopes,
    menu: Menu,
    examples: Examples,
    batch_size: int,
    rows: Int[np.ndarray, " rows"],
    decision: Decision,
    changes: dict[int, Tensor],
    chosen: dict[int, Bool[Tensor, "rows columns"]],
) -> None:
    """Put exact changes in the place of the chosen linearised ones."""
    place = {int(row): position for position, row in enumerate(rows)}
    wanted = torch.stack([flags.any(1) for flags in chosen.values()]).any(0)
    masks = slopes.masks
    with torch.inference_mode(), masked(masks):
        for batch in examples.batches(batch_size, rows[wanted.numpy()]):
            here = torch.tensor([place[int(row)] for row in batch.rows])
            prefix = Prefix(masks, batch.inputs)
            mine = _taken(decision, here)
            before = mine.of(wide(prefix.logits))
            pairs = {index: flags[here].nonzero() for index, flags in chosen.items()}
            for which, after in _tried(slopes, menu, masks, prefix, pairs):
                who = torch.cat([pairs[index][:, 0] for index in which])
                move = _taken(mine, who).of(wide(after)) - before[who]
                exact = (move[:, 1:] - move[:, :1]).split([len(pairs[index]) for index in which])
                for index, values in zip(which, exact, strict=True):
                    row, column = pairs[index].T
                    changes[index][here[row], column] = values.to(changes[index].dtype)


def _tried(
    slopes: Slopes, menu: Menu, masks: Masks, prefix: Prefix, pairs: dict[int, Int[Tensor, "pairs two"]]
) -> Iterator[tuple[list[int], Float[Tensor, "pairs classes"]]]:
    """Blocks and the logits of their pairs of a row of the batch and a column, tried together.

    Linears of one layer are tried at once, from the start of the layer: single ones have few pairs.
    """
    layers: dict[str, list[int]] = {}
    for index, mine in pairs.items():
        if len(mine) and index < len(menu.groups):
            yield [index], exact_of_pairs(masks, prefix, menu.groups[index], *mine.T)
        elif len(mine):
            layer = _layer(menu.anatomy, menu.linears[index - len(menu.groups)].name)
            layers.setdefault(menu.anatomy.layers[layer].module, []).append(index)
    for place, which in layers.items():
        edits = []
        for index in which:
            pairs[index] = pairs[index][pairs[index][:, 1].argsort(stable=True)]  # edit by edit
            linear = menu.linears[index - len(menu.groups)]
            for number, prepared in enumerate(slopes.prepared(linear.name)):
                rows = pairs[index][pairs[index][:, 1] == number, 0]
                if len(rows):
                    edits.append((linear.module, prepared, rows))
        yield which, exact_of_edits(masks, prefix, place, edits)


def _taken(decision: Decision, rows: Tensor) -> Decision:
    return Decision(
        decision.logits[rows],
        decision.labels[rows],
        None if decision.rest is None else decision.rest[rows],
        None if decision.classes is None else decision.classes[rows],
    )
