"""Torch-Pruning's dependency graph asked about the residual stream: where its channels lie.

The graph follows the autograd graph of a real forward pass, of a copy of the model. All that comes
back is put into our own coordinates and tried: what it says lies in a channel is cut out of one copy
and masked in another, and a model of which the two do not compute the same is refused.
Fang et al., DepGraph (arXiv:2301.12900).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compress_explain.editing.masks import Masks
from compress_explain.editing.narrowed_stream import is_norm
from compress_explain.editing.surgery import as_linear, materialize
from compress_explain.errors import InputError
from compress_explain.model.anatomy import Anatomy
from compress_explain.model.embedding import token_tables
from compress_explain.model.heads import logits_in
from compress_explain.model.stream import CHANNELS, Place, Stream

_KNOWN = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Conv1d, nn.Conv2d)
_SAME = {torch.float32: 1e-3}  # of the spread of a model's output: above rounding, far below what a wrong place does
_SAME_NARROW = 0.1  # in formats of fewer bits
_REMEDY = "leave out the strategy width for this model"


@dataclass(frozen=True)
class Traced:
    """A copy of a model, the dependency graph of one pass of it, and the modules that ``ran``."""

    model: PreTrainedModel
    graph: Any = field(repr=False)
    ran: tuple[nn.Module, ...] = field(repr=False)

    def group(self, module: nn.Module, *, inputs: bool = False) -> Any:
        """The pruning group of all channels that a module gives, or reads."""
        pruner = self.graph.get_pruner_of_module(module)
        prune, count = (
            (pruner.prune_in_channels, pruner.get_in_channels)
            if inputs
            else (pruner.prune_out_channels, pruner.get_out_channels)
        )
        found = self.graph.get_pruning_group(module, prune, idxs=list(range(count(module))))
        found.items[1:] = sorted(found.items[1:], key=self._place)  # it comes in no order, and sums are taken over it
        return found

    def _place(self, item: Any) -> tuple[str, str]:
        return self._names.get(id(item.dep.target.module), ""), item.dep.handler.__name__

    @cached_property
    def _names(self) -> dict[int, str]:
        names = {id(module): name for name, module in self.model.named_modules()}
        return names | {id(parameter): name for name, parameter in self.model.named_parameters()}


def find_stream(model: PreTrainedModel, anatomy: Anatomy, inputs: Mapping[str, Tensor]) -> Stream:
    """Where the channels of the residual stream lie, found on one batch of ``inputs`` and tried on it.

    Raises:
        InputError: the graph cannot be followed, layers do not share one stream, or it leaves something out.
    """
    source = model.config.model_type
    try:
        found = trace(model, inputs)
        root = next(iter(anatomy.groups.values())).site
        groups = with_ties(found, found.group(found.model.get_submodule(root)))
    except (RuntimeError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        problem = f"Torch-Pruning cannot follow its graph ({type(error).__name__}: {str(error)[:120]})"
        raise InputError("strategies: width", source, problem, _REMEDY) from None
    stream = _read(model, found, groups, count=len(groups[0][0].idxs))
    _refuse_several(model, anatomy, stream)
    _refuse_unlike(model, anatomy.with_stream(stream), inputs)
    return stream


def trace(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Traced:
    """The dependency graph of one pass of a copy of ``model``."""
    import torch_pruning as tp  # a second to import

    subject, graph = _ordinary(model), tp.DependencyGraph()
    with torch.enable_grad():
        ran, unheard = _ran(subject, inputs)
        graph.build_dependency(
            subject,
            example_inputs=dict(inputs),
            forward_fn=lambda model, example: _outputs(model, example, unheard),
            unwrapped_parameters=_unwrapped(subject, ran),
            customized_pruners={},
            verbose=False,
        )
    return Traced(subject, graph, tuple(ran))


def _ordinary(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of which the graph knows all modules: linears as linears, attention spelled out, nothing cached."""
    subject = copy.deepcopy(model).float().eval().requires_grad_(True)
    subject.set_attn_implementation("eager")
    if hasattr(subject.config, "use_cache"):
        subject.config.use_cache = False
    for name, module in list(subject.named_modules()):
        if isinstance(module, Conv1D):
            subject.set_submodule(name, as_linear(module))
    return subject


