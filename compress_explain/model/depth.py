"""Stacks that lose layers: the list of modules, the numbers that layers know, the configuration, paths.

Layers that stay move up. Whoever counts them (a cache, the configuration) counts those that are there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from compress_explain.errors import EditError
from compress_explain.families import Family, Stack, family_of
from compress_explain.model.anatomy import Anatomy, Layer, Removed

_A_LAYER_EACH = ("layer_types",)  # lists of a configuration


def drop_layers(model: PreTrainedModel, layers: Sequence[Layer]) -> None:
    """Take ``layers`` out of their stacks, in place.

    Raises:
        EditError: a layer that has to stay, or the last of its stack.
    """
    family = family_of(model.config.model_type)
    for name, indices in _by_stack(layers).items():
        path = next(layer.module.rpartition(".")[0] for layer in layers if layer.stack == name)
        blocks = model.get_submodule(path)
        assert isinstance(blocks, nn.ModuleList), "layers stand in a list"
        _refuse(layers, name, len(blocks) - len(indices))
        for index in reversed(indices):
            del blocks[index]
        for index, block in enumerate(blocks):
            _renumber(block, index)
        stack = _stack(family, name)
        owner = getattr(model.get_submodule(path.rpartition(".")[0]), "config", None)
        for config, attribute in _configs(model.config, stack, owner):
            _shorten(config, attribute, indices)


def lengthened(config: PreTrainedConfig, removed: Mapping[str, Sequence[int]]) -> PreTrainedConfig:
    """``config``, in place, as it was before layers were dropped, by their names; what it said of those is a guess.

    The guess is that they were like their neighbours. It decides nothing that is left.
    """
    family = family_of(config.model_type)
    dropped = [name.split(".") for name in removed if len(name.split(".")) == 3]
    for name in dict.fromkeys(stack for stack, _, _ in dropped):
        stack, indices = _stack(family, name), sorted(int(index) for each, _, index in dropped if each == name)
        for each, attribute in _configs(config, stack):
            depth = getattr(each, attribute)
            for listed in _lists(each, depth):
                entries = list(getattr(each, listed))
                for index in indices:
                    entries.insert(index, entries[min(index, len(entries) - 1)])
                setattr(each, listed, entries)
            _set_depth(each, attribute, depth + len(indices))
    return config


def shortened(anatomy: Anatomy, removed: Removed) -> Anatomy:
    """The anatomy, its names those of the original, with the paths that modules have once layers were dropped."""
    removed = anatomy.closed(removed)
    gone = {name for name in anatomy.layers if name in removed and removed[name].any()}
    if not gone:
        return anatomy
    moved = {anatomy.layers[name].module: path for name, path in _moved(anatomy, gone)}
    layers = {name: layer for name, layer in anatomy.layers.items() if name not in gone}
    sublayers = {name: anatomy.sublayers[name] for layer in layers.values() for name in layer.sublayers}
    groups = {name: anatomy.groups[name] for sublayer in sublayers.values() for name in sublayer.groups}
    linears = {name: anatomy.linears[name] for sublayer in sublayers.values() for name in sublayer.linears}

    def at(path: str) -> str:
        old = next((each for each in moved if f"{path}.".startswith(f"{each}.")), None)
        return path if old is None else moved[old] + path.removeprefix(old)

    return replace(
        anatomy,
        layers={name: replace(each, module=at(each.module)) for name, each in layers.items()},
        sublayers={name: replace(each, around=tuple(map(at, each.around))) for name, each in sublayers.items()},
        linears={name: replace(each, module=at(each.module)) for name, each in linears.items()},
        groups={
            name: replace(
                each,
                site=at(each.site),
                producers=tuple(replace(producer, module=at(producer.module)) for producer in each.producers),
                scale=each.scale and at(each.scale),
                attention=each.attention and at(each.attention),
                position_bias=each.position_bias and at(each.position_bias),
            )
            for name, each in groups.items()
        },
    )


def _moved(anatomy: Anatomy, gone: Collection[str]) -> Iterator[tuple[str, str]]:
    """The path of each layer that is left, once the ``gone`` ones are."""
    places: dict[str, int] = {}
    for name, layer in anatomy.layers.items():
        if name not in gone:
            place = places[layer.stack] = places.get(layer.stack, -1) + 1
            yield name, f"{layer.module.rpartition('.')[0]}.{place}"


def _by_stack(layers: Iterable[Layer]) -> dict[str, list[int]]:
    """Places of layers in the list of each stack, in order."""
    places: dict[str, list[int]] = {}
    for layer in layers:
        places.setdefault(layer.stack, []).append(int(layer.module.rpartition(".")[2]))
    return {name: sorted(each) for name, each in places.items()}


def _refuse(layers: Sequence[Layer], stack: str, left: int) -> None:
    fixed = [layer.name for layer in layers if layer.stays]
    if fixed:
        raise EditError(f"{fixed[0]} cannot be removed: the model needs what it gives")
    if left < 1:
        raise EditError(f"{stack}: its last layer cannot be removed")


def _renumber(block: nn.Module, index: int) -> None:
    """Tell whatever in a layer knows its number, by which a cache finds its keys and values."""
    for module in block.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            module.layer_idx = index  # type: ignore[assignment]


def _stack(family: Family, name: str) -> Stack:
    return next(stack for stack in family.stacks if stack.name == name)


def _configs(
    config: PreTrainedConfig, stack: Stack, owner: PreTrainedConfig | None = None
) -> Iterator[tuple[PreTrainedConfig, str]]:
    """The configuration of a stack and what its depth is called there; the same of a copy of its ``owner``'s own."""
    own = getattr(config, stack.config) if stack.config else config
    yield own, stack.depth
    if owner is not None and owner is not own:
        yield owner, "num_hidden_layers"


def _shorten(config: PreTrainedConfig, attribute: str, removed: Sequence[int]) -> None:
    depth = getattr(config, attribute)
    for listed in _lists(config, depth):
        setattr(config, listed, [each for index, each in enumerate(getattr(config, listed)) if index not in removed])
    _set_depth(config, attribute, depth - len(removed))


def _lists(config: PreTrainedConfig, depth: int) -> list[str]:
    """What the configuration says of every layer."""
    return [name for name in _A_LAYER_EACH if len(getattr(config, name, None) or ()) == depth]


def _set_depth(config: PreTrainedConfig, attribute: str, depth: int) -> None:
    setattr(config, attribute, depth)
    if hasattr(config, "stage_names"):  # of a backbone, which hands out what its layers give
        config.stage_names = ["stem", *(f"stage{index}" for index in range(1, depth + 1))]
        config.set_output_features_output_indices(None, None)
