"""What a quantizer did to each linear, read from the file that it wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from jaxtyping import Float
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from compress_explain.deployment.names import WEIGHT, weights_of
from compress_explain.errors import ArtifactError

Weight = Float[np.ndarray, "inputs outputs"]
_FLOATS = {TensorProto.FLOAT: 32, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16}
_FLOAT_NAMES = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class LinearFacts:
    """One linear in a file: how it is stored and how far its weight is from the one that it was.

    ``scheme`` is the name of the scheme, or of the number format where the linear was left in it.
    ``bytes`` counts the weight with its scales and zero points. ``digest`` is the SHA-256 of these
    scales and zero points, empty where there are none. ``sqnr`` is the weight's power over that of
    its error in dB, infinite where nothing changed.
    """

    scheme: str
    bits: int
    bytes: int
    digest: str
    sqnr: float


@dataclass(frozen=True)
class _Stored:
    """A weight as the file holds it: its value, the bits of one number, and the arrays that it is made of."""

    value: Weight
    bits: int
    numbers: np.ndarray
    scales: tuple[np.ndarray, ...] = ()


def read_facts(source: ModelProto, written: ModelProto, scheme: str) -> dict[str, LinearFacts]:
    """The facts of every named linear of ``source`` in ``written``, which a quantizer made from it.

    Raises:
        ArtifactError: a linear's weight is nowhere in ``written``.
    """
    tensors = {tensor.name: tensor for tensor in written.graph.initializer}
    blocked = {node.input[1]: node for node in written.graph.node if node.op_type == "MatMulNBits"}
    return {
        component: _facts(weight, _stored(component, tensors, blocked), tensors.get(component + WEIGHT), scheme)
        for component, weight in weights_of(source).items()
    }


def sqnr(original: Float[np.ndarray, "*shape"], stored: Float[np.ndarray, "*shape"]) -> float:
    """Signal to quantization noise in dB.

    >>> round(sqnr(np.array([3.0, 4.0]), np.array([3.0, 4.5])), 2)
    20.0
    """
    noise = float(np.square(original.astype(np.float64) - stored).sum())
    signal = float(np.square(original.astype(np.float64)).sum())
    return float("inf") if noise == 0 else 10 * float(np.log10(max(signal, np.finfo(np.float64).tiny) / noise))


def _facts(weight: Weight, stored: _Stored, plain: TensorProto | None, scheme: str) -> LinearFacts:
    digest = hashlib.sha256(b"".join(array.tobytes() for array in stored.scales)).hexdigest() if stored.scales else ""
    return LinearFacts(
        scheme=scheme if plain is None else _FLOAT_NAMES[plain.data_type],
        bits=stored.bits,
        bytes=stored.numbers.nbytes + sum(array.nbytes for array in stored.scales),
        digest=digest,
        sqnr=sqnr(weight, stored.value),
    )


def _stored(component: str, tensors: Mapping[str, TensorProto], blocked: Mapping[str, NodeProto]) -> _Stored:
    name = component + WEIGHT
    if name in tensors:
        numbers = numpy_helper.to_array(tensors[name])
        return _Stored(numbers.astype(np.float32), _FLOATS[tensors[name].data_type], numbers)
    if name + "_quantized" in tensors:
        return _int8(*(numpy_helper.to_array(tensors[name + end]) for end in ("_quantized", "_scale", "_zero_point")))
    for quantized, node in blocked.items():
        if quantized.startswith(name + "_"):
            return _blocks(node, [numpy_helper.to_array(tensors[each]) for each in node.input[1:] if each])
    raise ArtifactError(f"{component}: its weight is not in the quantized file. Remedy: leave this linear in float")


def _int8(numbers: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> _Stored:
    """One scale for the tensor or one an output: of ``(inputs, outputs)`` the last axis, so both broadcast."""
    value = (numbers.astype(np.float32) - zero.astype(np.float32)) * scale
    return _Stored(value, 8, numbers, (scale, zero))


def _blocks(node: NodeProto, arrays: list[np.ndarray]) -> _Stored:
    """``MatMulNBits``: blocks of the inputs of one output, packed from the lowest bits up."""
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    bits, inputs, outputs = attributes["bits"], attributes["K"], attributes["N"]
    numbers, scales = arrays[0], arrays[1].reshape(outputs, -1)
    levels = _unpacked(numbers.reshape(outputs, -1), bits).reshape(outputs, scales.shape[1], -1)
    zero = np.full(scales.shape, 2 ** (bits - 1), dtype=np.float32)
    if len(arrays) > 2:
        zeros = arrays[2].reshape(outputs, -1)
        zero = (zeros if zeros.dtype.kind == "f" else _unpacked(zeros, bits))[:, : scales.shape[1]].astype(np.float32)
    value = (levels.astype(np.float32) - zero[:, :, None]) * scales[:, :, None]
    return _Stored(value.reshape(outputs, -1)[:, :inputs].T, bits, numbers, tuple(arrays[1:]))


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[..., None] >> shifts) & (2**bits - 1)).reshape(len(packed), -1)
