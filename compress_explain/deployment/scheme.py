"""What a quantization scheme is: a frozen dataclass that writes another ONNX file from one in float32."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import onnx
from onnx import ModelProto

from compress_explain.data.examples import Examples
from compress_explain.deployment.embeddings import EmbeddingBits, quantize_embeddings
from compress_explain.deployment.export import save
from compress_explain.deployment.facts import LinearFacts, read_facts
from compress_explain.deployment.names import linear_nodes
from compress_explain.errors import InputError, did_you_mean
from compress_explain.weight_edits import Found


@runtime_checkable
class Scheme(Protocol):
    """One way to store, and maybe to compute, the linears of a file that :func:`export_onnx` wrote."""

    @property
    def name(self) -> str: ...

    def quantize(
        self, source: Path, target: Path, *, keep: Collection[str] = (), calibration: Examples | None = None
    ) -> dict[str, LinearFacts]:
        """Write ``target`` from ``source``, linears in ``keep`` as they are, and say what became of each linear.

        Raises:
            InputError: ``keep`` names no linear, or examples are needed and not given.
            ArtifactError: the file that came out does not hold what it should.
        """
        ...


@runtime_checkable
class Following(Protocol):
    """A scheme that writes each linear as it was simulated."""

    def following(self, quantized: Mapping[str, str], found: Found) -> Scheme:
        """The scheme for linears under these weight edits, by name, rounded by what was ``found`` to enter them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Source:
    """A float32 file and the linears in it that are to be quantized."""

    model: ModelProto = field(repr=False)
    chosen: tuple[str, ...]

    def copy(self) -> ModelProto:
        """The model, for a quantizer to work on."""
        copy = ModelProto()
        copy.CopyFrom(self.model)
        return copy

    @property
    def others(self) -> list[str]:
        """Every node that is none of the chosen linears."""
        return [node.name for node in self.model.graph.node if node.name not in self.chosen]


def open_source(path: Path, keep: Collection[str]) -> Source:
    """Read a file that :func:`export_onnx` wrote.

    Raises:
        InputError: there is none, its linears are not named, or ``keep`` names one that it does not have.
    """
    if not path.exists():
        raise InputError("artifact", str(path), "no such file", "export the model to ONNX first")
    model = onnx.load(path)
    linears = linear_nodes(model)
    if not linears:
        problem = "none of its linears is called by component"
        raise InputError("artifact", str(path), problem, "quantize the float32 file that export_onnx wrote")
    for name in keep:
        if name not in linears:
            raise InputError("keep", name, "no such linear in this file", did_you_mean(name, linears))
    return Source(model=model, chosen=tuple(name for name in linears if name not in keep))


def finish(
    source: Source, written: ModelProto, target: Path, scheme: str, embeddings: EmbeddingBits
) -> dict[str, LinearFacts]:
    """Save what a quantizer made of ``source``, its embedding tables in that many bits, and read the facts from it."""
    written = quantize_embeddings(written, embeddings)
    del written.graph.value_info[:]
    save(written, target)
    return read_facts(source.model, written, scheme)
