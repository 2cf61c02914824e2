"""The catalogue of a model's components: ids, sites, parameters, FLOPs, dependencies.

Components that meet the residual stream at one site form a :class:`Group`; a component is one
member of a group and is named ``<group>.<index>``, always in the coordinates of the original
model. FLOPs are two per multiply-add, for one example of a given number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compress_explain.embedding import Embedding, read_embedding
from compress_explain.errors import InputError, did_you_mean
from compress_explain.families import AttentionParts, FeedForwardParts, Stack, family_of

Removed = Mapping[str, Bool[Tensor, " count"]]  # by group: which components are gone


@dataclass(frozen=True, kw_only=True)
class Producer:
    """A linear whose outputs belong to a group: ``blocks`` equal blocks, ``width`` rows a component."""

    module: str
    width: int
    blocks: int = 1


@dataclass(frozen=True, kw_only=True)
class Group:
    """Components of one kind that meet at one site.

    ``width`` input coordinates of the ``site`` linear belong to each component, consecutively.
    ``parameters`` and ``flops`` are what removing one component saves.
    """

    name: str
    kind: str
    count: int
    width: int
    site: str
    producers: tuple[Producer, ...]
    parameters: int
    flops: int
    position_bias: str | None = None
    attention: str | None = None

    @cached_property
    def components(self) -> tuple[str, ...]:
        return tuple(f"{self.name}.{index}" for index in range(self.count))

    @property
    def readers(self) -> tuple[tuple[Producer, ...], ...]:
        """Its producers, those that read the same input together: a cross-attention's query reads another than the rest."""
        if ".cross_attention." in self.name:
            return self.producers[:1], self.producers[1:]
        return (self.producers,)

    def rows(self, producer: Producer, kept: Int[Tensor, " kept"]) -> Int[Tensor, " rows"]:
        """The outputs of ``producer`` that belong to the members ``kept``."""
        return _coordinates(kept, producer.width, producer.blocks, self.count)

    def columns(self, kept: Int[Tensor, " kept"]) -> Int[Tensor, " columns"]:
        """The inputs of the site that belong to the members ``kept``."""
        return _coordinates(kept, self.width, 1, self.count)

    @property
    def layer(self) -> str:
        """``encoder.layer.3`` of ``encoder.layer.3.attention.head``."""
        return ".".join(self.name.split(".")[:3])


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One weight matrix, a component for quantization and low rank: ``encoder.layer.2.attention.query``."""

    name: str
    module: str
    inputs: int
    outputs: int
    parameters: int
    flops: int


@dataclass(frozen=True, kw_only=True)
class Sublayer:
    """An attention or feed-forward sublayer: the components that it is made of."""

    name: str
    groups: tuple[str, ...]
    linears: tuple[str, ...]
    parameters: int
    flops: int


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a stack and its sublayers; ``module`` is its path in the model.

    ``norm`` is that of :class:`~compress_explain.families.Stack`.
    """

    name: str
    module: str
    norm: Literal["before", "after"]
    sublayers: tuple[str, ...]
    parameters: int
    flops: int

    @property
    def stack(self) -> str:
        """``encoder`` of ``encoder.layer.3``."""
        return self.name.split(".")[0]


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Every component of one model at one number of tokens an example; ``embedding`` is None when it reads no tokens."""

    family: str
    model_class: str
    tokens: int
    parameters: int
    groups: dict[str, Group] = field(repr=False)
    linears: dict[str, Linear] = field(repr=False)
    sublayers: dict[str, Sublayer] = field(repr=False)
    layers: dict[str, Layer] = field(repr=False)
    embedding: Embedding | None = None

    @cached_property
    def parts(self) -> Mapping[str, Group | Embedding]:
        """Whatever has removable components, by name: the groups, and the token embedding if there is one."""
        return {**self.groups, **({} if self.embedding is None else {self.embedding.name: self.embedding})}

    @property
    def flops(self) -> int:
        """FLOPs of all layers for one example of ``tokens`` tokens."""
        return sum(layer.flops for layer in self.layers.values())

    @property
    def parameters_elsewhere(self) -> int:
        """Parameters outside the layers: embeddings, final norms, task head."""
        return self.parameters - sum(layer.parameters for layer in self.layers.values())

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of components that meet at a site, e.g. ``("head", "neuron")``."""
        return tuple(dict.fromkeys(group.kind for group in self.groups.values()))

    def of_kind(self, *kinds: str) -> Iterator[Group]:
        return (group for group in self.groups.values() if group.kind in kinds)

    def locate(self, component: str) -> tuple[Group, int]:
        """The group of ``component``, which meets others at a site, and its index in it.

        Raises:
            InputError: there is no such component.
        """
        part, index = self.find(component)
        if isinstance(part, Embedding):
            raise InputError("component", component, "a token meets no site", "give a head or a neuron")
        return part, index

    def find(self, component: str) -> tuple[Group | Embedding, int]:
        """The group of ``component`` or the embedding that it is a row of, and its index there.

        Raises:
            InputError: there is no such component.
        """
        name, _, index = component.rpartition(".")
        group = self.parts.get(name)
        if group is None or not index.isdecimal() or int(index) >= group.count:
            raise InputError(
                "component",
                component,
                "no such component in this model",
                f"{did_you_mean(name, self.parts)}, followed by an index from 0",
            )
        return group, int(index)

    def saved(self, removed: dict[str, torch.Tensor]) -> tuple[int, int]:
        """Parameters and FLOPs saved when, per group, the flagged components are removed."""
        counts = {name: int(flags.sum()) for name, flags in removed.items()}
        parameters = sum(self.parts[name].parameters * count for name, count in counts.items())
        flops = sum(self.parts[name].flops * count for name, count in counts.items())
        return parameters, flops


