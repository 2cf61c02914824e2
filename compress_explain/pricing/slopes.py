"""Where edits meet a model: hooks that keep what flows there, so that one backward pass prices them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from types import TracebackType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from compress_explain.anatomy import Group, Linear
from compress_explain.masks import Masks
from compress_explain.weight_edits import Prepared, WeightEdit


class Slopes:
    """Per-example contractions of a gradient with what each edit would change.

    At the site of each group the unmasked input is kept, and the masked one for the gradient:
    behind the ordinary mask none would reach a removed part, so the hooks do the masking. At each
    linear its input, its output and the change of its output under every weight edit are kept.
    ``strength`` scales the components of ``towards`` (all of them part of ``groups``) part of the
    way to their other state.
    """

    def __init__(
        self,
        masks: Masks,
        groups: Sequence[Group],
        linears: Sequence[Linear] = (),
        weight_edits: Sequence[WeightEdit] = (),
        towards: dict[str, Float[Tensor, " count"]] | None = None,
    ) -> None:
        self.masks, self.groups, self.linears, self.weight_edits = masks, groups, linears, weight_edits
        self.towards = towards or {}
        self._prepared: dict[str, list[Prepared]] = {}
        self._unmasked: dict[str, Tensor] = {}
        self._masked: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._changes: dict[str, list[Tensor]] = {}
        self._was_attached = False
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    @cached_property
    def columns(self) -> list[slice]:
        """The columns of each block: one a component of each group, then one a weight edit of each linear."""
        widths = [group.count for group in self.groups] + [len(self.weight_edits)] * len(self.linears)
        ends = list(accumulate(widths))
        return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]

    def contract(
        self, outputs: Tensor, slope: Tensor | None, *, last: bool
    ) -> tuple[list[Float[Tensor, "batch columns"]], list[Tensor]]:
        """How a scalar of each example moves under every edit, block by block.

        ``slope`` is the gradient of the scalars with respect to ``outputs`` (ones when None);
        ``last`` frees the graph. Beside the moves, the gradients at the sites of the groups.
        """
        ends = [self._masked[group.name] for group in self.groups]
        ends += [self._outputs[linear.name] for linear in self.linears]
        gradients = torch.autograd.grad(outputs, ends, slope, retain_graph=not last)
        sites = list(gradients[: len(self.groups)])
        blocks = [self._switched(group, each) for group, each in zip(self.groups, sites, strict=True)]
        for linear, gradient in zip(self.linears, gradients[len(self.groups) :], strict=True):
            blocks.append(torch.stack([_inner(change, gradient) for change in self._changes[linear.name]], 1))
        return blocks, sites

    def flow(self, index: int, gradient: Tensor) -> Float[Tensor, "batch components"]:
        """Squared norm of a gradient at the coordinates of each component of group ``index``."""
        group = self.groups[index]
        return wide(gradient).square().flatten(1, -2).sum(1).view(-1, group.count, group.width).sum(-1)

    def _switched(self, group: Group, gradient: Tensor) -> Tensor:
        value = self._unmasked[group.name].detach()
        product = (wide(value) * wide(gradient)).flatten(1, -2).sum(1)  # (batch, count * width)
        moves = product.view(-1, group.count, group.width).sum(-1)
        return moves * torch.where(self.masks.removed[group.name], 1.0, -1.0)

    def prepared(self, linear: Linear) -> list[Prepared]:
        """The weight edits of one linear, made ready once."""
        if linear.name not in self._prepared:
            module = self.masks.model.get_submodule(linear.module)
            self._prepared[linear.name] = prepared_edits(module, self.weight_edits)
        return self._prepared[linear.name]

    def clear(self) -> None:
        for kept in (self._unmasked, self._masked, self._outputs, self._changes):
            kept.clear()

    def _at_site(self, group: Group) -> torch.utils.hooks.RemovableHandle:
        scale = self._scale(group)

        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            value = inputs[0]
            if not value.requires_grad:
                value = value.detach().requires_grad_()
            coordinates = self.masks.coordinates(group)
            if scale is not None:
                masked = value * scale.to(value.dtype)
            else:
                masked = value if coordinates is None else value.masked_fill(coordinates, 0.0)
            self._unmasked[group.name], self._masked[group.name] = value, masked
            return (masked, *inputs[1:])

        return self.masks.model.get_submodule(group.site).register_forward_pre_hook(keep)

    def _scale(self, group: Group) -> Tensor | None:
        if group.name not in self.towards:
            return None
        here = (~self.masks.removed[group.name]).to(torch.float32)
        away = self.towards[group.name]
        return (here * (1 - away) + (1 - here) * away).repeat_interleave(group.width)

    def _at_linear(self, linear: Linear) -> torch.utils.hooks.RemovableHandle:
        prepared = self.prepared(linear)

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            self._outputs[linear.name] = output
            x, y = inputs[0].detach(), output.detach()
            self._changes[linear.name] = [each.delta(x, y) for each in prepared]
            return output

        return self.masks.model.get_submodule(linear.module).register_forward_hook(keep)

    def __enter__(self) -> Slopes:
        self._was_attached = self.masks.attached
        self.masks.detach()
        self._hooks = [self._at_site(group) for group in self.masks.anatomy.groups.values()]
        if self.weight_edits:
            self._hooks += [self._at_linear(linear) for linear in self.linears]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self.clear()
        if self._was_attached:
            self.masks.attach()


def prepared_edits(module: nn.Module, weight_edits: Sequence[WeightEdit]) -> list[Prepared]:
    """Each weight edit made ready for the weight ``(outputs, inputs)`` of one linear."""
    weight = module.weight.detach()  # type: ignore[union-attr,operator]
    weight = weight.T if isinstance(module, Conv1D) else weight  # type: ignore[union-attr]
    bias = None if module.bias is None else module.bias.detach()  # type: ignore[operator,union-attr]
    return [edit.prepare(weight.contiguous(), bias) for edit in weight_edits]  # type: ignore[arg-type,union-attr]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside it no parameter asks for a gradient: only activations are differentiated."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def _inner(change: Tensor, gradient: Tensor) -> Float[Tensor, " batch"]:
    return (wide(change) * wide(gradient)).flatten(1).sum(1)


def wide(values: Tensor) -> Tensor:
    """At least float32: what is added up is never added up in a narrow format."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
