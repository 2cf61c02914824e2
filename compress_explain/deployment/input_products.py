"""What enters the linears of a file: the products of their inputs with one another, on average over some rows."""

from __future__ import annotations

import onnx
import torch
from onnxruntime import InferenceSession, SessionOptions
from torch import Tensor

from compress_explain.choosing.moments import Moments
from compress_explain.deployment.rows import Rows
from compress_explain.deployment.scheme import Source


def input_products(source: Source, rows: Rows) -> dict[str, Tensor]:
    """By linear of ``source`` that was chosen, float32 ``(inputs, inputs)``; linears that read the same share them."""
    read = {node.name: node.input[0] for node in source.model.graph.node if node.name in source.chosen}
    names = list(dict.fromkeys(read.values()))
    if not names:
        return {}
    model = source.copy()
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
    model.graph.output.extend(each for each in outputs if each.name not in {own.name for own in model.graph.output})
    session = InferenceSession(model.SerializeToString(), SessionOptions(), providers=["CPUExecutionProvider"])
    moments: dict[str, Moments] = {}
    for feed in rows.feeds:
        for name, values in zip(names, session.run(names, feed), strict=True):
            moments.setdefault(name, Moments(values.shape[-1])).add(torch.from_numpy(values).flatten(0, -2))
    return {linear: moments[name].second.float() for linear, name in read.items()}