def read_anatomy(model: PreTrainedModel, tokens: int) -> Anatomy:
    """Catalogue ``model`` for examples of ``tokens`` tokens.

    Raises:
        InputError: the model's family is unknown.
    """
    family = family_of(model.config.model_type)
    reader = _Reader(model, tokens)
    for stack in family.stacks:
        reader.read_stack(stack)
    return Anatomy(
        family=family.model_type,
        model_class=type(model).__name__,
        tokens=tokens,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        groups=reader.groups,
        linears=reader.linears,
        sublayers=reader.sublayers,
        layers=reader.layers,
        embedding=read_embedding(model),
    )


def _coordinates(kept: Int[Tensor, " kept"], width: int, blocks: int, count: int) -> Int[Tensor, " coordinates"]:
    """Coordinates of the kept components, ``width`` each, repeated over ``blocks`` blocks."""
    within = (kept[:, None] * width + torch.arange(width)).flatten()
    return (torch.arange(blocks)[:, None] * (count * width) + within).flatten()


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """``(inputs, outputs)`` of a linear, also of GPT-2's transposed ``Conv1D``."""
    rows, columns = module.weight.shape  # type: ignore[union-attr,misc]
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def base_prefix(model: PreTrainedModel) -> str:
    """Where ``model.base_model`` lies in the model: ``"bert."``, or nothing when it is the model itself."""
    base = model.base_model
    return next((name + "." for name, module in model.named_modules() if module is base and name), "")


