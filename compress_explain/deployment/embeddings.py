"""Embedding tables in fewer bits: most of a small model's bytes, none of its multiplications."""

from __future__ import annotations

from typing import Literal

import onnx
from onnx import ModelProto, TensorProto
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
