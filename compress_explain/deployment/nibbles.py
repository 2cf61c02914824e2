"""Levels of 4 bits in a file, two a byte, the first in the lower half."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from onnx import ModelProto, helper, numpy_helper

from compress_explain.deployment.names import WEIGHT
from compress_explain.errors import ArtifactError


def put_levels(
    model: ModelProto,
    linear: str,
    levels: Float[np.ndarray, "outputs inputs"],
    scale: Float[np.ndarray, "outputs inputs"],
    zero: Float[np.ndarray, "outputs inputs"],
) -> None:
    """Give a linear of ``model``, which was rounded to the nearest of 4 bits, other levels of the same scales and zero points.

    What the last block of an output is filled up with stays at its zero point.

    Raises:
        ArtifactError: the file rounds the linear by other scales than these levels are meant for.
    """
    node = next(each for each in model.graph.node if _is_of(each, linear))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    block, outputs = attributes["block_size"], attributes["N"]
    scales = numpy_helper.to_array(tensors[node.input[2]]).reshape(outputs, -1)
    if not np.allclose(scales, scale[:, ::block], rtol=1e-5, atol=0):
        raise ArtifactError(f"{linear}: the file has other scales than it was simulated with. Remedy: use rtn")
    filled = np.repeat(zero[:, ::block], block, axis=1)
    filled[:, : levels.shape[1]] = levels
    numbers = filled.astype(np.uint8).reshape(-1, 2)
    stored = tensors[node.input[1]]
    packed = (numbers[:, 0] | (numbers[:, 1] << 4)).reshape(numpy_helper.to_array(stored).shape)
    stored.CopyFrom(numpy_helper.from_array(packed, stored.name))


def _is_of(node: object, linear: str) -> bool:
    return node.op_type == "MatMulNBits" and node.input[1].startswith(f"{linear}{WEIGHT}_")  # type: ignore[attr-defined]