class _Reader:
    """Walks the stacks of one model and fills the catalogue."""

    def __init__(self, model: PreTrainedModel, tokens: int) -> None:
        self.model, self.tokens = model, tokens
        self.prefix = base_prefix(model)
        self.groups: dict[str, Group] = {}
        self.linears: dict[str, Linear] = {}
        self.sublayers: dict[str, Sublayer] = {}
        self.layers: dict[str, Layer] = {}

    def read_stack(self, stack: Stack) -> None:
        path = self.prefix + stack.layers
        try:
            blocks = self.model.get_submodule(path)
        except AttributeError:
            return  # e.g. an encoder-only use of an encoder-decoder family
        for index, block in enumerate(blocks.children()):
            self._read_layer(stack, f"{stack.name}.layer.{index}", f"{path}.{index}", block)

    def _read_layer(self, stack: Stack, name: str, path: str, block: nn.Module) -> None:
        sublayers = [self._read_attention(name, path, parts) for parts in stack.attention]
        sublayers.append(self._read_feed_forward(name, path, _present(block, stack.feed_forward)))
        self.sublayers.update({sublayer.name: sublayer for sublayer in sublayers})
        self.layers[name] = Layer(
            name=name,
            module=path,
            norm=stack.norm,
            sublayers=tuple(sublayer.name for sublayer in sublayers),
            parameters=sum(parameter.numel() for parameter in block.parameters()),
            flops=sum(sublayer.flops for sublayer in sublayers),
        )

    def _read_attention(self, layer: str, path: str, parts: AttentionParts) -> Sublayer:
        sublayer = f"{layer}.{'cross_attention' if parts.cross else 'attention'}"
        config = self.model.config
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        site = f"{path}.{parts.output}"
        head_dim = linear_shape(self.model.get_submodule(site))[0] // heads
        width = head_dim * heads // groups
        names = ("qkv", "output") if parts.fused else ("query", "key", "value", "output")
        paths = (parts.query, parts.output) if parts.fused else (parts.query, parts.key, parts.value, parts.output)
        linears = self._read_linears(sublayer, path, dict(zip(names, paths, strict=True)))
        producers = (
            (Producer(module=f"{path}.{parts.query}", width=head_dim, blocks=3),)
            if parts.fused
            else (
                Producer(module=f"{path}.{parts.query}", width=width),
                Producer(module=f"{path}.{parts.key}", width=head_dim),
                Producer(module=f"{path}.{parts.value}", width=head_dim),
            )
        )
        bias = f"{path}.{parts.module}.{parts.position_bias}" if parts.position_bias else None
        scores = 2 * 2 * self.tokens * self.tokens * width  # queries × keys, then weights × values
        kind = "head" if groups == heads else "kv_group"
        group = Group(
            name=f"{sublayer}.{'head' if groups == heads else 'group'}",
            kind=kind,
            count=groups,
            width=width,
            site=site,
            producers=producers,
            parameters=self._parameters(producers, site, width) + self._bias_rows(bias),
            flops=self._flops(producers, site, width) + scores,
            position_bias=bias,
            attention=f"{path}.{parts.module}",
        )
        return self._sublayer(sublayer, group, linears, path + "." + parts.module, scores * groups)

    def _read_feed_forward(self, layer: str, path: str, parts: FeedForwardParts) -> Sublayer:
        sublayer = f"{layer}.ffn"
        named = {"gate": parts.gate, "up": parts.up, "down": parts.down}
        linears = self._read_linears(sublayer, path, {name: part for name, part in named.items() if part})
        site = f"{path}.{parts.down}"
        producers = tuple(Producer(module=f"{path}.{part}", width=1) for part in (parts.gate, parts.up) if part)
        group = Group(
            name=f"{sublayer}.neuron",
            kind="neuron",
            count=linear_shape(self.model.get_submodule(site))[0],
            width=1,
            site=site,
            producers=producers,
            parameters=self._parameters(producers, site, 1),
            flops=self._flops(producers, site, 1),
        )
        return self._sublayer(sublayer, group, linears, None, 0)

    def _sublayer(self, name: str, group: Group, linears: list[Linear], attention: str | None, scores: int) -> Sublayer:
        self.groups[group.name] = group
        self.linears.update({linear.name: linear for linear in linears})
        own = 0
        if attention is not None:
            own = self._bias_rows(group.position_bias) * group.count
        return Sublayer(
            name=name,
            groups=(group.name,),
            linears=tuple(linear.name for linear in linears),
            parameters=sum(linear.parameters for linear in linears) + own,
            flops=sum(linear.flops for linear in linears) + scores,
        )

    def _read_linears(self, sublayer: str, path: str, parts: dict[str, str]) -> list[Linear]:
        linears = []
        for name, part in parts.items():
            module = self.model.get_submodule(f"{path}.{part}")
            inputs, outputs = linear_shape(module)
            linears.append(
                Linear(
                    name=f"{sublayer}.{name}",
                    module=f"{path}.{part}",
                    inputs=inputs,
                    outputs=outputs,
                    parameters=sum(parameter.numel() for parameter in module.parameters()),
                    flops=2 * self.tokens * inputs * outputs,
                )
            )
        return linears

    def _parameters(self, producers: tuple[Producer, ...], site: str, width: int) -> int:
        """Weights and biases of one component: its producers' rows and its consumer's columns."""
        total = linear_shape(self.model.get_submodule(site))[1] * width
        for producer in producers:
            module = self.model.get_submodule(producer.module)
            rows = producer.width * producer.blocks
            total += rows * (linear_shape(module)[0] + (module.bias is not None))
        return total

    def _flops(self, producers: tuple[Producer, ...], site: str, width: int) -> int:
        multiply_adds = linear_shape(self.model.get_submodule(site))[1] * width
        for producer in producers:
            inputs = linear_shape(self.model.get_submodule(producer.module))[0]
            multiply_adds += inputs * producer.width * producer.blocks
        return 2 * self.tokens * multiply_adds

    def _bias_rows(self, path: str | None) -> int:
        """Parameters of one head in this layer's own position bias, 0 when another layer owns it."""
        if path is None:
            return 0
        owner, _, name = path.rpartition(".")
        embedding = getattr(self.model.get_submodule(owner), name, None)
        return 0 if embedding is None else embedding.num_embeddings


def _present(block: nn.Module, forms: tuple[FeedForwardParts, ...]) -> FeedForwardParts:
    modules = {name for name, _ in block.named_modules()}
    return next(form for form in forms if {form.up, form.down} <= modules and (not form.gate or form.gate in modules))
