"""What others would rank components by, on the same components, rows and slices.

Exact: the naive leave-one-out loop, and Captum's ablation. Approximate: the mask gradient of Michel
et al. 2019, and Torch-Pruning's Taylor and magnitude importance. A high score always says that the
component matters: the exact two give the loss change of its removal (nats, signed), the others a
size that is never negative.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch_pruning as tp
from captum.attr import LayerFeatureAblation
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compress_explain.data.examples import ALL, Batch, Examples
from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import Group

Loss = Callable[[PreTrainedModel, dict[str, Tensor], Tensor], Tensor]  # the loss of each example, nats


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One method's score of each component, per slice; and per example where the method has such a thing."""

    method: str
    components: tuple[str, ...] = field(repr=False)
    slices: dict[str, Float[np.ndarray, " components"]] = field(repr=False)
    per_example: Float[np.ndarray, "rows components"] | None = field(default=None, repr=False)

    def scores(self, slice_name: str = ALL) -> dict[str, float]:
        """The score of each component, by id."""
        return dict(zip(self.components, self.slices[slice_name].tolist(), strict=True))


def classification_loss(model: PreTrainedModel, inputs: dict[str, Tensor], labels: Tensor) -> Float[Tensor, " batch"]:
    """Cross-entropy of each example's label."""
    return torch.nn.functional.cross_entropy(model(**inputs).logits.double(), labels, reduction="none")


def next_token_loss(model: PreTrainedModel, inputs: dict[str, Tensor], labels: Tensor) -> Float[Tensor, " batch"]:
    """Cross-entropy of each example's next tokens, mean over those that are not padding. ``labels`` are not used."""
    logits = model(**inputs, use_cache=False).logits[:, :-1].double()
    targets = inputs["input_ids"][:, 1:]
    counted = inputs["attention_mask"][:, 1:] if "attention_mask" in inputs else torch.ones_like(targets)
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return (losses * counted).sum(1) / counted.sum(1).clamp(min=1)


def leave_one_out(
    masks: Masks, examples: Examples, *, loss: Loss, batch_size: int = 32, components: Sequence[str] = ()
) -> Ranking:
    """Mask one component, run everything, take the difference, unmask it; all components when none are named."""
    names = tuple(components) or _all_components(masks)
    base = _losses(masks, examples, loss, batch_size)
    changes = np.empty((len(examples), len(names)))
    with masks:
        for column, name in enumerate(names):
            masks.remove([name])
            changes[:, column] = _losses(masks, examples, loss, batch_size) - base
            masks.restore([name])
    return _from_examples("leave-one-out", names, changes, examples)


def captum(
    masks: Masks,
    examples: Examples,
    *,
    loss: Loss,
    batch_size: int = 32,
    components: Sequence[str] = (),
    at_once: int = 1,
) -> Ranking:
    """Captum's ``LayerFeatureAblation`` of the site's input, with zero for a baseline.

    Beside one run of the model a component, every site costs each batch two more, and a third when
    only some of its components are asked for. ``at_once`` is Captum's ``perturbations_per_eval``.
    """
    names = tuple(components) or _all_components(masks)
    changes = np.empty((len(examples), len(names)))
    asked = _by_group(masks, names)
    with torch.no_grad():
        for batch in examples.batches(batch_size):
            for group, indices, columns in asked:
                changes[batch.rows[:, None], columns] = _ablate(masks, examples, batch, loss, group, indices, at_once)
    return _from_examples("Captum ablation", names, changes, examples)


def michel(
    masks: Masks, examples: Examples, *, loss: Loss, batch_size: int = 32, layers_normalised: bool = False
) -> Ranking:
    """Michel et al. 2019 (arXiv 1905.10650): mean over examples of the size of dL/dm, m a mask on the component.

    ``layers_normalised`` divides the scores of one layer's heads, or neurons, by their l2 norm, as
    the authors did; ``per_example`` stays as it is.
    """
    groups = list(masks.anatomy.groups.values())
    names = _all_components(masks)
    slopes = np.empty((len(examples), len(names)), dtype=np.float32)
    with _site_inputs(masks.model, groups) as inputs:
        for batch in examples.batches(batch_size):
            losses = loss(masks.model, batch.inputs, _labels(examples, batch))
            seen = [inputs[group.name] for group in groups]
            gradients = torch.autograd.grad(losses.sum(), seen)
            each = [_mask_slope(*parts) for parts in zip(groups, seen, gradients, strict=True)]
            slopes[batch.rows] = torch.cat(each, dim=1).abs().numpy()
    ranking = _from_examples("Michel et al.", names, slopes, examples)
    if layers_normalised:
        for scores in ranking.slices.values():
            _normalise_layers(scores, groups)
    return ranking


