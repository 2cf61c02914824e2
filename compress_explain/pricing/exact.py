"""What edits really do, one by one: each is made for a moment, by mask, and the model is run from there on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from compress_explain.data.examples import Batch, Examples
from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import Group
from compress_explain.model.heads import logits_in
from compress_explain.pricing.decision import Decision
from compress_explain.pricing.impact import Impact, TokenImpact, impact_of
from compress_explain.pricing.menu import Candidate
from compress_explain.pricing.prefix import Prefix, answering
from compress_explain.pricing.rows import by_row
from compress_explain.pricing.slopes import wide
from compress_explain.pricing.sums import Sums
from compress_explain.weight_edits import Prepared, WeightEdit, weight_edit

_AT_ONCE = 64  # rows, each under an edit of its own


class Trials:
    """The edits that are tried, made ready once; ``made`` makes one of them for a moment."""

    def __init__(self, masks: Masks, candidates: Sequence[Candidate]) -> None:
        self.masks, self.candidates = masks, tuple(candidates)
        self._prepared: dict[Candidate, Prepared] = {}

    def place(self, candidate: Candidate) -> str:
        """The module at which an edit begins to matter."""
        anatomy = self.masks.anatomy
        if candidate.kind == "linear":
            return anatomy.linears[candidate.component].module
        if candidate.kind == "layer":
            return anatomy.layers[candidate.component].module
        if candidate.kind == "sublayer":
            return anatomy.groups[anatomy.sublayers[candidate.component].groups[-1]].site
        return anatomy.locate(candidate.component)[0].site

    @contextmanager
    def made(self, candidate: Candidate, prefix: Prefix | None = None) -> Iterator[None]:
        """Inside it the model is edited; what came before the edit is reused from ``prefix``."""
        place = self.place(candidate)
        with ExitStack() as stack:
            if prefix is not None:
                stack.enter_context(prefix.reused(place))
            stack.enter_context(self._edit(candidate, self.masks.model.get_submodule(place), prefix))
            yield

    def _edit(self, candidate: Candidate, module: nn.Module, prefix: Prefix | None) -> AbstractContextManager[None]:
        if candidate.kind == "linear":
            return answering(module, self._edited(candidate))
        if candidate.kind == "sublayer":
            return _silenced(module)
        if candidate.kind == "layer":
            kept = None if prefix is None else prefix.output(self.place(candidate))
            return answering(module, _passing(module, kept))
        masks, off = self.masks, candidate.edit == "remove"
        return _switched(
            *((masks.remove, masks.restore) if off else (masks.restore, masks.remove)), candidate.component
        )

    def _edited(self, candidate: Candidate) -> Callable[..., Any]:
        if candidate not in self._prepared:
            self._prepared[candidate] = self.masks.prepared(candidate.component, weight_edit(candidate.edit))
        return edited(self._prepared[candidate])


def exact_sums(
    trials: Trials,
    examples: Examples,
    batches: Iterable[Batch],
    *,
    reuse: bool = True,
    advance: Callable[[int], None] = lambda rows: None,
) -> Sums:
    """The observed impact of every trial, one column each, over ``batches``.

    With ``reuse`` only what follows an edit is computed; without it, the whole model for each.
    The numbers are the same, bit for bit.
    """
    masks, model = trials.masks, trials.masks.model
    sums = Sums.zeros(len(examples.slice_names), len(trials.candidates))
    with torch.inference_mode(), masked(masks):
        for batch in batches:
            prefix = Prefix(masks, batch.inputs) if reuse else None
            before = logits_in(model(**batch.inputs)) if prefix is None else prefix.logits
            Tally(examples, batch, before).add(sums, _outputs(trials, batch, prefix, advance))
    return sums


def _outputs(trials: Trials, batch: Batch, prefix: Prefix | None, advance: Callable[[int], None]) -> Iterator[Tensor]:
    """The logits of a batch under each trial."""
    for candidate in trials.candidates:
        with trials.made(candidate, prefix):
            after = logits_in(trials.masks.model(**batch.inputs))
        advance(len(batch.rows))
        yield after


@dataclass(frozen=True)
class Tally:
    """Turns what the model says of one batch, as it is and under each trial, into sums."""

    examples: Examples
    batch: Batch
    before: Tensor

    def add(self, sums: Sums, outputs: Iterable[Tensor]) -> None:
        """Count the batch and add the impact of each trial, whose ``outputs`` come in the order of the columns."""
        if not self.examples.tokenwise:
            sums.count(self._members)
            change = wide(torch.stack(list(outputs), 1)) - self._decision.logits[:, None]
            sums.add(slice(0, change.shape[1]), self._members, impact_of(self._decision, change))
            return
        sums.count(self._members.sum(2))
        for column, after in enumerate(outputs):  # one at a time: a vocabulary for every token
            logits = wide(self.examples.decided_on(self.batch, after))
            self._add_tokens(sums, slice(column, column + 1), self._of_tokens.of(logits))

    def _add_tokens(self, sums: Sums, column: slice, impact: Impact) -> None:
        for which, members in enumerate(self._members):
            summed = {name: (values * members).sum(1, keepdim=True) for name, values in impact.items()}
            everyone = torch.ones(1, len(members))
            sums.add(column, everyone, summed, units=members.sum(1), slices=slice(which, which + 1))

    @cached_property
    def _members(self) -> Tensor:
        """Membership in the slices: of rows, or of the predicted tokens of each."""
        examples, batch = self.examples, self.batch
        return examples.token_membership(batch) if examples.tokenwise else examples.slice_matrix(batch.rows)

    @cached_property
    def _of_tokens(self) -> TokenImpact:
        before = wide(self.examples.decided_on(self.batch, self.before))
        return TokenImpact(before, self.examples.targets(self.batch)[0])

    @cached_property
    def _decision(self) -> Decision:
        return Decision(wide(self.before), torch.from_numpy(self.examples.labels[self.batch.rows]))


def exact_of_pairs(
    masks: Masks, prefix: Prefix, group: Group, rows: Int[Tensor, " pairs"], members: Int[Tensor, " pairs"]
) -> Float[Tensor, "pairs classes"]:
    """Logits of rows of a batch, each under one edit on one member of a group; many pairs are run at once."""
    parts = []
    for some_rows, some_members in zip(rows.split(_AT_ONCE), members.split(_AT_ONCE), strict=True):
        with prefix.chosen(group.site, some_rows) as inputs, _each_switched(masks, group, some_members):
            parts.append(masks.model(**inputs).logits)
    return torch.cat(parts)


def exact_of_edits(
    masks: Masks, prefix: Prefix, place: str, edits: Sequence[tuple[str, Prepared, Tensor]]
) -> Float[Tensor, "pairs classes"]:
    """The same for edits of linears: the module of each, the edit, and the rows to try it on.

    What comes before ``place``, the module that holds all those linears, is reused.
    """
    owners = torch.cat([torch.full((len(rows),), number) for number, (_, _, rows) in enumerate(edits)])
    rows = torch.cat([rows for _, _, rows in edits])
    parts = []
    for some_rows, some_owners in zip(rows.split(_AT_ONCE), owners.split(_AT_ONCE), strict=True):
        with ExitStack() as stack:
            inputs = stack.enter_context(prefix.chosen(place, some_rows))
            for number in some_owners.unique().tolist():
                module, prepared, _ = edits[number]
                mine = (some_owners == number).nonzero().flatten()
                stack.enter_context(_rows_edited(masks.model.get_submodule(module), prepared, mine, len(some_owners)))
            parts.append(masks.model(**inputs).logits)
    return torch.cat(parts)


def logits_tried(
    masks: Masks, batch: Batch, units: Iterable[str], linears: Mapping[str, WeightEdit]
) -> Iterator[Float[Tensor, "batch *tokens classes"]]:
    """Logits of a batch with each of these, alone: sublayers and layers removed, or put back where gone; linears edited."""
    edits = [_other_way(masks, unit) for unit in units]
    edits += [_linear_edited(masks, name, edit) for name, edit in linears.items()]
    for edit in edits:
        with edit, masked(masks), torch.inference_mode():
            logits = wide(logits_in(masks.model(**batch.inputs)))
        yield logits


def _other_way(masks: Masks, unit: str) -> AbstractContextManager[None]:
    there, back = (masks.restore, masks.remove) if masks.is_off(unit) else (masks.remove, masks.restore)
    return _switched(there, back, unit)


@contextmanager
def _linear_edited(masks: Masks, name: str, edit: WeightEdit) -> Iterator[None]:
    """Inside it a linear is under an edit; what is quantized now computes in full again."""
    if name in masks.quantized:
        was = {name: masks.quantized[name]}
        with _switched(masks.restore, lambda _: masks.quantize(was), name):
            yield
        return
    module = masks.model.get_submodule(masks.anatomy.linears[name].module)
    with answering(module, edited(masks.prepared(name, edit))):
        yield


@contextmanager
def _rows_edited(module: nn.Module, prepared: Prepared, rows: Int[Tensor, " rows"], count: int) -> Iterator[None]:
    """Inside it a linear answers for some rows, of ``count``, as if it were edited."""

    def edit(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x, y = by_row(inputs[0], count), by_row(output, count)
        return y.index_copy(0, rows, prepared.apply(x[rows]).to(output.dtype)).view(output.shape)

    hook = module.register_forward_hook(edit)
    try:
        yield
    finally:
        hook.remove()


def edited(prepared: Prepared) -> Callable[[Tensor], Tensor]:
    """An answer for a linear whose weight is edited."""
    return lambda x: prepared.apply(x).to(x.dtype)


@contextmanager
def masked(masks: Masks) -> Iterator[None]:
    """Inside it the masks are in place; afterwards they are as they were."""
    was = masks.attached
    masks.attach()
    try:
        yield
    finally:
        if not was:
            masks.detach()


@contextmanager
def _switched(there: Callable[..., None], back: Callable[..., None], component: str) -> Iterator[None]:
    there([component])
    try:
        yield
    finally:
        back([component])


@contextmanager
def _each_switched(masks: Masks, group: Group, members: Tensor) -> Iterator[None]:
    """Inside it the i-th row is run with the i-th of ``members`` switched."""
    off = masks.removed[group.name].repeat(len(members), 1)
    off[torch.arange(len(members)), members] ^= True
    off = off.repeat_interleave(group.width, dim=1)

    def zero(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        value = by_row(inputs[0], len(off))
        masked = value.masked_fill(off.view(len(off), *[1] * (value.dim() - 2), -1), 0.0)
        return (masked.view(inputs[0].shape), *inputs[1:])

    masks.detach_from(group)
    hook = masks.model.get_submodule(group.site).register_forward_pre_hook(zero)
    try:
        yield
    finally:
        hook.remove()
        masks.attach_to(group)


@contextmanager
def _silenced(module: nn.Module) -> Iterator[None]:
    """Inside it a linear's output is zero, its bias included: the sublayer adds nothing."""
    hook = module.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    try:
        yield
    finally:
        hook.remove()


def _passing(module: nn.Module, kept: Any) -> Callable[..., Any]:
    """An answer for a layer that hands its input on, in the form of its usual output (``kept``, when known)."""
    original = module.forward

    def passed(*inputs: Any, **options: Any) -> Any:
        hidden = inputs[0] if inputs else options["hidden_states"]
        output = original(*inputs, **options) if kept is None else kept
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    return passed
