"""Weights stored in 16 bits and computed with in float32.

ONNX Runtime's CPU provider has no matrix product in 16 bits on x86: given one it either refuses
(bfloat16) or converts activations to and fro around it (float16). Weights that are widened once,
when the file is loaded, cost no time and half the bytes. Computing in bfloat16 is what
:mod:`compress_explain.deployment.compiled` is for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from compress_explain.data.examples import Examples
from compress_explain.deployment.facts import LinearFacts
from compress_explain.deployment.names import WEIGHT, embedding_nodes
from compress_explain.deployment.scheme import finish, open_source
from compress_explain.errors import ArtifactError


@dataclass(frozen=True, kw_only=True)
class Float16:
    """Linears, and with ``embeddings`` tables, stored in float16: 11 bits of precision, up to 65,504."""

    embeddings: bool = True

    @property
    def name(self) -> str:
        return "fp16"

    def quantize(
        self, source: Path, target: Path, *, keep: Collection[str] = (), calibration: Examples | None = None
    ) -> dict[str, LinearFacts]:
        """Write ``target``; see :class:`~compress_explain.deployment.scheme.Scheme`. Needs no examples."""
        return _quantize(source, target, keep, np.dtype(np.float16), self.name, self.embeddings)


@dataclass(frozen=True, kw_only=True)
class BFloat16:
    """Linears, and with ``embeddings`` tables, stored in bfloat16: 8 bits of precision, the range of float32."""

    embeddings: bool = True

    @property
    def name(self) -> str:
        return "bf16"

    def quantize(
        self, source: Path, target: Path, *, keep: Collection[str] = (), calibration: Examples | None = None
    ) -> dict[str, LinearFacts]:
        """Write ``target``; see :class:`~compress_explain.deployment.scheme.Scheme`. Needs no examples."""
        return _quantize(source, target, keep, np.dtype(ml_dtypes.bfloat16), self.name, self.embeddings)


def _quantize(
    source: Path, target: Path, keep: Collection[str], dtype: np.dtype, name: str, embeddings: bool
) -> dict[str, LinearFacts]:
    opened = open_source(source, keep)
    written = opened.copy()
    tables = {node.input[0] for node in embedding_nodes(written).values()} if embeddings else set()
    narrow = {linear + WEIGHT for linear in opened.chosen} | tables
    for tensor in written.graph.initializer:
        if tensor.name in narrow:
            tensor.CopyFrom(_narrowed(tensor, dtype))
    nodes = list(_widened(written.graph.node, narrow))
    del written.graph.node[:]
    written.graph.node.extend(nodes)
    return finish(opened, written, target, name, 32)


def _narrowed(tensor: TensorProto, dtype: np.dtype) -> TensorProto:
    with np.errstate(over="ignore"):
        values = numpy_helper.to_array(tensor).astype(dtype)
    if not np.isfinite(values.astype(np.float32)).all():
        remedy = "store this model in bfloat16, or leave this linear in float"
        raise ArtifactError(f"{tensor.name}: a weight is beyond the range of {dtype}. Remedy: {remedy}")
    return numpy_helper.from_array(values, tensor.name)


def _widened(nodes: Iterable[NodeProto], narrow: Collection[str]) -> Iterator[NodeProto]:
    """The nodes, and a ``Cast`` before each product with a narrow weight and after each look-up in a narrow table."""
    for node in nodes:
        if node.op_type == "Gather" and node.input[0] in narrow:
            output, narrowed = node.output[0], node.output[0] + ".narrow"
            node.output[0] = narrowed
            yield from (node, onnx.helper.make_node("Cast", [narrowed], [output], to=TensorProto.FLOAT))
            continue
        for index, name in enumerate(node.input):
            if name in narrow:
                node.input[index] = f"{node.name}.{index}.wide"
                yield onnx.helper.make_node("Cast", [name], [node.input[index]], to=TensorProto.FLOAT)
        yield node
