"""Store linears of the deployed file in 16 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress_explain.choosing.quantizing import all_but, check_options
from compress_explain.editing.edits import Edit
from compress_explain.errors import InputError
from compress_explain.plugins.strategy import Situation

if TYPE_CHECKING:
    from compress_explain.deployment.half import BFloat16, Float16

_EDITS = {"float16": "fp16-weight", "bfloat16": "bf16-weight"}


@dataclass(frozen=True, kw_only=True)
class Half:
    """Store the weights of linears in 16 bits and compute in float32: half the bytes, as fast as before.

    ``format`` is ``float16``, which is finer and ends at 65,504, or ``bfloat16``, which has the range of
    float32. The linears whose rounding is expected to cost most KL per FLOP stay in float32, as many as
    make up ``float_kept`` of the FLOPs of all linears, in [0, 1). With ``embeddings`` their tables are
    stored in 16 bits too. When repairs are weighed against one another, a linear is taken to be twice as fast,
    as where reading weights takes the time.
    """

    format: str = "float16"
    float_kept: float = 0.0
    embeddings: bool = True

    def __post_init__(self) -> None:
        check_options("half", float_kept=self.float_kept, embeddings=32)
        if self.format not in _EDITS:
            remedy = f"choose from {', '.join(_EDITS)}"
            raise InputError("strategies: half.format", self.format, "no such format of 16 bits", remedy)
        if not isinstance(self.embeddings, bool):
            raise InputError(
                "strategies: half.embeddings", self.embeddings, "is a yes or no here", "give true or false"
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("linear",)

    @property
    def rounds(self) -> int:
        return 1

    @property
    def weight_edits(self) -> Mapping[str, float]:
        return {_EDITS[self.format]: 2.0}

    @property
    def scheme(self) -> Float16 | BFloat16:
        from compress_explain.deployment.half import BFloat16, Float16  # which take a second to import

        return (Float16 if self.format == "float16" else BFloat16)(embeddings=self.embeddings)

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        return all_but(situation, self.weight_edits, self.float_kept)
