"""What is left in a compressed checkpoint, in the original's names: layers, heads, neurons."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from compress_explain.model.anatomy import Anatomy
from compress_explain.record.checkpoint import MANIFEST

_NOTHING: Mapping[str, tuple[int, ...]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Gone:
    """The layers that are gone, and by group which of its members are; nothing where nobody wrote it down."""

    layers: tuple[str, ...] = ()
    members: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: _NOTHING, repr=False)

    def heads_left(self, original: Anatomy) -> dict[str, tuple[int, ...]]:
        """By layer of the original, which of its heads are left, where some are gone."""
        heads = {group.layer: group for group in original.groups.values() if group.kind == "head"}
        return {
            layer: tuple(index for index in range(group.count) if index not in self.members[group.name])
            for layer, group in heads.items()
            if group.name in self.members
        }

    def renamed(self, original: Anatomy, compressed: Anatomy) -> dict[str, str]:
        """The original's name of every component of the compressed model; empty where they are called alike."""
        if not self.layers and not self.members:
            return {}
        layers = [name for name in original.layers if name not in self.layers]
        if len(layers) != len(compressed.layers):
            return {}
        names = dict(zip(compressed.layers, layers, strict=True))
        found = dict(names)
        for group in compressed.groups.values():
            theirs = group.name.replace(group.layer, names[group.layer], 1)
            whole = original.groups[theirs]
            left = [index for index in range(whole.count) if index not in self.members.get(theirs, ())]
            found |= {own: f"{theirs}.{index}" for own, index in zip(group.components, left, strict=False)}
        for name in compressed.sublayers:
            layer = name.rpartition(".")[0]
            found[name] = name.replace(layer, names[layer], 1)
        return found


def gone_from(path: Path | None) -> Gone:
    """What the manifest of a compressed checkpoint in folder ``path`` says is gone."""
    manifest = None if path is None else path / MANIFEST
    if manifest is None or not manifest.is_file():
        return Gone()
    removed = json.loads(manifest.read_text())["removed"]
    return Gone(
        layers=tuple(name for name in removed if name.count(".") == 2),
        members={name: tuple(indices) for name, indices in removed.items() if name.count(".") > 2},
    )
