"""Weights in 4 or 8 bits, in blocks; activations stay as they are. For bytes, and for models that read memory most."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    GPTQWeightOnlyQuantConfig,
    HQQWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
    WeightOnlyQuantConfig,
)

from compress_explain.deployment.drafts import drafted
from compress_explain.deployment.embeddings import EmbeddingBits
from compress_explain.deployment.facts import LinearFacts
from compress_explain.deployment.scheme import Source, finish, open_source
from compress_explain.errors import InputError
from compress_explain.examples import Examples

_BLOCKS = (16, 32, 64, 128, 256)
_COMPUTE = {"float32": 1, "int8": 4}  # MatMulNBits' accuracy levels


@dataclass(frozen=True, kw_only=True)
class WeightOnly:
    """Weights in ``bits`` with a scale and zero point for every ``block`` inputs of an output.

    ``method`` is how levels are chosen: ``rtn`` rounds to the nearest, ``hqq`` fits zero points to
    the weights (Half-Quadratic Quantization), ``gptq`` rounds so that outputs on calibration rows
    change least. ``compute`` is what the runtime multiplies in: ``int8`` rounds activations too, by
    blocks of a row.

    Raises:
        InputError: on creation, for a block that the runtime does not know, or a method for 4 bits in 8.
    """

    bits: Literal[4, 8] = 4
    block: int = 32
    method: Literal["rtn", "hqq", "gptq"] = "rtn"
    compute: Literal["float32", "int8"] = "float32"
    embeddings: EmbeddingBits = 32

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
        written = drafted(lambda draft: self._write(opened, calibration, draft)) if opened.chosen else opened.copy()
        return finish(opened, written, target, self.name, self.embeddings)

    def _write(self, source: Source, calibration: Examples | None, draft: Path) -> None:
        quantizer = MatMulNBitsQuantizer(
            source.copy(),
            bits=self.bits,
            block_size=self.block,
            accuracy_level=_COMPUTE[self.compute],
            nodes_to_exclude=source.others,
            algo_config=self._config(calibration),
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(draft), use_external_data_format=True)

    def _config(self, calibration: Examples | None) -> WeightOnlyQuantConfig:
        if self.method == "hqq":
            return HQQWeightOnlyQuantConfig(block_size=self.block, bits=self.bits)
        if calibration is not None and self.method == "gptq":
            return GPTQWeightOnlyQuantConfig(calibration_data_reader=Rows(calibration), block_size=self.block)
        return DefaultWeightOnlyQuantConfig(
            block_size=self.block, bits=self.bits, accuracy_level=_COMPUTE[self.compute]
        )


class Rows(CalibrationDataReader):
    """Examples one by one, as ONNX Runtime's calibrators ask for them: without padding, which is not data."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)

    def rewind(self) -> None:
        self._left: Iterator[dict[str, np.ndarray]] = iter(
            [
                {name: value.numpy() for name, value in batch.inputs.items()}
                for batch in self.examples.batches(1)
            ]
        )
