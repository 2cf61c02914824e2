"""Embedding tables in fewer bits: most of a small model's bytes, none of its multiplications."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from jaxtyping import Float
from onnx import ModelProto, TensorProto, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from compress_explain.deployment.drafts import drafted
from compress_explain.deployment.names import embedding_nodes

EmbeddingBits = Literal[32, 8, 4]
_BLOCK = 32  # numbers of a row that share a scale, in 4 bits


def quantize_embeddings(model: ModelProto, bits: EmbeddingBits) -> ModelProto:
    """``model`` with every named table in ``bits``: 8 with one scale a table, 4 with one for 32 numbers of a row.

    Rows are dequantized as they are looked up.
    """
    tables = list(embedding_nodes(model))
    if bits == 32 or not tables:
        return model
    return _in_8_bits(model, tables) if bits == 8 else _in_4_bits(model, tables)


def tables_in(file: Path) -> dict[str, Float[np.ndarray, "rows width"]]:
    """The embedding tables that ``file`` holds in 8 bits, by the path of their module, as their rows are dequantized when they are looked up."""
    model = onnx.load(file)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for name, node in embedding_nodes(model).items():
        stem = node.input[0].removesuffix("_quantized")
        parts = [tensors.get(f"{stem}_{part}") for part in ("quantized", "zero_point", "scale")]
        if stem != node.input[0] and all(part is not None for part in parts):
            levels, zero, scale = (numpy_helper.to_array(part).astype(np.float32) for part in parts)
            found[name.partition(":")[2]] = (levels - zero) * scale
    return found


def _in_8_bits(model: ModelProto, tables: list[str]) -> ModelProto:
    return drafted(
        lambda draft: quantize_dynamic(
            model,
            draft,
            op_types_to_quantize=["Gather"],
            nodes_to_quantize=tables,
            use_external_data_format=True,
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )
    )


def _in_4_bits(model: ModelProto, tables: list[str]) -> ModelProto:
    others = [node.name for node in model.graph.node if node.name not in tables]
    quantizer = MatMulNBitsQuantizer(
        model, bits=4, block_size=_BLOCK, op_types_to_quantize=("Gather",), nodes_to_exclude=others
    )
    return drafted(
        lambda draft: (quantizer.process(), onnx.save(quantizer.model.model, draft, save_as_external_data=True))
    )
