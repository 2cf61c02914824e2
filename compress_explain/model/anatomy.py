"""The catalogue of a model's components, read from its family's row and its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compress_explain.errors import InputError, did_you_mean
from compress_explain.families import AttentionParts, FeedForwardParts, Stack, family_of
from compress_explain.model.components import Group, Layer, Linear, Producer, Sublayer
from compress_explain.model.embedding import Embedding, read_embedding
from compress_explain.model.emptied import EmptiedAttention, Nothing
from compress_explain.model.factored import FactoredLinear
from compress_explain.model.stream import CHANNELS, Stream, across, channels_gone, flops_across
from compress_explain.weight_edits.factors import weights_saved

__all__ = [
    "Anatomy",
    "Group",
    "Layer",
    "Linear",
    "Part",
    "Producer",
    "Ranks",
    "Removed",
    "Sublayer",
    "base_prefix",
    "linear_shape",
    "read_anatomy",
]

Removed = Mapping[str, Bool[Tensor, " count"]]  # by group, sublayer or layer: which components are gone
Ranks = Mapping[str, int]  # by linear that two stand in the place of: the rank
Part = Group | Embedding | Stream | Sublayer | Layer  # whatever has components


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Every component of one model at one number of tokens an example.

    ``embedding`` is None when it reads no tokens, ``stream`` unless somebody found out where its channels lie.
    """

    family: str
    model_class: str
    tokens: int
    parameters: int
    groups: dict[str, Group] = field(repr=False)
    linears: dict[str, Linear] = field(repr=False)
    sublayers: dict[str, Sublayer] = field(repr=False)
    layers: dict[str, Layer] = field(repr=False)
    embedding: Embedding | None = None
    stream: Stream | None = None

    @cached_property
    def parts(self) -> Mapping[str, Group | Embedding | Stream]:
        """Whatever has removable components, by name: the groups, the token embedding and the stream if there is one."""
        return {**self.groups, **{each.name: each for each in (self.embedding, self.stream) if each is not None}}

    def with_stream(self, stream: Stream) -> Anatomy:
        """The anatomy, with the channels of its residual stream as components."""
        return replace(self, stream=replace(stream, flops=flops_across(self, stream, self.linears)))

    @cached_property
    def units(self) -> Mapping[str, Sublayer | Layer]:
        """What is a component as a whole and holds others, by name: sublayers and layers."""
        return {**self.sublayers, **self.layers}

    def within(self, unit: str) -> tuple[str, ...]:
        """The sublayers and groups that a unit holds."""
        if unit in self.sublayers:
            return self.sublayers[unit].groups
        sublayers = self.layers[unit].sublayers
        return (*sublayers, *(group for sublayer in sublayers for group in self.sublayers[sublayer].groups))

    def closed(self, removed: Removed) -> Removed:
        """``removed`` with everything that lies in a removed unit."""
        units = [name for name, flags in removed.items() if name in self.units and flags.any()]
        gone = dict.fromkeys(inner for unit in units for inner in self.within(unit))
        return {**removed, **{name: torch.ones(self.part(name).count, dtype=torch.bool) for name in gone}}

    def part(self, name: str) -> Part:
        """The group, embedding, sublayer or layer of this name."""
        return self.units[name] if name in self.units else self.parts[name]

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
        if not isinstance(part, Group):
            raise InputError("component", component, f"a {part.kind} meets no site", "give a head or a neuron")
        return part, index

    def find(self, component: str) -> tuple[Part, int]:
        """The part of ``component``, its group, the embedding that it is a row of or itself, and its index there.

        Raises:
            InputError: there is no such component.
        """
        if component in self.units:
            return self.units[component], 0
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

    def saved(self, removed: Removed, ranks: Ranks = MappingProxyType({})) -> tuple[int, int]:
        """Parameters and FLOPs saved when the flagged components are removed, each counted once.

        And by two linears of a rank in the place of one, of what is left of it.
        """
        counts = {name: int(flags.sum()) for name, flags in self.closed(removed).items()}
        parameters = sum(self._alone[name][0] * count for name, count in counts.items() if count)
        flops = sum(self._alone[name][1] * count for name, count in counts.items() if count)
        thinner = {name: self.weights_saved(name, removed, rank) for name, rank in ranks.items()}
        twice = self._in_channels(counts)
        parameters, flops = parameters - twice[0], flops - twice[1]
        return (
            parameters + sum(thinner.values()),
            flops + sum(2 * self.linears[name].tokens * weights for name, weights in thinner.items()),
        )

    def channel_costs(self, removed: Removed) -> tuple[int, int]:
        """Parameters and FLOPs that one channel takes of what the other removals leave."""
        assert self.stream is not None, "the channels of this model are known"
        counts = {name: int(flags.sum()) for name, flags in self.closed(removed).items()}
        parameters, flops = self._in_channels({**counts, CHANNELS: 1})
        return self.stream.parameters - parameters, self.stream.flops - flops

    def _in_channels(self, counts: Mapping[str, int]) -> tuple[int, int]:
        """Parameters and FLOPs of removed channels that other removed components are made of too."""
        channels = counts.get(CHANNELS, 0)
        if not channels:
            return 0, 0
        others = [(count, self._across_alone[name]) for name, count in counts.items() if count and name != CHANNELS]
        parameters, flops = (sum(count * each[which] for count, each in others) for which in (0, 1))
        return channels * parameters, channels * flops

    def weights_saved(self, linear: str, removed: Removed, rank: int) -> int:
        """Weights fewer when two linears of a rank stand for what is left of one; 0 where nothing of its sublayer is."""
        sublayer = linear.rpartition(".")[0]
        units = (sublayer, sublayer.rpartition(".")[0])
        if any(unit in removed and removed[unit].any() for unit in units):
            return 0
        return weights_saved(*self.shape_left(linear, removed), rank)

    def shape_left(self, linear: str, removed: Removed) -> tuple[int, int]:
        """Outputs and inputs of a linear without the components that are gone."""
        own = self.linears[linear]
        outputs, inputs = own.outputs, own.inputs
        for group, rows, columns in self._meeting.get(own.module, ()):
            gone = int(removed[group].sum()) if group in removed else 0
            outputs, inputs = outputs - gone * rows, inputs - gone * columns
        if self.stream is not None:
            gone = channels_gone(removed)
            outputs -= gone * (own.module in self.stream.writes)
            inputs -= gone * (own.module in self.stream.reads)
        return outputs, inputs

    def linear_left(self, name: str, removed: Removed) -> Linear:
        """A linear in the shape that is left of it; its parameters are still all that it came with."""
        outputs, inputs = self.shape_left(name, removed)
        own = self.linears[name]
        return replace(own, outputs=outputs, inputs=inputs, flops=2 * own.tokens * outputs * inputs)

    def coordinates_left(self, linear: str, removed: Removed) -> tuple[Tensor, Tensor]:
        """Those outputs and inputs, by index."""
        own = self.linears[linear]
        gone = torch.zeros(own.outputs, dtype=torch.bool), torch.zeros(own.inputs, dtype=torch.bool)
        for group in (self.groups[name] for name, _, _ in self._meeting.get(own.module, ()) if name in removed):
            which = removed[group.name].nonzero().flatten()
            for producer in (each for each in group.producers if each.module == own.module):
                gone[0][group.rows(producer, which)] = True
            if group.site == own.module:
                gone[1][group.columns(which)] = True
        if self.stream is not None and channels_gone(removed):
            for side, modules in enumerate((self.stream.writes, self.stream.reads)):
                if own.module in modules:
                    gone[side][removed[CHANNELS]] = True
        return (~gone[0]).nonzero().flatten(), (~gone[1]).nonzero().flatten()

    def costs(self, group: str, ranks: Ranks, removed: Removed = MappingProxyType({})) -> tuple[int, int]:
        """Parameters and FLOPs that one component takes when linears have these ranks, without ``removed`` channels."""
        own = self.groups[group]
        twice = self._in_channels({group: 1, CHANNELS: channels_gone(removed)})
        parameters, flops = own.parameters - twice[0], own.flops - twice[1]
        by_module = {linear.module: linear for linear in self.linears.values() if linear.name in ranks}
        for module, linear in by_module.items():
            for name, rows, columns in self._meeting.get(module, ()):
                if name == group:
                    fewer = rows * (linear.inputs - ranks[linear.name]) + columns * (
                        linear.outputs - ranks[linear.name]
                    )
                    parameters, flops = parameters - fewer, flops - 2 * linear.tokens * fewer
        return parameters, flops

    @cached_property
    def _meeting(self) -> Mapping[str, list[tuple[str, int, int]]]:
        """By module of a linear: the groups that its outputs or inputs belong to, and how many of a component."""
        found: dict[str, list[tuple[str, int, int]]] = {}
        for group in self.groups.values():
            for producer in group.producers:
                found.setdefault(producer.module, []).append((group.name, producer.width, 0))
            found.setdefault(group.site, []).append((group.name, 0, group.width))
        return found

    @cached_property
    def _alone(self) -> Mapping[str, tuple[int, int]]:
        """By part: the parameters and FLOPs of one of its components, without what lies in others."""
        return self._without_inner({name: (each.parameters, each.flops) for name, each in self._everything.items()})

    @cached_property
    def _across_alone(self) -> Mapping[str, tuple[int, int]]:
        """By part: what one of its components and one channel have in common, without what lies in others."""
        return {} if self.stream is None else self._without_inner(across(self, self.stream))

    @property
    def _everything(self) -> Mapping[str, Part]:
        return {**self.parts, **self.units}

    def _without_inner(self, whole: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, int]]:
        """Of a sublayer or layer what is in none of the parts that it holds."""
        costs = {name: each for name, each in whole.items() if name not in self.units}
        for name in self.units:
            inner = [(*costs[each], self.part(each).count) for each in self.within(name)]
            parameters, flops = whole[name]
            costs[name] = (
                parameters - sum(each * count for each, _, count in inner),
                flops - sum(each * count for _, each, count in inner),
            )
        return costs