def taylor(
    masks: Masks, examples: Examples, *, loss: Loss, batch_size: int = 32, normalizer: str | None = "mean"
) -> Ranking:
    """Torch-Pruning's ``GroupTaylorImportance`` after the backward pass of the mean loss of a slice's rows.

    It lives in weight space: the size of w dL/dw, over what is pruned together. ``normalizer`` is the
    library's, which by default divides by the mean of the layer.
    """
    traced = _trace(masks, examples)
    importance = tp.importance.GroupTaylorImportance(normalizer=normalizer)
    slices = {}
    for name, weights in _slices(examples).items():
        traced.model.zero_grad()
        for batch in examples.batches(batch_size):
            weight = torch.from_numpy(weights[batch.rows])
            inside = weight > 0
            if inside.any():
                inputs = {key: values[inside] for key, values in batch.inputs.items()}
                losses = loss(traced.model, inputs, _labels(examples, batch)[inside])
                (losses @ weight[inside].to(losses.dtype)).backward()
        slices[name] = _group_scores(traced, importance)
    return Ranking(method="Torch-Pruning Taylor", components=_all_components(masks), slices=slices)


def hessian(masks: Masks, examples: Examples, *, loss: Loss, normalizer: str | None = "mean") -> Ranking:
    """Torch-Pruning's ``GroupHessianImportance``: w² times the mean square of dL/dw over single rows, of all rows.

    The library's own ``accumulate_grad`` keeps the last row's gradient only (1.6.1: it looks names up among
    parameters), so the mean is made here and handed over.
    """
    traced = _trace(masks, examples)
    importance = tp.importance.GroupHessianImportance(normalizer=normalizer)
    squares = {each: torch.zeros_like(each) for each in traced.model.parameters()}
    for batch in examples.batches(1):
        traced.model.zero_grad()
        loss(traced.model, batch.inputs, _labels(examples, batch)).sum().backward()
        for each, sum_of_squares in squares.items():
            if each.grad is not None:
                sum_of_squares += each.grad.square() / len(examples)
    for each, mean_square in squares.items():
        each.grad = mean_square
    return Ranking(
        method="Torch-Pruning Hessian",
        components=_all_components(masks),
        slices={ALL: _group_scores(traced, importance)},
    )


def magnitude(masks: Masks, examples: Examples, *, normalizer: str | None = "mean") -> Ranking:
    """Torch-Pruning's ``GroupMagnitudeImportance`` with p = 2: no data, so every slice scores the same."""
    scores = _group_scores(_trace(masks, examples), tp.importance.GroupMagnitudeImportance(p=2, normalizer=normalizer))
    slices = {name: scores.copy() for name in _slices(examples)}
    return Ranking(method="Torch-Pruning magnitude", components=_all_components(masks), slices=slices)


def _all_components(masks: Masks) -> tuple[str, ...]:
    return tuple(component for group in masks.anatomy.groups.values() for component in group.components)


def _slices(examples: Examples) -> dict[str, Float[np.ndarray, " rows"]]:
    """How much each row counts in each slice's mean: rows equally, those of a language model by predicted tokens."""
    size = np.array([len(row) - 1 for row in examples.inputs["input_ids"]]) if examples.tokenwise else 1.0
    weights = {name: members * size for name, members in examples.slices.items()}
    return {name: weight / weight.sum() for name, weight in weights.items() if weight.any()}


def _labels(examples: Examples, batch: Batch) -> Int[Tensor, " batch"]:
    return torch.from_numpy(examples.labels[batch.rows])


def _losses(masks: Masks, examples: Examples, loss: Loss, batch_size: int) -> Float[np.ndarray, " rows"]:
    losses = np.empty(len(examples))
    with torch.inference_mode():
        for batch in examples.batches(batch_size):
            losses[batch.rows] = loss(masks.model, batch.inputs, _labels(examples, batch)).numpy()
    return losses


def _from_examples(
    method: str, components: tuple[str, ...], values: Float[np.ndarray, "rows components"], examples: Examples
) -> Ranking:
    slices = {name: weights @ values for name, weights in _slices(examples).items()}
    return Ranking(method=method, components=components, slices=slices, per_example=values)


# Captum


def _by_group(masks: Masks, components: Sequence[str]) -> list[tuple[Group, list[int], list[int]]]:
    """Each group that is asked for, which of its components, and their places in ``components``."""
    found: dict[str, tuple[Group, list[int], list[int]]] = {}
    for column, component in enumerate(components):
        group, index = masks.anatomy.locate(component)
        _, indices, columns = found.setdefault(group.name, (group, [], []))
        indices.append(index)
        columns.append(column)
    return list(found.values())


