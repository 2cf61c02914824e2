"""Linears computed in 8 bits, the activations' scale found once on calibration rows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnx import TensorProto
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from compress_explain.deployment.drafts import drafted
from compress_explain.deployment.embeddings import EmbeddingBits
from compress_explain.deployment.facts import LinearFacts
from compress_explain.deployment.processor import saturates
from compress_explain.deployment.rows import Rows
from compress_explain.deployment.scheme import Source, finish, open_source
from compress_explain.errors import InputError
from compress_explain.examples import Examples

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


@dataclass(frozen=True, kw_only=True)
class Int8Static:
    """Weights -127 to 127 with a scale an output or one in all; activations 0 to 255 in a range fixed beforehand.

    ``ranges`` is how an activation's range follows from the calibration rows: their extremes, the
    range whose histogram keeps most information, or the one that ``percentile`` of values lie in
    (in 0 to 100). A row's logits do not depend on the rows beside it. Every linear's input passes
    a pair of quantize and dequantize nodes (QDQ); its output stays in float. To move
    range from activations into weights first, export a model that
    :func:`~compress_explain.deployment.smooth.smoothed` made.

    Raises:
        InputError: on creation, for a percentile outside of (0, 100].
    """

    ranges: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: float = 99.999
    per_channel: bool = True
    reduce_range: bool | None = None
    embeddings: EmbeddingBits = 32

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise InputError("percentile", self.percentile, "not in (0, 100]", "give for example 99.999")

    @property
    def name(self) -> str:
        return f"int8-static-{self.ranges}"

    def quantize(
        self, source: Path, target: Path, *, keep: Collection[str] = (), calibration: Examples | None = None
    ) -> dict[str, LinearFacts]:
        """Write ``target``; see :class:`~compress_explain.deployment.scheme.Scheme`. Needs examples."""
        opened = open_source(source, keep)
        if calibration is None:
            raise InputError("calibration", None, "ranges are found on examples", "give calibration rows")
        rows = Rows(calibration, [value.name for value in opened.model.graph.input])
        written = drafted(lambda draft: self._write(opened, rows, draft)) if opened.chosen else opened.copy()
        return finish(opened, written, target, self.name, self.embeddings)

    def _write(self, source: Source, rows: Rows, draft: Path) -> None:
        quantize_static(
            source.copy(),
            draft,
            rows,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=list(source.chosen),
            per_channel=self.per_channel,
            reduce_range=saturates() if self.reduce_range is None else self.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=_METHODS[self.ranges],
            use_external_data_format=True,
            extra_options={
                "DefaultTensorType": TensorProto.FLOAT,
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
                "CalibPercentile": self.percentile,
                "CalibStridedMinMax": 1,  # of any method: one row after another
            },
        )