def read_anatomy(model: PreTrainedModel, tokens: int) -> Anatomy:
    """Catalogue ``model`` for examples of ``tokens`` tokens.

    Raises:
        InputError: the model's family is unknown, the model has no layers where its family has them, or
            a whole sublayer of one was taken out.
    """
    family = family_of(model.config.model_type)
    reader = _Reader(model, tokens)
    for stack in family.stacks:
        reader.read_stack(stack)
    if not reader.layers:
        raise InputError(
            "model",
            type(model).__name__,
            f"has no layers where the family {family.model_type!r} has them",
            f"they are looked for in {' and '.join(stack.layers for stack in family.stacks)} of model.base_model",
        )
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


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """``(inputs, outputs)`` of a linear, also of GPT-2's transposed ``Conv1D`` and of two in the place of one."""
    if isinstance(module, FactoredLinear):
        return module.first.in_features, module.second.out_features
    rows, columns = module.weight.shape  # type: ignore[union-attr,misc]
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def base_prefix(model: PreTrainedModel) -> str:
    """Where ``model.base_model`` lies in the model: ``"bert."``, or nothing when it is the model itself."""
    base = model.base_model
    return next((name + "." for name, module in model.named_modules() if module is base and name), "")


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """What the layers of one stack have in common: its configuration, its heads, and tokens.

    ``memory`` is how many tokens a cross-attention reads its keys and values from.
    """

    config: PreTrainedConfig
    heads: int
    groups: int
    tokens: int
    memory: int


