"""Linears computed in 8 bits, the activations' scale found once on calibration rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from compress_explain.data.examples import Examples
from compress_explain.deployment.drafts import drafted
from compress_explain.deployment.embeddings import EmbeddingBits
from compress_explain.deployment.facts import LinearFacts
from compress_explain.deployment.names import WEIGHT
from compress_explain.deployment.processor import saturates
from compress_explain.deployment.rows import Rows
from compress_explain.deployment.scheme import Source, finish, open_source
from compress_explain.errors import InputError
from compress_explain.weight_edits import Activations, Found

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

    ``found`` is what is known of some linears' inputs already: their ranges are those, and where there is
    a divisor the input is divided by it before it is rounded. No examples are needed then, and what else reads
    the same tensor, as the residual stream does, reads it in full.

    Raises:
        InputError: on creation, for a percentile outside of (0, 100].
    """

    ranges: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: float = 99.999
    per_channel: bool = True
    reduce_range: bool | None = None
    embeddings: EmbeddingBits = 32
    found: Found | None = field(default=None, repr=False)

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
        if self.found is not None:
            return self._as_found(opened, self.found, target)
        if calibration is None:
            raise InputError("calibration", None, "ranges are found on examples", "give calibration rows")
        rows = Rows(calibration, [value.name for value in opened.model.graph.input])
        written = drafted(lambda draft: self._write(opened, rows, draft)) if opened.chosen else opened.copy()
        return finish(opened, written, target, self.name, self.embeddings)

    def following(self, quantized: Mapping[str, str], found: Found) -> Int8Static:
        """The scheme with the ranges that the simulation rounded by."""
        return replace(self, found=found)

    def _as_found(self, opened: Source, found: Found, target: Path) -> dict[str, LinearFacts]:
        missing = [name for name in opened.chosen if name not in found]
        if missing:
            raise InputError(
                "found", missing[0], "nothing is known of its input", "give the activations of every linear"
            )
        moved = Source(model=_apart(opened, found), chosen=opened.chosen)
        written = drafted(lambda draft: self._fix(moved, found, draft)) if moved.chosen else moved.copy()
        return finish(moved, written, target, self.name, self.embeddings)

    def _fix(self, source: Source, found: Found, draft: Path) -> None:
        read = {node.name: node.input[0] for node in source.model.graph.node}
        ranges = {read[name]: _range(found[name]) for name in source.chosen}
        quantizer = QDQQuantizer(
            source.copy(),
            self.per_channel,
            saturates() if self.reduce_range is None else self.reduce_range,
            QuantType.QInt8,
            QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, ranges),
            list(source.chosen),
            [],
            ["MatMul"],
            {"DefaultTensorType": TensorProto.FLOAT, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(draft), True)

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


def _range(activations: Activations) -> TensorData:
    return TensorData(lowest=np.float32(activations.low), highest=np.float32(activations.high))


def _apart(source: Source, found: Found) -> ModelProto:
    """The model with inputs of their own for the chosen linears: what else reads the tensor is not to be rounded.

    Where an input is divided that is a product, and the weight is multiplied.
    """
    model = source.copy()
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, apart = list[NodeProto](), set[str]()
    for node in model.graph.node:
        if node.name in source.chosen:
            divisor = found[node.name].divisor
            read, own = node.input[0], (node.input[0] if divisor is None else node.name) + ".narrowed"
            if divisor is not None:
                weight, name = weights[node.name + WEIGHT], node.name + ".factor"
                moved = numpy_helper.to_array(weight) * divisor.numpy()[:, None]
                weight.CopyFrom(numpy_helper.from_array(moved, weight.name))
                model.graph.initializer.append(numpy_helper.from_array((1 / divisor).numpy(), name))
                nodes.append(onnx.helper.make_node("Mul", [read, name], [own], name=own))
            elif own not in apart:
                nodes.append(onnx.helper.make_node("Identity", [read], [own], name=own))
            apart.add(own)
            node.input[0] = own
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
