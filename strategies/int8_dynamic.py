"""Compute linears of the deployed file in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress_explain.choosing.quantizing import all_but, check_options
from compress_explain.editing.edits import Edit
from compress_explain.plugins.strategy import Situation

if TYPE_CHECKING:
    from compress_explain.deployment.int8 import Int8Dynamic as Scheme


@dataclass(frozen=True, kw_only=True)
class Int8Dynamic:
    """Quantize linears to 8 bits, weights beforehand and activations while running, and deploy with ONNX Runtime.

    The linears whose rounding is expected to cost most KL per FLOP stay in float32, as many as make
    up ``float_kept`` of the FLOPs of all linears, in [0, 1). ``embeddings`` is the bits of the
    embedding tables: 32, 8 or 4. When repairs are weighed against one another, a linear in 8 bits is
    taken to be ``speedup`` times as fast as in float32.
    """

    float_kept: float = 0.0
    embeddings: int = 8
    speedup: float = 3.0

    def __post_init__(self) -> None:
        check_options("int8_dynamic", float_kept=self.float_kept, embeddings=self.embeddings, speedup=self.speedup)

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("linear",)

    @property
    def rounds(self) -> int:
        return 1

    @property
    def weight_edits(self) -> Mapping[str, float]:
        return {"int8-dynamic": self.speedup}

    @property
    def scheme(self) -> Scheme:
        from compress_explain.deployment.int8 import Int8Dynamic as Scheme  # which takes a second to import

        return Scheme(embeddings=self.embeddings)  # type: ignore[arg-type]

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        return all_but(situation, self.weight_edits, self.float_kept)