@dataclass(frozen=True, kw_only=True)
class _Positions:
    """Relative positions of one attention: rows of their table, their own projections, products that are scored."""

    rows: int = 0
    shared: bool = False
    projections: Mapping[str, str] = field(default_factory=dict)
    terms: int = 0


class _Reader:
    """Walks the stacks of one model and fills the catalogue."""

    def __init__(self, model: PreTrainedModel, tokens: int) -> None:
        self.model, self.tokens = model, tokens
        self.prefix = base_prefix(model)
        self.stacks: dict[str, int] = {}  # tokens of each
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
        setting = self._setting(stack)
        self.stacks[stack.name] = setting.tokens
        for index, block in enumerate(blocks.children()):
            self._read_layer(stack, setting, f"{stack.name}.layer.{index}", f"{path}.{index}", block)

    def _setting(self, stack: Stack) -> _Setting:
        config = getattr(self.model.config, stack.config) if stack.config else self.model.config
        heads = getattr(config, stack.heads)
        tokens = self.model.get_parameter(self.prefix + stack.tokens).shape[-2] if stack.tokens else self.tokens
        return _Setting(
            config=config,
            heads=heads,
            groups=getattr(config, stack.groups, None) or heads,
            tokens=tokens,
            memory=self.stacks.get("encoder", tokens),
        )

    def _read_layer(self, stack: Stack, setting: _Setting, name: str, path: str, block: nn.Module) -> None:
        if any(isinstance(module, EmptiedAttention | Nothing) for module in block.modules()):
            problem = f"a whole sublayer of {name} was taken out: what is left has no anatomy of its own"
            raise InputError("model", type(self.model).__name__, problem, "give the original")
        before = stack.norm_before is None or getattr(setting.config, stack.norm_before)
        norm = stack.norm if before else "after"
        feed_forward = _present(block, stack.feed_forward)
        sublayers = [self._read_attention(setting, name, path, parts) for parts in stack.attention]
        sublayers.append(self._read_feed_forward(setting, name, path, feed_forward))
        described: list[AttentionParts | FeedForwardParts] = [*stack.attention, feed_forward]
        for sublayer, parts in zip(sublayers, described, strict=True):
            self.sublayers[sublayer.name] = self._with_around(sublayer, path, parts, norm)
        self.layers[name] = Layer(
            name=name,
            module=path,
            norm=norm,
            stays=self._stays(stack, setting, path),
            sublayers=tuple(sublayer.name for sublayer in sublayers),
            parameters=sum(parameter.numel() for parameter in block.parameters()),
            flops=sum(sublayer.flops for sublayer in sublayers),
        )

    def _read_attention(self, setting: _Setting, layer: str, path: str, parts: AttentionParts) -> Sublayer:
        sublayer = f"{layer}.{'cross_attention' if parts.cross else 'attention'}"
        heads, groups = setting.heads, setting.groups
        site = f"{path}.{parts.output}"
        head_dim = linear_shape(self.model.get_submodule(site))[0] // heads
        width = head_dim * heads // groups
        positions = self._positions(setting, path, parts)
        linears = self._attention_linears(setting, sublayer, path, parts, positions)
        producers = _attention_producers(path, parts, positions, width, head_dim)
        bias = f"{path}.{parts.module}.{parts.position_bias}" if parts.position_bias else None
        keys = setting.memory if parts.cross else setting.tokens
        scores = 2 * setting.tokens * width * (2 * keys + positions.terms * positions.rows)  # products with q, k and v
        kind = "head" if groups == heads else "kv_group"
        group = Group(
            name=f"{sublayer}.{'head' if groups == heads else 'group'}",
            kind=kind,
            count=groups,
            width=width,
            site=site,
            producers=producers,
            parameters=self._parameters(producers, site, width) + self._bias_rows(bias),
            flops=_flops(producers, site, width, linears) + scores,
            scale=f"{path}.{parts.scale}" if parts.scale else None,
            attention=f"{path}.{parts.module}",
            sizes={
                name: {"heads": heads // groups, "groups": 1, "width": width}[of] for name, of in parts.sizes.items()
            },
            position_bias=bias,
            lent_bias=parts.lent_bias,
        )
        return self._sublayer(sublayer, group, linears, self._bias_rows(bias) * groups, scores * groups)

    def _with_around(
        self, sublayer: Sublayer, path: str, parts: AttentionParts | FeedForwardParts, norm: str
    ) -> Sublayer:
        """The sublayer with what only it needs: its norm, its scale, and what else its attention module holds."""
        [group] = (self.groups[name] for name in sublayer.groups)
        around = [f"{path}.{parts.norm}"] * (parts.norm is not None and norm == "before")
        around += [group.adds] * (group.scale is not None)
        whole = [*around, *filter(None, [group.attention]), *(self.linears[name].module for name in sublayer.linears)]
        parameters = {
            name: parameter.numel() for module in whole for name, parameter in self._parameters_in(module).items()
        }
        return replace(sublayer, around=tuple(around), parameters=sum(parameters.values()))

    def _parameters_in(self, module: str) -> dict[str, nn.Parameter]:
        return {f"{module}.{name}": each for name, each in self.model.get_submodule(module).named_parameters()}

    def _stays(self, stack: Stack, setting: _Setting, path: str) -> bool:
        """Whether something is run between this layer and the next, or what all layers give is weighed by their number."""
        if getattr(setting.config, "use_weighted_layer_sum", False):
            return True
        owner, _, name = f"{self.prefix}{stack.after_first or ''}".rpartition(".")
        runs = stack.after_first is not None and getattr(self.model.get_submodule(owner), name, None) is not None
        return runs and path.endswith(".0")

    def _positions(self, setting: _Setting, path: str, parts: AttentionParts) -> _Positions:
        found = parts.positions
        if found is None or not self._has(self.prefix + found.table):
            return _Positions()
        own = {"position_query": found.query, "position_key": found.key}
        return _Positions(
            rows=self.model.get_submodule(self.prefix + found.table).num_embeddings,  # type: ignore[arg-type]
            shared=bool(getattr(setting.config, found.shared, False)),
            projections={name: part for name, part in own.items() if self._has(f"{path}.{part}")},
            terms=sum(term in (getattr(setting.config, found.terms) or ()) for term in found.known),
        )

    def _attention_linears(
        self, setting: _Setting, sublayer: str, path: str, parts: AttentionParts, positions: _Positions
    ) -> list[Linear]:
        tokens, keys = setting.tokens, setting.memory if parts.cross else setting.tokens
        if parts.fused:
            linears = [self._linear(f"{sublayer}.qkv", f"{path}.{parts.query}", tokens)]
        else:
            more = positions.rows if positions.shared else 0
            linears = [
                self._linear(f"{sublayer}.query", f"{path}.{parts.query}", tokens + more, shared=positions.shared),
                self._linear(f"{sublayer}.key", f"{path}.{parts.key}", keys + more, shared=positions.shared),
                self._linear(f"{sublayer}.value", f"{path}.{parts.value}", keys),
            ]
        linears += [
            self._linear(f"{sublayer}.{name}", f"{path}.{part}", positions.rows, shared=True)
            for name, part in positions.projections.items()
        ]
        return [*linears, self._linear(f"{sublayer}.output", f"{path}.{parts.output}", tokens)]

    def _read_feed_forward(self, setting: _Setting, layer: str, path: str, parts: FeedForwardParts) -> Sublayer:
        sublayer = f"{layer}.ffn"
        named = {"gate_up": parts.up} if parts.fused else {"gate": parts.gate, "up": parts.up}
        linears = [
            self._linear(f"{sublayer}.{name}", f"{path}.{part}", setting.tokens)
            for name, part in {**named, "down": parts.down}.items()
            if part
        ]
        site = f"{path}.{parts.down}"
        producers = tuple(
            Producer(module=linear.module, widths=(1, 1) if parts.fused else (1,)) for linear in linears[:-1]
        )
        group = Group(
            name=f"{sublayer}.neuron",
            kind="neuron",
            count=linear_shape(self.model.get_submodule(site))[0],
            width=1,
            site=site,
            producers=producers,
            parameters=self._parameters(producers, site, 1),
            flops=_flops(producers, site, 1, linears),
            scale=f"{path}.{parts.scale}" if parts.scale else None,
        )
        return self._sublayer(sublayer, group, linears, 0, 0)

    def _sublayer(self, name: str, group: Group, linears: list[Linear], own: int, scores: int) -> Sublayer:
        """``own`` parameters and the FLOPs of ``scores`` are in none of the linears."""
        self.groups[group.name] = group
        self.linears.update({linear.name: linear for linear in linears})
        return Sublayer(
            name=name,
            groups=(group.name,),
            linears=tuple(linear.name for linear in linears),
            parameters=sum(linear.parameters for linear in linears) + own,
            flops=sum(linear.flops for linear in linears) + scores,
        )

    def _linear(self, name: str, path: str, tokens: int, *, shared: bool = False) -> Linear:
        module = self.model.get_submodule(path)
        inputs, outputs = linear_shape(module)
        return Linear(
            name=name,
            module=path,
            inputs=inputs,
            outputs=outputs,
            tokens=tokens,
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            flops=2 * tokens * inputs * outputs,
            shared=shared,
        )

    def _parameters(self, producers: tuple[Producer, ...], site: str, width: int) -> int:
        """Weights and biases of one component: its producers' rows and its consumer's columns."""
        total = linear_shape(self.model.get_submodule(site))[1] * width
        for producer in producers:
            module = self.model.get_submodule(producer.module)
            total += producer.width * (linear_shape(module)[0] + (module.bias is not None))
        return total

    def _bias_rows(self, path: str | None) -> int:
        """Parameters of one head in this layer's own position bias, 0 when another layer owns it."""
        if path is None:
            return 0
        owner, _, name = path.rpartition(".")
        embedding = getattr(self.model.get_submodule(owner), name, None)
        return 0 if embedding is None else embedding.num_embeddings

    def _has(self, path: str) -> bool:
        try:
            self.model.get_submodule(path)
        except AttributeError:
            return False
        return True


def _attention_producers(
    path: str, parts: AttentionParts, positions: _Positions, width: int, head_dim: int
) -> tuple[Producer, ...]:
    if parts.fused:
        blocks = (width, head_dim, head_dim)
        return (Producer(module=f"{path}.{parts.query}", widths=(sum(blocks),) if parts.interleaved else blocks),)
    return (
        Producer(module=f"{path}.{parts.query}", widths=(width,), reader=not positions.shared),
        Producer(module=f"{path}.{parts.key}", widths=(head_dim,), reader=not positions.shared),
        Producer(module=f"{path}.{parts.value}", widths=(head_dim,)),
        *(Producer(module=f"{path}.{part}", widths=(width,), reader=False) for part in positions.projections.values()),
    )


def _flops(producers: tuple[Producer, ...], site: str, width: int, linears: Iterable[Linear]) -> int:
    """FLOPs of one component in the linears: its producers' rows and its consumer's columns."""
    by_module = {linear.module: linear for linear in linears}
    rows = sum(by_module[each.module].tokens * by_module[each.module].inputs * each.width for each in producers)
    return 2 * (rows + by_module[site].tokens * by_module[site].outputs * width)


def _present(block: nn.Module, forms: tuple[FeedForwardParts, ...]) -> FeedForwardParts:
    modules = {name for name, _ in block.named_modules()}
    return next(form for form in forms if {form.up, form.down} <= modules and (not form.gate or form.gate in modules))
