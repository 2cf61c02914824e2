"""Linears computed in 8 bits, the activations' scale found while running."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from compress_explain.data.examples import Examples
from compress_explain.deployment.drafts import drafted
from compress_explain.deployment.embeddings import EmbeddingBits
from compress_explain.deployment.facts import LinearFacts
from compress_explain.deployment.processor import saturates
from compress_explain.deployment.scheme import Source, finish, open_source


@dataclass(frozen=True, kw_only=True)
class Int8Dynamic:
    """Weights -127 to 127 with a scale an output (``per_channel``) or one in all; activations 0 to 255.

    Activations are scaled by the smallest and largest value of the whole batch, as it comes.
    ``reduce_range`` keeps weights to 7 bits, for processors whose 8-bit sums saturate; left at
    ``None`` it is decided by the processor that quantizes. ``embeddings`` is the bits of the tables.
    """

    per_channel: bool = True
    reduce_range: bool | None = None
    embeddings: EmbeddingBits = 32

    @property
    def name(self) -> str:
        return "int8-dynamic"

    def quantize(
        self, source: Path, target: Path, *, keep: Collection[str] = (), calibration: Examples | None = None
    ) -> dict[str, LinearFacts]:
        """Write ``target``; see :class:`~compress_explain.deployment.scheme.Scheme`. Needs no examples."""
        opened = open_source(source, keep)
        written = opened.copy() if not opened.chosen else drafted(lambda draft: self._write(opened, draft))
        return finish(opened, written, target, self.name, self.embeddings)

    def _write(self, source: Source, draft: Path) -> None:
        quantize_dynamic(
            source.copy(),
            draft,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=list(source.chosen),
            per_channel=self.per_channel,
            reduce_range=saturates() if self.reduce_range is None else self.reduce_range,
            weight_type=QuantType.QInt8,  # symmetric: unsigned weights take the runtime 1.7 times as long
            use_external_data_format=True,
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )
