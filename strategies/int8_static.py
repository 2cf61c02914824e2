"""Compute linears of the deployed file in 8 bits, in ranges found beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress_explain.choosing.activations import Ranges
from compress_explain.choosing.quantizing import all_but, check_options
from compress_explain.editing.edits import Edit
from compress_explain.errors import InputError
from compress_explain.plugins.strategy import Situation

if TYPE_CHECKING:
    from compress_explain.deployment.static import Int8Static as Scheme


@dataclass(frozen=True, kw_only=True)
class Int8Static:
    """Quantize linears to 8 bits, weights and the ranges of activations beforehand, and deploy with ONNX Runtime.

    ``calibration`` is how an activation's range follows from the calibration rows: ``minmax``, its
    extremes; ``percentile``, the range that ``percentile`` of the values lie in, in (0, 100]; ``entropy``, the
    one that loses least information. ``smooth``, in [0, 1], moves that share of each input's range into the
    weights first, by a product before each linear; None moves nothing. ``float_kept``, ``embeddings`` and
    ``speedup`` are those of ``int8_dynamic``.
    """

    calibration: str = "minmax"
    percentile: float = 99.999
    smooth: float | None = None
    float_kept: float = 0.0
    embeddings: int = 8
    speedup: float = 3.0

    def __post_init__(self) -> None:
        check_options("int8_static", float_kept=self.float_kept, embeddings=self.embeddings, speedup=self.speedup)
        try:
            _ = self.ranges
        except InputError as error:
            option = error.culprit.replace("ranges", "calibration")
            raise InputError(f"strategies: int8_static.{option}", error.value, error.problem, error.remedy) from None

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("linear",)

    @property
    def rounds(self) -> int:
        return 1

    @property
    def weight_edits(self) -> Mapping[str, float]:
        return {"int8-static": self.speedup}

    @property
    def ranges(self) -> Ranges:
        return Ranges(method=self.calibration, percentile=self.percentile, smooth=self.smooth)

    @property
    def scheme(self) -> Scheme:
        from compress_explain.deployment.static import Int8Static as Scheme  # which takes a second to import

        return Scheme(ranges=self.calibration, percentile=self.percentile, embeddings=self.embeddings)  # type: ignore[arg-type]

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        return all_but(situation, self.weight_edits, self.float_kept)
