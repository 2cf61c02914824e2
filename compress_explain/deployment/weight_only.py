"""Weights in 4 or 8 bits, in blocks; activations stay as they are. For bytes, and for models that read memory most."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from onnx import ModelProto
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    HQQWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
    WeightOnlyQuantConfig,
)
from torch import Tensor

from compress_explain.data.examples import Examples
from compress_explain.deployment.drafts import drafted
from compress_explain.deployment.embeddings import EmbeddingBits
from compress_explain.deployment.facts import LinearFacts
from compress_explain.deployment.input_products import input_products
from compress_explain.deployment.names import weights_of
from compress_explain.deployment.nibbles import put_levels
from compress_explain.deployment.rows import Rows
from compress_explain.deployment.scheme import Source, finish, open_source
from compress_explain.errors import InputError
from compress_explain.weight_edits import Found
from compress_explain.weight_edits.gptq import fed_back

_BLOCKS = (16, 32, 64, 128, 256)
_COMPUTE = {"float32": 1, "int8": 4}  # MatMulNBits' accuracy levels


@dataclass(frozen=True, kw_only=True)
class WeightOnly:
    """Weights in ``bits`` with a scale and zero point for every ``block`` inputs of an output.

    ``method`` is how levels are chosen: ``rtn`` rounds to the nearest, ``hqq`` fits zero points to
    the weights (Half-Quadratic Quantization), ``gptq`` rounds so that outputs on calibration rows
    change least, by what is ``found`` of each linear's inputs or else by examples. ``compute`` is what the runtime multiplies in: ``int8`` rounds activations too, by
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
    found: Found | None = field(default=None, repr=False)

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
        products = self._products(opened, calibration)
        wide = replace(self, bits=8, method="rtn", wider=())
        wider = Source(model=opened.model, chosen=tuple(name for name in opened.chosen if name in self.wider))
        narrow = Source(model=opened.model, chosen=tuple(name for name in opened.chosen if name not in self.wider))
        first = wide._written(wider)
        written = self._written(Source(model=first, chosen=narrow.chosen))
        for name in narrow.chosen if products else ():
            put_levels(written, name, *self._fed_back(opened, name, products[name]))
        facts = finish(opened, written, target, self.name, self.embeddings)
        return facts | {name: replace(facts[name], scheme=wide.name) for name in wider.chosen}

    def following(self, quantized: Mapping[str, str], found: Found) -> WeightOnly:
        """The scheme with 8 bits for the linears that were simulated so, and by what the others were."""
        wider = tuple(name for name, edit in quantized.items() if edit.startswith("int8-"))
        return replace(self, wider=wider, found=found if self.method == "gptq" else None)

    def _written(self, source: Source) -> ModelProto:
        if not source.chosen:
            return source.copy()
        return drafted(lambda draft: self._write(source, draft))

    def _write(self, source: Source, draft: Path) -> None:
        """To the nearest, or with fitted zero points; levels of ``gptq`` take the place of the nearest ones afterwards."""
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

    def _products(self, source: Source, calibration: Examples | None) -> Mapping[str, Tensor]:
        """By linear, the mean products of its inputs; nothing where nobody asks for them."""
        if self.method != "gptq":
            return {}
        if self.found is not None:
            return {name: _known(name, self.found) for name in source.chosen if name not in self.wider}
        if calibration is None:
            raise InputError("calibration", None, "gptq needs examples", "give calibration rows, or use rtn")
        return input_products(source, Rows(calibration, [value.name for value in source.model.graph.input]))

    def _fed_back(self, source: Source, name: str, products: Tensor) -> tuple[np.ndarray, ...]:
        weight = torch.from_numpy(weights_of(source.model)[name].T.copy())
        return tuple(each.numpy() for each in fed_back(weight, products, self.block))


def _known(name: str, found: Found) -> Tensor:
    products = found[name].products if name in found else None
    if products is None:
        raise InputError("found", name, "nothing is known of its inputs", "give the products of every linear's inputs")
    return products
