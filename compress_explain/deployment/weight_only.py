"""Weights in 4 or 8 bits, in blocks; activations stay as they are. For bytes, and for models that read memory most."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from onnx import ModelProto
from onnx.helper import make_opsetid
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    HQQWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
    WeightOnlyQuantConfig,
)
from onnxruntime.quantization.neural_compressor import gptq_quantize
from onnxruntime.quantization.neural_compressor.onnx_model import ONNXModel

from compress_explain.deployment.drafts import drafted
from compress_explain.deployment.embeddings import EmbeddingBits
from compress_explain.deployment.facts import LinearFacts
from compress_explain.deployment.names import weights_of
from compress_explain.deployment.rows import Rows
from compress_explain.deployment.scheme import Source, finish, open_source
from compress_explain.errors import InputError
from compress_explain.examples import Examples
from compress_explain.weight_edits import Found

_BLOCKS = (16, 32, 64, 128, 256)
_COMPUTE = {"float32": 1, "int8": 4}  # MatMulNBits' accuracy levels


@dataclass(frozen=True, kw_only=True)
class WeightOnly:
    """Weights in ``bits`` with a scale and zero point for every ``block`` inputs of an output.

    ``method`` is how levels are chosen: ``rtn`` rounds to the nearest, ``hqq`` fits zero points to
    the weights (Half-Quadratic Quantization), ``gptq`` rounds so that outputs on calibration rows
    change least. ``compute`` is what the runtime multiplies in: ``int8`` rounds activations too, by
    blocks of a row. Linears named in ``wider`` are rounded to the nearest of 8 bits, whatever the others are.

    Raises:
        InputError: on creation, for a block that the runtime does not know, or a method for 4 bits in 8.
    """

    bits: Literal[4, 8] = 4
    block: int = 32
    method: Literal["rtn", "hqq", "gptq"] = "rtn"
    compute: Literal["float32", "int8"] = "float32"
    embeddings: EmbeddingBits = 32
    wider: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.block not in _BLOCKS:
            known = ", ".join(map(str, _BLOCKS))
            raise InputError("block", self.block, "the runtime knows no such block", f"choose one of: {known}")
        if self.bits == 8 and self.method != "rtn":
            raise InputError("method", self.method, "ONNX Runtime has it for 4 bits only", "use rtn for 8 bits")

    @property
    def name(self) -> str:
        return f"int{self.bits}-g{self.block}-{self.method}"

    def quantize(
        self, source: Path, target: Path, *, keep: Collection[str] = (), calibration: Examples | None = None
    ) -> dict[str, LinearFacts]:
        """Write ``target``; see :class:`~compress_explain.deployment.scheme.Scheme`. ``gptq`` needs examples."""
        opened = open_source(source, keep)
        if self.method == "gptq" and calibration is None:
            raise InputError("calibration", None, "gptq needs examples", "give calibration rows, or use rtn")
        wide = replace(self, bits=8, method="rtn", wider=())
        wider = Source(model=opened.model, chosen=tuple(name for name in opened.chosen if name in self.wider))
        narrow = Source(model=opened.model, chosen=tuple(name for name in opened.chosen if name not in self.wider))
        first = wide._written(wider, calibration)
        written = self._written(Source(model=first, chosen=narrow.chosen), calibration)
        facts = finish(opened, written, target, self.name, self.embeddings)
        return facts | {name: replace(facts[name], scheme=wide.name) for name in wider.chosen}

    def following(self, quantized: Mapping[str, str], found: Found) -> WeightOnly:
        """The scheme with 8 bits for the linears that were simulated so."""
        return replace(self, wider=tuple(name for name, edit in quantized.items() if edit.startswith("int8-")))

    def _written(self, source: Source, calibration: Examples | None) -> ModelProto:
        if not source.chosen:
            return source.copy()
        return drafted(lambda draft: self._write(source, calibration, draft))

    def _write(self, source: Source, calibration: Examples | None, draft: Path) -> None:
        if self.method == "gptq" and calibration is not None:
            _gptq(self, source, calibration).save_model_to_file(str(draft), use_external_data_format=True)
            return
        quantizer = MatMulNBitsQuantizer(
            source.copy(),
            bits=self.bits,
            block_size=self.block,
            accuracy_level=_COMPUTE[self.compute],
            nodes_to_exclude=source.others,
            algo_config=self._config(),
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(draft), use_external_data_format=True)

    def _config(self) -> WeightOnlyQuantConfig:
        if self.method == "hqq":
            return HQQWeightOnlyQuantConfig(block_size=self.block, bits=self.bits)
        return DefaultWeightOnlyQuantConfig(
            block_size=self.block, bits=self.bits, accuracy_level=_COMPUTE[self.compute]
        )


def _gptq(scheme: WeightOnly, source: Source, calibration: Examples) -> ONNXModel:
    """By the function that the quantizer's class calls too, but without leave to keep linears in float."""
    rows = Rows(calibration, [value.name for value in source.model.graph.input])
    settings = {name: _settings(scheme, weight.shape[0]) for name, weight in weights_of(source.model).items()}
    model = gptq_quantize(
        source.copy(),
        ((feed, None) for feed in rows.feeds),
        weight_config=dict.fromkeys(source.others, "fp32") | {name: settings[name] for name in source.chosen},
        group_size=scheme.block,
        n_samples=-1,
        accuracy_level=_COMPUTE[scheme.compute],
    )
    model.model.opset_import.append(make_opsetid("com.microsoft", 1))
    return model


def _settings(scheme: WeightOnly, inputs: int) -> dict[str, object]:
    """Without zero points where an output has an odd number of blocks: the runtime's function cannot pack those."""
    blocks = -(-inputs // scheme.block)
    return {"bits": scheme.bits, "group_size": scheme.block, "scheme": "sym" if blocks % 2 else "asym"}