def _ran(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules with parameters of their own that run, and those of them whose result nobody hears of."""
    own = [module for module in model.modules() if module._parameters]
    with _listening(own) as heard:
        _answer(model(**inputs)).sum().backward()
    ran = list(heard)
    unheard = [module for module in ran if all(each.grad is None for each in _parameters_of(module))]
    model.zero_grad(set_to_none=True)
    return ran, unheard


@contextmanager
def _listening(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Any]]:
    """Inside it what each of these modules gives is kept."""
    heard: dict[nn.Module, Any] = {}
    handles = [module.register_forward_hook(partial(_hear, heard)) for module in modules]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _hear(heard: dict[nn.Module, Any], module: nn.Module, inputs: Any, output: Any) -> None:
    heard[module] = output


def _outputs(model: PreTrainedModel, inputs: Mapping[str, Tensor], unheard: Sequence[nn.Module]) -> list[Tensor]:
    """What a pass gives in the end, and of what it computes and never uses, so that the graph leads there too."""
    with _listening(unheard) as heard:
        given = _answer(model(**inputs)).sum()
    return [given, *(output.sum() for output in heard.values() if isinstance(output, Tensor))]


def _answer(output: Any) -> Tensor:
    """The logits, or what a model without any gives first."""
    if "logits" in output or "start_logits" in output:
        return logits_in(output)
    return next(each for each in output.values() if isinstance(each, Tensor))


def _unwrapped(model: PreTrainedModel, ran: Sequence[nn.Module]) -> list[tuple[nn.Parameter, int]]:
    """The parameters that are not those of a module that the graph knows and that ran; their channels come last."""
    known = {id(each) for module in ran if isinstance(module, _KNOWN) for each in module._parameters.values()}
    return [(each, each.dim() - 1) for each in model.parameters() if id(each) not in known]


def with_ties(traced: Traced, first: Any) -> list[Any]:
    """A pruning group, and those of modules that share a parameter with it: tied tables are one."""
    groups, waiting = list[Any](), [first]
    targets = set[int]()
    while waiting:
        groups.append(waiting.pop())
        found = [item.dep.target.module for item in groups[-1]]
        targets |= set(map(id, found))
        tied = {id(each) for target in found for each in _parameters_of(target)}
        for module in traced.ran:
            if isinstance(module, nn.Linear | nn.Embedding) and id(module) not in targets and id(module.weight) in tied:
                targets.add(id(module))
                waiting.append(traced.group(module, inputs=isinstance(module, nn.Linear)))  # a head reads the stream
    return groups


def _parameters_of(target: Any) -> list[nn.Parameter]:
    if isinstance(target, nn.Parameter):
        return [target]
    return [each for each in getattr(target, "_parameters", {}).values() if each is not None]


def _read(model: PreTrainedModel, traced: Traced, groups: Sequence[Any], count: int) -> Stream:
    """The groups in our words and in the shapes of ``model``."""
    names = {id(module): name for name, module in traced.model.named_modules()}
    parameters = {id(each): name for name, each in traced.model.named_parameters()}
    found: dict[tuple[str, int], set[int]] = {}
    reads: dict[str, set[int]] = {}
    writes: dict[str, None] = {}
    norms: dict[str, None] = {}
    for item in (item for group in groups for item in group):
        target, indices = item.dep.target.module, set(item.idxs)
        for parameter, dimension in _dimensions(item, target):
            place = (parameters[id(parameter)], dimension)
            found.setdefault(place, set()).update(indices)
        name = names.get(id(target))
        if name is None or not isinstance(target, _KNOWN):
            continue
        if isinstance(target, nn.LayerNorm):
            norms[name] = None
        elif item.dep.handler.__name__ == "prune_in_channels":
            reads.setdefault(name, set()).update(indices)
        elif not isinstance(target, nn.Embedding):
            writes[name] = None
    norms |= dict.fromkeys(_other_norms(model, found, count))
    source = model.config.model_type
    return Stream(
        count=count,
        places=tuple(_place(model, name, dimension, each, count) for (name, dimension), each in found.items()),
        reads={
            name: _starts(source, name, _blocks(indices, _inputs(model.get_submodule(name)), count), count)
            for name, indices in reads.items()
        },
        writes=tuple(writes),
        norms=tuple(norms),
        tables=token_tables(model),
    )


def _dimensions(item: Any, target: Any) -> Iterator[tuple[nn.Parameter, int]]:
    """Along which dimension of which parameters of a target a dependency prunes."""
    if isinstance(target, nn.Parameter):
        yield target, target.dim() - 1
    elif isinstance(target, _KNOWN):
        inputs = item.dep.handler.__name__ == "prune_in_channels" and not isinstance(target, nn.LayerNorm)
        yield target.weight, 1 if inputs or isinstance(target, nn.Embedding) else 0  # type: ignore[misc]
        bias = getattr(target, "bias", None)
        if bias is not None and not inputs:
            yield bias, 0


def _place(model: PreTrainedModel, name: str, dimension: int, indices: set[int], count: int) -> Place:
    """In the layout of ``model``, whose ``Conv1D`` is transposed."""
    owner, _, own = name.rpartition(".")
    parameter = model.get_parameter(name)
    if own == "weight" and isinstance(model.get_submodule(owner), Conv1D):
        dimension = 1 - dimension
    length = parameter.shape[dimension]
    starts = _starts(model.config.model_type, name, _blocks(indices, length, count), count)
    each = len(starts) * parameter.numel() // parameter.shape[dimension]
    return Place(parameter=name, dimension=dimension, parameters=each, starts=starts)


def _starts(source: str, name: str, indices: set[int], count: int) -> tuple[int, ...]:
    """The first of each block of all channels.

    Raises:
        InputError: they do not lie in whole blocks.
    """
    starts = tuple(sorted(indices)[::count])
    if set(indices) != {start + channel for start in starts for channel in range(count)}:
        raise InputError("strategies: width", source, f"channels lie scattered in {name}", _REMEDY)
    return starts


def _inputs(module: nn.Module) -> int:
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.shape[0 if isinstance(module, Conv1D) else 1]


def _blocks(indices: set[int], length: int, count: int) -> set[int]:
    """The graph finds the first of several states put side by side (DINOv2's classifier); whether it is so is tried later."""
    if length % count or indices != set(range(count)):
        return indices
    return set(range(length))


def _other_norms(model: PreTrainedModel, found: Mapping[tuple[str, int], object], count: int) -> Iterator[str]:
    """Modules with one weight a channel that mix channels: norms of a kind that torch does not know."""
    for name in (name.rpartition(".")[0] for name, _ in found):
        module = model.get_submodule(name)
        weight = module._parameters.get("weight")
        if isinstance(module, _KNOWN) or weight is None or weight.shape != (count,):
            continue
        if is_norm(module, count):
            yield name


def _refuse_several(model: PreTrainedModel, anatomy: Anatomy, stream: Stream) -> None:
    """Raises InputError where a layer reads or writes another stream, or something lies in it on both sides."""
    for problem in _problems(model, anatomy, stream):
        raise InputError("strategies: width", model.config.model_type, problem, _REMEDY)


def _problems(model: PreTrainedModel, anatomy: Anatomy, stream: Stream) -> Iterator[str]:
    for group in anatomy.groups.values():
        if group.site not in stream.writes:
            yield f"{group.name} does not write to the same residual stream as {next(iter(anatomy.groups))}"
    names = [place.parameter for place in stream.places]
    yield from (f"{name} both reads the residual stream and writes to it" for name in names if names.count(name) > 1)
    for linear in anatomy.linears.values():
        if (linear.module in stream.reads) == (linear.module in stream.writes):
            yield f"{linear.name} neither reads the residual stream alone nor writes to it alone"
    for name in stream.reads:
        if not isinstance(model.get_submodule(name), nn.Linear | Conv1D):
            yield f"{name} reads the residual stream and is no linear"


def _refuse_unlike(model: PreTrainedModel, anatomy: Anatomy, inputs: Mapping[str, Tensor]) -> None:
    """Raises InputError unless the model with some channels masked computes what it does with them cut out."""
    stream = anatomy.stream
    assert stream is not None, "its places were just found"
    flags = torch.arange(stream.count) % 3 == 1
    removed = {CHANNELS: flags}
    try:
        with torch.inference_mode(), Masks(model, anatomy) as masks:
            masks.remove(each for each, gone in zip(stream.components, flags.tolist(), strict=True) if gone)
            masked = _answer(model(**inputs)).float()
        with torch.inference_mode():
            cut = _answer(materialize(model, anatomy, removed)(**inputs)).float()
        if masked.shape != cut.shape:
            raise ValueError("its answer is the residual stream itself")
        apart = float((masked - cut).abs().max() / masked.std().clamp(min=1e-6))
        problem = f"what is cut out differs from what is masked by {apart:.2g} of its spread"
    except (RuntimeError, ValueError, StopIteration) as error:
        apart, problem = torch.inf, f"it cannot do without some of its channels ({str(error)[:120]})"
    if not apart < _SAME.get(model.dtype, _SAME_NARROW):
        raise InputError("strategies: width", model.config.model_type, problem, _REMEDY)
