"""What the channels of the stream are worth to the importances of Torch-Pruning, asked of the model as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.data.examples import Examples
from compress_explain.editing.depgraph import trace, with_ties
from compress_explain.editing.masks import Masks
from compress_explain.editing.surgery import materialize
from compress_explain.model.embedding import TOKENS
from compress_explain.model.heads import logits_in
from compress_explain.plugins.strategy import Narrowing, Worth
from compress_explain.pricing.channels import loss_without_each, summed_loss

IMPORTANCES = {  # by name: the class of Torch-Pruning
    "magnitude": "GroupMagnitudeImportance",
    "taylor": "GroupTaylorImportance",
    "hessian": "GroupHessianImportance",
    "lamp": "LAMPImportance",
    "fpgm": "FPGMImportance",
    "random": "RandomImportance",
}
_OF_GRADIENTS = ("taylor", "hessian")


def worth_of(
    masks: Masks,
    examples: Examples,
    strategy: Narrowing,
    *,
    batch_size: int,
    seed: int,
    advance: Callable[[int], None] = lambda rows: None,
) -> Worth:
    """What every channel is worth to a strategy in the present state of a model, asked on some of the examples."""
    rows = examples.draw(strategy.gradient_rows, seed)
    change = loss_without_each(masks, rows, batch_size, advance)
    found = importance(masks, rows, strategy.importance, batch_size=batch_size, seed=seed)
    return Worth(importance=found, loss_change=change)


def importance(
    masks: Masks, examples: Examples, name: str, *, batch_size: int, seed: int
) -> Float[Tensor, " channels"]:
    """What each channel that is there is worth to an importance of Torch-Pruning, higher for more; NaN for those removed.

    The model is asked as it is now, without what is removed. Gradients, where it takes any, are those of the loss on
    ``examples``.
    """
    stream, kept = masks.anatomy.stream, masks.channels_here.bool()
    assert stream is not None, "the channels of this model are known"
    removed = {name: flags for name, flags in masks.removed.items() if name != TOKENS}  # rows keep their numbers
    with masks.untouched():
        smaller = materialize(masks.model, masks.anatomy, removed, masks.standing)
    graph = trace(smaller, next(examples.batches(2)).inputs)
    writers = _modules(graph.model, stream.writes)
    root = next(each for each in writers if each in graph.ran and _width(each) == int(kept.sum()))
    groups = with_ties(graph, graph.group(root))
    if name in _OF_GRADIENTS:
        _take_gradients(graph.model, examples, 1 if name == "hessian" else batch_size, squared=name == "hessian")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = _scorer(name)
        scores = torch.stack([scorer(group).float() for group in groups]).mean(0)
    found = torch.full((stream.count,), torch.nan)
    found[kept] = scores.detach()
    return found


def _scorer(name: str) -> Any:
    import torch_pruning as tp

    return getattr(tp.pruner.importance, IMPORTANCES[name])()


def _modules(model: PreTrainedModel, names: Sequence[str]) -> Iterator[nn.Module]:
    modules = dict(model.named_modules())
    return (modules[name] for name in names if name in modules)


def _width(module: nn.Module) -> int | None:
    return getattr(module, "out_features", None)


def _take_gradients(model: PreTrainedModel, examples: Examples, batch_size: int, *, squared: bool) -> None:
    """Leave in every parameter the gradient of the mean loss, or the mean of the squares of those of the batches.

    Torch-Pruning's own accumulation of squares keeps the last batch only.
    """
    totals = {parameter: torch.zeros_like(parameter) for parameter in model.parameters()}
    decisions = 0
    for batch in examples.batches(batch_size):
        model.zero_grad(set_to_none=True)
        with torch.enable_grad():
            loss, count = summed_loss(examples, batch, logits_in(model(**batch.inputs)))
            loss.backward()
        decisions += count
        for parameter, total in totals.items():
            if parameter.grad is not None:
                total += parameter.grad.square() if squared else parameter.grad
    for parameter, total in totals.items():
        parameter.grad = total / max(1, decisions)
