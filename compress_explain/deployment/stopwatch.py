"""Measures what each sort of sublayer takes with fewer components, once a machine, and what a deployed file takes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compress_explain.choosing.latency_table import Curve, LatencyTable, Timed, counts_to_measure
from compress_explain.data.examples import Examples
from compress_explain.deployment.compiled import TorchRunner
from compress_explain.deployment.export import export_onnx
from compress_explain.deployment.latency import Latency, measure, sized_inputs
from compress_explain.deployment.runtime import OnnxRunner, Runner
from compress_explain.deployment.scheme import Scheme
from compress_explain.deployment.sublayers import Always, LayerBench, groups_of, layer_shapes
from compress_explain.editing.surgery import materialize
from compress_explain.errors import InputError
from compress_explain.model.anatomy import Anatomy, Group, Layer
from compress_explain.progress import Advance
from compress_explain.record.provenance import processor_name, version_of

_FORMAT = 3  # of what is cached
_PACKAGES = ("torch", "transformers", "onnx", "onnxruntime")
_SECONDS = 30.0  # that the rounds of one table may take
_FEWEST, _MOST = 9, 41  # rounds
CLOCKS = MappingProxyType({"processor time": time.thread_time, "real time": time.perf_counter})


@dataclass(frozen=True, kw_only=True)
class Stopwatch:
    """A model, the rows that its files are checked on, and how it is to be timed.

    On one thread its processor time is counted (see :func:`clock_name`). ``runtime`` and ``scheme`` are those of what will be deployed: torch, ONNX Runtime in float32, or
    ONNX Runtime with the linears under a scheme.
    """

    model: PreTrainedModel = field(repr=False)
    anatomy: Anatomy = field(repr=False)
    examples: Examples = field(repr=False)
    runtime: Literal["torch", "onnx"]
    scheme: Scheme | None
    batch: int
    tokens: int
    threads: int

    @property
    def name(self) -> str:
        """The runtime in words."""
        return runtime_name(self.runtime, self.scheme)

    @property
    def processor(self) -> str:
        return processor_name()

    @property
    def inputs(self) -> dict[str, Tensor]:
        return sized_inputs(self.examples, self.batch, self.tokens)

    def table(self, advance: Advance = lambda done: None) -> LatencyTable:
        """What the cache holds for layers of these shapes on this machine; measured when it holds nothing.

        Raises:
            InputError: the model does not take that many tokens, or the scheme cannot quantize a layer by itself.
            ArtifactError: the model or a layer cannot be exported.
        """
        path = cache_folder() / f"{self._key()}.parquet"
        if not path.exists():
            self._measured(advance).save(path)
        return LatencyTable.load(path)

    def against_original(self, deployed: Runner, inputs: Mapping[str, Tensor]) -> tuple[Latency, Latency]:
        """The original in the runtime's float32 form and the ``deployed`` one, turn by turn; each on its own inputs."""
        with TemporaryDirectory() as folder:
            original = self._original(Path(folder))
            runners: dict[str, Runner] = {
                "original": Always(original, self.inputs),
                "deployed": Always(deployed, inputs),
            }
            taken = _measure(runners, self.threads)
        return taken["original"], taken["deployed"]

    def _measured(self, advance: Advance) -> LatencyTable:
        self._refuse_too_long()
        shapes = layer_shapes(self.model, self.anatomy)
        with TemporaryDirectory() as folder:
            runners: dict[str, Runner] = {"original": Always(self._original(Path(folder)), self.inputs)}
            if self.scheme is not None:
                runners["whole"] = self._whole(Path(folder), self.scheme)
            runners["least"] = Always(self._least(Path(folder)), self.inputs)
            bench = LayerBench(
                model=self.model, anatomy=self.anatomy, inputs=self.inputs, runtime=self.runtime, scheme=self.scheme,
                threads=self.threads, folder=Path(folder),
            )  # fmt: skip
            for layers in shapes.values():
                for name, left in _forms(self.anatomy, layers[0]).items():
                    runners[name] = bench.runner(layers[0], left)
                    advance(1)
            taken = {name: latency.timed for name, latency in _measure(runners, self.threads).items()}
        return LatencyTable(
            runtime=self.name, batch=self.batch, tokens=self.tokens, threads=self.threads, processor=self.processor,
            clock=clock_name(self.threads),
            original=taken["original"], whole=taken.get("whole", taken["original"]), least=taken["least"],
            curves=tuple(
                self._curve(group, layers, taken)
                for layers in shapes.values() for group in groups_of(self.anatomy, layers[0])
            ),
        )  # fmt: skip

    def _curve(self, group: Group, layers: list[Layer], taken: Mapping[str, Timed]) -> Curve:
        inside = group.name.removeprefix(layers[0].name)
        counts = counts_to_measure(group.count)
        times = [taken[_form(group, left) if left else _bare(layers[0])] for left in counts]
        return Curve(
            shape=group.name, groups=tuple(layer.name + inside for layer in layers), counts=counts, times=tuple(times)
        )

    def _original(self, folder: Path) -> Runner:
        """The untouched model in the runtime's float32 form."""
        if self.runtime == "torch":
            return TorchRunner(model=self.model, threads=self.threads)
        export_onnx(self.model, self.examples, folder / "original.onnx", anatomy=self.anatomy)
        return OnnxRunner(path=folder / "original.onnx", threads=self.threads)

    def _whole(self, folder: Path, scheme: Scheme) -> Runner:
        """The untouched model in the form that is deployed, where that is another than the runtime's float32."""
        scheme.quantize(folder / "original.onnx", folder / "whole.onnx", calibration=self.examples)
        return Always(OnnxRunner(path=folder / "whole.onnx", threads=self.threads), self.inputs)

    def _least(self, folder: Path) -> Runner:
        """The model in the form that is deployed, with the fewest components of every group that curves know, but some."""
        groups = self.anatomy.groups.items()
        removed = {name: torch.arange(group.count) >= counts_to_measure(group.count)[1] for name, group in groups}
        smaller = materialize(self.model, self.anatomy, removed)
        if self.runtime == "torch":
            return TorchRunner(model=smaller, threads=self.threads)
        path = folder / "least.onnx"
        export_onnx(smaller, self.examples, path, anatomy=self.anatomy)
        if self.scheme is not None:
            self.scheme.quantize(path, folder / "least-quantized.onnx", calibration=self.examples)
            path = folder / "least-quantized.onnx"
        return OnnxRunner(path=path, threads=self.threads)

    def _refuse_too_long(self) -> None:
        try:
            TorchRunner(model=self.model, threads=self.threads)(self.inputs)
        except (IndexError, RuntimeError):
            raise InputError(
                "target.tokens", self.tokens, "more than the model takes", "give the tokens of a usual text"
            ) from None

    def _key(self) -> str:
        facts = {
            "format": _FORMAT,
            "model": [type(self.model).__name__, str(getattr(self.model.config, "hidden_act", ""))],
            "shapes": {shape: [layer.name for layer in layers] for shape, layers in layer_shapes(self.model, self.anatomy).items()},
            "elsewhere": self.anatomy.parameters_elsewhere,
            "call": [self.batch, self.tokens, self.runtime, repr(self.scheme), self.threads],
            "processor": self.processor,
            "packages": {name: version_of(name) for name in _PACKAGES},
        }  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def clock_name(threads: int) -> str:
    """On one thread its processor time counts: real time where nothing else wants the processor, and deaf to what does."""
    return "processor time" if threads == 1 else "real time"


