"""What can be counted of a model and needs no clock: bytes of the files that run, parameters, FLOPs, activations."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from compress_explain.comparison.contest import Side
from compress_explain.data.examples import Examples
from compress_explain.deployment.latency import sized_inputs
from compress_explain.deployment.manifest import MANIFEST, read_manifest

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.onnx", "*.pt2")  # the first that a folder has
_BESIDE = ("config.json", "compressed.json", "generation_config.json")  # without which torch weights do not open


@dataclass(frozen=True, kw_only=True)
class Files:
    """Bytes of what runs, and of the tokenizer or image processor and whatever else lies beside it."""

    runs: int
    others: int


def files_of(path: Path) -> Files | None:
    """Of a model's folder or file, external data with it; None where there are no weights.

    Of an artifact the manifest says what runs; of a model's folder the weights that transformers would load are
    counted, with their configuration.
    """
    folder = path if path.is_dir() else path.parent
    there = {each: each.stat().st_size for each in folder.rglob("*") if each.is_file()} if path.is_dir() else {}
    running = list(_running(path))
    if not running:
        return None
    runs = sum(each.stat().st_size for each in running)
    return Files(runs=runs, others=max(sum(there.values()) - runs, 0) if there else 0)


def _running(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield from (path, *path.parent.glob(f"{path.name}.*"))
        return
    if (path / MANIFEST).exists():
        manifest = read_manifest(path)
        file = path / manifest.file
        weights = [file]
    else:
        weights = next((found for end in _WEIGHTS if (found := sorted(path.glob(end)))), [])
    for each in weights:
        yield from (each, *path.glob(f"{each.name}.*"))
    if weights and weights[0].suffix in (".safetensors", ".bin"):
        yield from (path / name for name in _BESIDE if (path / name).exists())


def parameters(module: nn.Module) -> int:
    """Shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def flops(side: Side, batch: int) -> float | None:
    """Of one row of the split's median length, without padding; a multiply-add counts as two."""
    if side.module is None:
        return None
    inputs = median_inputs(side.examples, batch)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        side.module(**inputs)
    return counter.get_total_flops() / batch


def activations(side: Side, batch: int) -> float | None:
    """MiB: the most that operations' results took at one moment of a forward pass of ``batch`` rows of median length.

    Counted are the results of operations of torch that are still referred to, inputs and parameters aside; what a kernel takes
    for itself while it runs is not seen.
    """
    if side.module is None:
        return None
    inputs = median_inputs(side.examples, batch)
    held = [*side.module.parameters(), *side.module.buffers(), *inputs.values()]
    with _Living(known={tensor.untyped_storage()._cdata for tensor in held}) as living, torch.no_grad():
        side.module(**inputs)
    return living.peak / 2**20


def median_inputs(examples: Examples, batch: int) -> dict[str, Tensor]:
    """``batch`` rows as long as the split's median."""
    return sized_inputs(examples, batch, max(int(np.median(examples.lengths)), 2))


@dataclass
class _Count:
    now: int = 0
    peak: int = 0
    living: set[int] = field(default_factory=set)

    def add(self, key: int, size: int) -> None:
        self.living.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

    def drop(self, key: int, size: int) -> None:
        self.living.discard(key)
        self.now -= size


class _Living(TorchDispatchMode):
    """Follows the storages that operations make until nothing refers to them any more."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known, self.count = known, _Count()

    @property
    def peak(self) -> int:
        return self.count.peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known or key in self.count.living:
            return
        self.count.add(key, storage.nbytes())
        weakref.finalize(storage, self.count.drop, key, storage.nbytes())
