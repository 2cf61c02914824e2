"""The expected impact of every possible edit, from one pass over the data.

Removing a component subtracts its share x of a linear's input. To first order that moves logit k
by -<x, dz_k/dx> over the component's coordinates, for each example on its own. From the moved
logits follow loss, KL, flips and Brier, exactly and per slice. One forward pass and one backward
pass a logit (for two classes one: only their difference matters) price everything at once.
A removed component has a gradient too: putting it back moves the logits by +<x, dz_k/dx>.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from compress_explain.anatomy import Group
from compress_explain.errors import InputError
from compress_explain.examples import Batch, Examples
from compress_explain.masks import Masks

IMPACTS = ("loss_change", "kl", "flips_to_wrong", "flips_to_right", "brier_change", "logit_move")


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Expected impact of one edit on each component, per slice; mean per example, loss in nats.

    ``values[impact]`` and ``standard_error`` are ``(slices, components)``; ``restores`` flags the
    components that are removed now, whose edit is therefore to restore them.
    """

    components: tuple[str, ...] = field(repr=False)
    kinds: tuple[str, ...] = field(repr=False)
    restores: np.ndarray = field(repr=False)
    slices: tuple[str, ...]
    counts: tuple[int, ...]
    values: dict[str, Float[np.ndarray, "slices components"]] = field(repr=False)
    standard_error: Float[np.ndarray, "slices components"] = field(repr=False)
    parameters: np.ndarray = field(repr=False)
    flops: np.ndarray = field(repr=False)
    method: str = "linear"

    def loss_change(self, slice_name: str = "all") -> Float[np.ndarray, " components"]:
        return self.values["loss_change"][self.slices.index(slice_name)]

    def decision_share(self, index: int) -> Float[np.ndarray, " slices"]:
        """Share of all expected logit movement, among components of its kind, that one carries."""
        same = np.array([kind == self.kinds[index] for kind in self.kinds])
        moves = self.values["logit_move"]
        return moves[:, index] / np.maximum(moves[:, same].sum(1), 1e-300)

    def save(self, path: Path) -> None:
        """Write :meth:`to_frame` as Parquet."""
        self.to_frame().to_parquet(path, index=False)

    @classmethod
    def load(cls, path: Path) -> Prices:
        """Read back what :meth:`save` wrote, to the last bit."""
        frame = pd.read_parquet(path)
        slices = tuple(frame["slice"].unique())
        first = frame[frame["slice"] == slices[0]]
        shape = (len(slices), len(first))
        restores = (first["edit"] == "restore").to_numpy()
        sign = np.where(restores, -1, 1)
        return cls(
            components=tuple(first["component"]),
            kinds=tuple(first["kind"]),
            restores=restores,
            slices=slices,
            counts=tuple(int(frame["n"].iloc[index * shape[1]]) for index in range(shape[0])),
            values={impact: frame[f"expected_{impact}"].to_numpy().reshape(shape) for impact in IMPACTS},
            standard_error=frame["expected_loss_change_se"].to_numpy().reshape(shape),
            parameters=first["parameters_saved"].to_numpy() * sign,
            flops=first["flops_saved"].to_numpy() * sign,
            method=str(first["method"].iloc[0]),
        )

    def to_frame(self) -> pd.DataFrame:
        """Long form, one row a component x slice, with the column names of the price table."""
        sign = np.where(self.restores, -1, 1)
        parts = []
        for index, (slice_name, count) in enumerate(zip(self.slices, self.counts, strict=True)):
            parts.append(
                pd.DataFrame(
                    {
                        "component": self.components,
                        "kind": self.kinds,
                        "edit": np.where(self.restores, "restore", "remove"),
                        "slice": slice_name,
                        "n": count,
                        "parameters_saved": self.parameters * sign,
                        "flops_saved": self.flops * sign,
                        "expected_loss_change": self.values["loss_change"][index],
                        "expected_loss_change_se": self.standard_error[index],
                        "expected_kl": self.values["kl"][index],
                        "expected_flips_to_wrong": self.values["flips_to_wrong"][index],
                        "expected_flips_to_right": self.values["flips_to_right"][index],
                        "expected_brier_change": self.values["brier_change"][index],
                        "expected_logit_move": self.values["logit_move"][index],
                        "method": self.method,
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)


def price(
    masks: Masks,
    examples: Examples,
    *,
    kinds: Sequence[str] = (),
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda rows: None,
) -> Prices:
    """Price one edit on every component of ``kinds`` (all kinds when empty), streaming over examples.

    Memory does not grow with the number of examples. ``advance`` is told how many rows were done.

    Raises:
        InputError: the model has no component of ``kinds``.
    """
    groups = _groups(masks, kinds)
    total = _Sums(sum(group.count for group in groups), examples)
    for batch, logits, moves in linearised(masks, examples, groups, batch_size):
        membership = examples.slice_matrix(batch.rows)
        labels = torch.from_numpy(examples.labels[batch.rows])
        start = 0
        for move in moves:
            stop = start + move.shape[1]
            total.add(slice(start, stop), membership, impact_of(logits, move, labels))
            start = stop
        advance(len(batch.rows))
    return total.prices(groups, masks)


def linearised(
    masks: Masks, examples: Examples, groups: Sequence[Group], batch_size: int
) -> Iterator[tuple[Batch, Float[Tensor, "batch classes"], Iterator[Float[Tensor, "batch components classes"]]]]:
    """For each batch: its logits, and group by group how one edit on each component moves them.

    Components that are on are priced for removal, removed ones for restoration.
    """
    model = masks.model
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        with _Sites(masks, groups) as sites:
            for batch in examples.batches(batch_size):
                with torch.enable_grad():
                    logits = model(**batch.inputs).logits.float()
                    moves = sites.moves(logits)
                yield batch, logits.detach(), moves
                sites.clear()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def impact_of(
    logits: Float[Tensor, "batch classes"],
    move: Float[Tensor, "batch components classes"],
    labels: Int[Tensor, " batch"],
) -> dict[str, Float[Tensor, "batch components"]]:
    """What moving the logits does to loss (nats), KL (nats), flips (0 or 1) and Brier, per example."""
    if logits.shape[1] == 2:
        return _binary_impact(logits, move, labels)
    before = logits.log_softmax(-1)
    after = (logits[:, None] + move).log_softmax(-1)
    probability, moved = before.exp(), after.exp()
    index = labels[:, None]
    target = torch.nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    right, stays = logits.argmax(-1) == labels, after.argmax(-1) == index
    loss = before.gather(1, index) - after.gather(2, index[:, None].expand(-1, after.shape[1], 1))[..., 0]
    brier = (moved - target[:, None]).square().sum(-1) - (probability - target).square().sum(-1)[:, None]
    return {
        "loss_change": loss,
        "kl": (probability[:, None] * (before[:, None] - after)).sum(-1),
        "flips_to_wrong": (right[:, None] & ~stays).to(logits.dtype),
        "flips_to_right": (~right[:, None] & stays).to(logits.dtype),
        "brier_change": brier,
        "logit_move": (move - move.mean(-1, keepdim=True)).norm(dim=-1),
    }


def _binary_impact(logits: Tensor, move: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The same for two classes, from the margin of the label alone."""
    sign = (2 * labels - 1).to(logits.dtype)
    margin = ((logits[:, 1] - logits[:, 0]) * sign)[:, None]
    change = (move[..., 1] - move[..., 0]) * sign[:, None]
    moved = margin + change
    softplus, sigmoid = torch.nn.functional.softplus, torch.sigmoid
    before, after = softplus(-margin), softplus(-moved)
    wrong, wrong_after = sigmoid(-margin), sigmoid(-moved)
    loss = after - before
    # KL = p (log p - log p') + (1 - p) (log(1-p) - log(1-p')), and log(1-p) = log p - margin
    return {
        "loss_change": loss,
        "kl": loss + wrong * change,
        "flips_to_wrong": ((margin >= 0) & (moved < 0)).to(logits.dtype),
        "flips_to_right": ((margin < 0) & (moved >= 0)).to(logits.dtype),
        "brier_change": 2 * (wrong_after.square() - wrong.square()),
        "logit_move": change.abs() / 2**0.5,
    }


def _groups(masks: Masks, kinds: Sequence[str]) -> list[Group]:
    groups = [group for group in masks.anatomy.groups.values() if not kinds or group.kind in kinds]
    if not groups:
        raise InputError(
            "kinds", list(kinds), "this model has no such components", f"choose from {', '.join(masks.anatomy.kinds)}"
        )
    return groups


class _Sites:
    """Hooks that see, at each site, the unmasked input and keep the masked one for the gradient.

    They do the masking themselves: behind the ordinary mask no gradient would reach a removed part.
    """

    def __init__(self, masks: Masks, groups: Sequence[Group]) -> None:
        self.masks, self.groups = masks, groups
        self.unmasked: dict[str, Tensor] = {}
        self.masked: dict[str, Tensor] = {}
        self._was_attached = False
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def moves(self, logits: Tensor) -> Iterator[Float[Tensor, "batch components classes"]]:
        """Group by group, the change of every logit under one edit on each component."""
        inputs = [self.masked[group.name] for group in self.groups]
        if logits.shape[1] == 2:
            slopes = [torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), inputs)]
        else:
            slopes = [
                torch.autograd.grad(logits[:, k].sum(), inputs, retain_graph=k + 1 < logits.shape[1])
                for k in range(logits.shape[1])
            ]
        return (self._move(index, group, [slope[index] for slope in slopes]) for index, group in enumerate(self.groups))

    def _move(self, index: int, group: Group, slopes: list[Tensor]) -> Tensor:
        value = self.unmasked[group.name].detach()
        flags = self.masks.removed[group.name]
        sign = torch.where(flags, 1.0, -1.0)
        moves = [self._per_component(group, value, slope) * sign for slope in slopes]
        if len(moves) == 1:  # two classes: half of the margin's change to each side
            return torch.stack([-moves[0] / 2, moves[0] / 2], -1)
        return torch.stack(moves, -1)

    @staticmethod
    def _per_component(group: Group, value: Tensor, slope: Tensor) -> Float[Tensor, "batch components"]:
        product = (value * slope).flatten(1, -2).sum(1)  # (batch, count * width)
        return product.view(-1, group.count, group.width).sum(-1)

    def clear(self) -> None:
        self.unmasked.clear()
        self.masked.clear()

    def _hook(self, group: Group) -> torch.utils.hooks.RemovableHandle:
        def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            value = inputs[0]
            if not value.requires_grad:
                value = value.detach().requires_grad_()
            coordinates = self.masks.coordinates(group)
            masked = value if coordinates is None else value.masked_fill(coordinates, 0.0)
            self.unmasked[group.name], self.masked[group.name] = value, masked
            return (masked, *inputs[1:])

        return self.masks.model.get_submodule(group.site).register_forward_pre_hook(watch)

    def __enter__(self) -> _Sites:
        self._was_attached = self.masks.attached
        self.masks.detach()
        self._hooks = [self._hook(group) for group in self.masks.anatomy.groups.values()]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self.clear()
        if self._was_attached:
            self.masks.attach()


class _Sums:
    """Running sums over examples of every impact, per slice and component."""

    def __init__(self, components: int, examples: Examples) -> None:
        shape = (len(examples.slices), components)
        self.sums = {impact: torch.zeros(shape, dtype=torch.float64) for impact in IMPACTS}
        self.squares = torch.zeros(shape, dtype=torch.float64)
        self.slices = tuple(examples.slices)
        self.counts = tuple(int(flags.sum()) for flags in examples.slices.values())

    def add(self, columns: slice, membership: Tensor, impact: dict[str, Tensor]) -> None:
        for name, values in impact.items():
            self.sums[name][:, columns] += membership @ values
        self.squares[:, columns] += membership @ impact["loss_change"].square()

    def prices(self, groups: Sequence[Group], masks: Masks) -> Prices:
        counts = torch.tensor(self.counts, dtype=torch.float64)[:, None].clamp(min=1)
        means = {impact: (sums / counts) for impact, sums in self.sums.items()}
        variance = (self.squares / counts - means["loss_change"].square()).clamp(min=0)
        sizes = [group.count for group in groups]
        return Prices(
            components=tuple(component for group in groups for component in group.components),
            kinds=tuple(np.repeat([group.kind for group in groups], sizes).tolist()),
            restores=torch.cat([masks.removed[group.name] for group in groups]).numpy(),
            slices=self.slices,
            counts=self.counts,
            values={impact: mean.numpy() for impact, mean in means.items()},
            standard_error=(variance / (counts - 1).clamp(min=1)).sqrt().numpy(),
            parameters=np.repeat([group.parameters for group in groups], sizes),
            flops=np.repeat([group.flops for group in groups], sizes),
        )