def runtime_name(runtime: str, scheme: Scheme | None) -> str:
    """
    >>> runtime_name("torch", None), runtime_name("onnx", None)
    ('torch, float32', 'ONNX Runtime, float32')
    """
    return f"{'ONNX Runtime' if runtime == 'onnx' else runtime}, {'float32' if scheme is None else scheme.name}"


def cache_folder() -> Path:
    """Where tables are kept, under the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "compress-explain" / "latency"


def forms_to_measure(model: PreTrainedModel, anatomy: Anatomy) -> int:
    """How many forms of single layers a table is made of."""
    return sum(len(_forms(anatomy, layers[0])) for layers in layer_shapes(model, anatomy).values())


def _forms(anatomy: Anatomy, layer: Layer) -> dict[str, dict[str, int]]:
    """By name: how many components each group of a layer has left. One group at a time has some, at first none has."""
    groups = groups_of(anatomy, layer)
    nothing = {group.name: 0 for group in groups}
    forms = {_bare(layer): nothing}
    for group in groups:
        forms |= {_form(group, left): nothing | {group.name: left} for left in counts_to_measure(group.count) if left}
    return forms


def _form(group: Group, left: int) -> str:
    return f"{group.name} {left}"


def _bare(layer: Layer) -> str:
    return f"{layer.name} 0"


def _measure(runners: Mapping[str, Runner], threads: int) -> dict[str, Latency]:
    """As many rounds as there is time for, an odd number so that a median was really measured."""
    clock = CLOCKS[clock_name(threads)]
    start = time.perf_counter()
    measure(runners, {}, rounds=1, warm_up=2)
    a_round = (time.perf_counter() - start) / 3
    rounds = min(max(math.floor(_SECONDS / max(a_round, 1e-6)), _FEWEST), _MOST)
    return measure(runners, {}, rounds=rounds - (rounds % 2 == 0), warm_up=0, clock=clock)