def _ablate(
    masks: Masks, examples: Examples, batch: Batch, loss: Loss, group: Group, indices: list[int], at_once: int
) -> Float[np.ndarray, "batch components"]:
    """Captum takes what is lost, eval - ablated eval, for its attribution; of a loss that is the change, negated."""

    def forward(*tensors: Tensor) -> Tensor:
        return loss(masks.model, dict(zip(batch.inputs, tensors, strict=False)), tensors[-1])

    feature = torch.zeros(group.count, dtype=torch.long)  # 0: all the components that nobody asked for
    feature[indices] = torch.arange(1, len(indices) + 1)
    site = masks.model.get_submodule(group.site)
    lost = LayerFeatureAblation(forward, site).attribute(
        tuple(batch.inputs.values()),
        layer_baselines=0.0,
        additional_forward_args=_labels(examples, batch),
        layer_mask=feature.repeat_interleave(group.width)[None, None],
        attribute_to_layer_input=True,
        perturbations_per_eval=at_once,
    )
    return -lost[:, 0, torch.tensor(indices) * group.width].numpy()  # the same at all tokens and coordinates


# Michel et al.


@contextmanager
def _site_inputs(model: PreTrainedModel, groups: Sequence[Group]) -> Iterator[dict[str, Tensor]]:
    """What the consumer of each group was last given, in a graph that gradients can be taken through."""
    seen: dict[str, Tensor] = {}

    def watch(group: Group) -> torch.utils.hooks.RemovableHandle:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            value = inputs[0] if inputs[0].requires_grad else inputs[0].detach().requires_grad_()
            seen[group.name] = value
            return (value, *inputs[1:])

        return model.get_submodule(group.site).register_forward_pre_hook(keep)

    hooks = [watch(group) for group in groups]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _mask_slope(group: Group, value: Tensor, gradient: Tensor) -> Float[Tensor, "batch components"]:
    product = (value.detach() * gradient).flatten(1, -2).sum(1)  # (batch, count * width)
    return product.view(-1, group.count, group.width).sum(-1)


def _normalise_layers(scores: Float[np.ndarray, " components"], groups: Sequence[Group]) -> None:
    start = 0
    for group in groups:
        part = scores[start : start + group.count]
        part /= np.linalg.norm(part) + 1e-20
        start += group.count


# Torch-Pruning


@dataclass(frozen=True, kw_only=True)
class _Traced:
    """A copy of the model made of plain linears, its dependency graph, and the anatomy's groups."""

    model: PreTrainedModel
    graph: tp.DependencyGraph
    groups: tuple[Group, ...]


class _Unfused(nn.Module):
    """GPT-2's projection as three linears.

    Torch-Pruning does not follow indices through a split of the last dimension: it takes the
    consumer's columns for those of the queries, and never sees keys and values.
    """

    def __init__(self, fused: Conv1D) -> None:
        super().__init__()
        weights, biases = fused.weight.chunk(3, dim=1), fused.bias.chunk(3)
        self.parts = nn.ModuleList(_linear(*part) for part in zip(weights, biases, strict=True))

    def forward(self, hidden: Tensor) -> _Split:
        return _Split(part(hidden) for part in self.parts)


class _Split(tuple[Tensor, ...]):
    """The three projections, posing as a tensor that has yet to be split into them."""

    def split(self, size: int, dim: int) -> _Split:
        return self


def _trace(masks: Masks, examples: Examples) -> _Traced:
    """Follow one example through a copy of the model."""
    model = copy.deepcopy(masks.model).requires_grad_(True)
    groups = tuple(masks.anatomy.groups.values())
    _with_plain_linears(model, groups)
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    graph = tp.DependencyGraph()
    graph.build_dependency(
        model,
        example_inputs=next(examples.batches(1)).inputs,
        forward_fn=lambda traced, inputs: traced(**inputs),
        output_transform=lambda output: output.logits.sum(),
        verbose=False,
    )
    return _Traced(model=model, graph=graph, groups=groups)


def _with_plain_linears(model: PreTrainedModel, groups: Sequence[Group]) -> None:
    """Exchange every ``Conv1D`` for what the graph knows."""
    fused = {producer.module for group in groups for producer in group.producers if producer.blocks > 1}
    for path, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            parent, _, name = path.rpartition(".")
            plain = _Unfused(module) if path in fused else _linear(module.weight, module.bias)
            setattr(model.get_submodule(parent), name, plain)


def _linear(weight: Float[Tensor, "inputs outputs"], bias: Float[Tensor, " outputs"]) -> nn.Linear:
    linear = nn.Linear(*weight.shape)
    linear.weight.data, linear.bias.data = weight.detach().T.contiguous(), bias.detach().clone()
    return linear


def _group_scores(traced: _Traced, importance: tp.importance.Importance) -> Float[np.ndarray, " components"]:
    """As the library's pruner does it: score all input channels of the consumer at once, take the mean of a head's."""
    scores = []
    for group in traced.groups:
        site = traced.model.get_submodule(group.site)
        channels = list(range(group.count * group.width))
        together = traced.graph.get_pruning_group(site, tp.prune_linear_in_channels, idxs=channels)
        scores.append(importance(together).view(group.count, group.width).mean(1).numpy())
    return np.concatenate(scores).astype(np.float64)
