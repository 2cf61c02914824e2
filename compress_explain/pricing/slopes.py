"""Where edits meet a model: hooks that keep what flows there, so that one backward pass prices them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from types import TracebackType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.pytorch_utils import Conv1D

from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import Group
from compress_explain.model.heads import logits_in
from compress_explain.pricing.rows import by_row
from compress_explain.weight_edits import Prepared, WeightEdit

_FEW_TOKENS = 128
_PICKED = 0.75  # up to this share of tokens, copying those that matter is cheaper than computing on all


@dataclass
class _Passage:
    """What went through a linear: its input and output, and how its edits change the outputs that matter.

    A token is ``live`` where a gradient has reached it (None: all of them); of the others no change
    is computed. ``changes`` is empty before the first gradient.
    """

    x: Tensor
    y: Tensor
    live: Tensor | None = None
    changes: list[Tensor] = field(default_factory=list)

    def misses(self, gradients: list[Tensor]) -> bool:
        """Whether a gradient arrives at tokens that no change was computed for."""
        live = self.live
        return live is not None and any(bool((_arrives(each) & ~live).any()) for each in gradients)


class Slopes:
    """Per-example contractions of a gradient with what each edit would change.

    At the site of each group the unmasked input is kept, and the masked one for the gradient:
    behind the ordinary mask none would reach a removed part, so the hooks do the masking. At each
    of ``linears``, given by name with the edits of its weight, its input and its output are kept.
    ``towards`` takes the components of some groups part of the way to their other state.
    """

    def __init__(
        self,
        masks: Masks,
        groups: Sequence[Group],
        linears: Mapping[str, Sequence[WeightEdit]] | None = None,
        towards: dict[str, Float[Tensor, " count"]] | None = None,
    ) -> None:
        self.masks, self.groups, self.weight_edits = masks, groups, dict(linears or {})
        self.towards = towards or {}
        self._prepared: dict[str, list[Prepared]] = {}
        self._signs: dict[str, Tensor] = {}
        self._grams: dict[str, Tensor] = {}
        self._unmasked: dict[str, Tensor] = {}
        self._masked: dict[str, Tensor] = {}
        self._passages: dict[str, _Passage] = {}
        self._rows = 0  # of the batch at hand
        self._was_attached = False
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """The model's logits, in at least float32, to be differentiated.

        Attention over few tokens keeps its weights for the backward passes: the fused kernel would
        compute them again in each, which on a processor takes longer.
        """
        self._rows = len(next(iter(inputs.values())))
        tokens, on_processor = self.masks.anatomy.tokens, next(iter(inputs.values())).device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if on_processor and tokens <= _FEW_TOKENS else nullcontext():
            return wide(logits_in(self.masks.model(**inputs)))

    @cached_property
    def columns(self) -> list[slice]:
        """The columns of each block: one a component of each group, then one a weight edit of each linear."""
        widths = [group.count for group in self.groups] + [len(edits) for edits in self.weight_edits.values()]
        ends = list(accumulate(widths))
        return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]

    def gradients(self, outputs: Tensor, slope: Tensor | None, *, last: bool) -> list[Tensor]:
        """Of one scalar an example: at the sites of the groups, then at the outputs of the linears.

        ``slope`` is the gradient of the scalars with respect to ``outputs`` (ones when None);
        ``last`` frees the graph.
        """
        ends = [self._masked[group.name] for group in self.groups]
        ends += [self._passages[name].y for name in self.weight_edits]
        if not ends:
            return []
        found = torch.autograd.grad(outputs, ends, slope, retain_graph=not last)
        return [by_row(gradient, self._rows) for gradient in found]

    def contract(self, gradients: Sequence[Sequence[Tensor]]) -> list[Float[Tensor, "batch columns scalars"]]:
        """How some scalars, whose :meth:`gradients` are given, move under every edit, block by block."""
        ends = [list(each) for each in zip(*gradients, strict=True)]
        sites, outputs = ends[: len(self.groups)], ends[len(self.groups) :]
        blocks = [
            torch.stack([self._switched(group, each) for each in mine], -1)
            for group, mine in zip(self.groups, sites, strict=True)
        ]
        return blocks + [self._edited(name, mine) for name, mine in zip(self.weight_edits, outputs, strict=True)]

    def flow(self, index: int, gradient: Tensor) -> Float[Tensor, "batch components"]:
        """Squared norm of a gradient at the coordinates of each component of group ``index``."""
        group = self.groups[index]
        return wide(gradient).square().flatten(1, -2).sum(1).view(-1, group.count, group.width).sum(-1)

    def reach(self, index: int, gradients: Sequence[Tensor]) -> Float[Tensor, "batch components"]:
        """How far each component of group ``index`` could move some scalars, squared and added up over them.

        Token by token, the size of what it adds to the consumer's output times the size of the scalars'
        ``gradients`` at the site: unlike a move it knows no direction, and nothing cancels.
        """
        group = self.groups[index]
        value = by_row(wide(self._unmasked[group.name].detach()), self._rows)
        parts = value.view(*value.shape[:-1], group.count, group.width)
        added = torch.einsum("...cv,cvw,...cw->...c", parts, self._gram(group), parts)  # squared size
        steep = sum(wide(each).square().sum(-1, keepdim=True) for each in gradients)
        return (added * steep).flatten(1, -2).sum(1)

    def _gram(self, group: Group) -> Tensor:
        """The scalar products of a consumer's columns, component by component ``(count, width, width)``."""
        if group.name not in self._grams:
            weight = wide(_weight(self.masks.model.get_submodule(group.site)))
            columns = weight.view(len(weight), group.count, group.width)
            self._grams[group.name] = torch.einsum("ocv,ocw->cvw", columns, columns)
        return self._grams[group.name]

    def _switched(self, group: Group, gradient: Tensor) -> Tensor:
        value = by_row(self._unmasked[group.name].detach(), self._rows)
        moves = (wide(value) * wide(gradient)).flatten(1, -2).sum(1)  # (batch, count * width)
        if group.width > 1:
            moves = moves.view(-1, group.count, group.width).sum(-1)
        return moves * self._sign(group)

    def _sign(self, group: Group) -> Tensor:
        """Of each component: -1 where it would be removed, 1 where it would be put back."""
        if group.name not in self._signs:
            self._signs[group.name] = torch.where(self.masks.removed[group.name], 1.0, -1.0)
        return self._signs[group.name]

    def _edited(self, name: str, gradients: list[Tensor]) -> Float[Tensor, "batch edits scalars"]:
        """Each weight edit of a linear: the change of its output, where gradients arrive, along each of them."""
        passage = self._passages[name]
        if not passage.changes or passage.misses(gradients):
            passage.live = _live(gradients)
            passage.changes = self._changes(name, passage)
        slopes = [wide(_at(each, passage.live)) for each in gradients]
        if passage.live is None:
            slopes = [each.flatten(1) for each in slopes]
        # (rows or live tokens, width, scalars); one scalar needs no copy
        stacked = torch.stack(slopes, -1) if len(slopes) > 1 else slopes[0][..., None]
        rows, width, _ = stacked.shape
        moves = [torch.bmm(change.view(rows, 1, width), stacked) for change in passage.changes]
        along = torch.cat(moves, 1)  # (rows or live tokens, edits, scalars)
        if passage.live is None:
            return along
        owner = passage.live.nonzero()[:, 0]
        return along.new_zeros(len(gradients[0]), *along.shape[1:]).index_add_(0, owner, along)

    def _changes(self, name: str, passage: _Passage) -> list[Tensor]:
        """How each edit changes the outputs of the live tokens; some edits depend on all there are."""
        x, y, live = by_row(passage.x, self._rows), by_row(passage.y.detach(), self._rows), passage.live
        some = _at(x, live), _at(y, live)
        return [
            wide(_at(prepared.delta(x, y), live) if edit.batchwise else prepared.delta(*some))
            for edit, prepared in zip(self.weight_edits[name], self.prepared(name), strict=True)
        ]

    def prepared(self, name: str) -> list[Prepared]:
        """The weight edits of one linear, made ready once."""
        if name not in self._prepared:
            self._prepared[name] = [self.masks.prepared(name, edit) for edit in self.weight_edits[name]]
        return self._prepared[name]

    def clear(self) -> None:
        for kept in (self._unmasked, self._masked, self._passages):
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

    def _at_linear(self, name: str) -> torch.utils.hooks.RemovableHandle:
        self.prepared(name)

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            self._passages[name] = _Passage(inputs[0].detach(), output)
            return output

        module = self.masks.anatomy.linears[name].module
        return self.masks.model.get_submodule(module).register_forward_hook(keep)

    def __enter__(self) -> Slopes:
        self._signs.clear()
        self._was_attached = self.masks.attached
        self.masks.detach_groups()
        if not self._was_attached:
            self.masks.answer_for_units()
        self._hooks = [self._at_site(group) for group in self.masks.anatomy.groups.values()]
        self._hooks += [self._at_linear(name) for name in self.weight_edits]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self.clear()
        if self._was_attached:
            self.masks.attach()
        else:
            self.masks.answer_for_units(none=True)


def _weight(module: nn.Module) -> Float[Tensor, "outputs inputs"]:
    weight: Tensor = module.weight.detach()  # type: ignore[union-attr,operator,assignment]
    return weight.T if isinstance(module, Conv1D) else weight


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


def _live(gradients: list[Tensor]) -> Tensor | None:
    """Flags ``(batch, *tokens)`` of where a gradient arrives; None for all, also when the longest row has few others."""
    if any(_arrives(each[:1]).float().mean() >= _PICKED for each in gradients):
        return None
    return torch.stack([_arrives(each) for each in gradients]).any(0)


def _arrives(gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(gradient, 1, dim=-1) != 0


def _at(values: Tensor, live: Tensor | None) -> Tensor:
    return values if live is None else values[live]


def wide(values: Tensor) -> Tensor:
    """At least float32: what is added up is never added up in a narrow format."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
