"""Store linears of the deployed file in 4 or 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress_explain.choosing.activations import Ranges
from compress_explain.choosing.quantizing import all_but, check_options
from compress_explain.editing.edits import Edit
from compress_explain.errors import InputError
from compress_explain.plugins.strategy import Situation
from compress_explain.weight_edits import weight_edit

if TYPE_CHECKING:
    from compress_explain.deployment.weight_only import WeightOnly as Scheme


@dataclass(frozen=True, kw_only=True)
class WeightOnly:
    """Store the weights of linears in ``bits``, 4 or 8, and compute in float32: for bytes.

    ``block`` inputs of an output share a scale and a zero point: 16, 32, 64, 128 or 256. ``method``
    is how levels are chosen: ``rtn`` rounds to the nearest, ``hqq`` (4 bits only) fits zero points to the weights, ``gptq`` (4 bits
    only) lets weights that are not rounded yet make up for each rounding, on calibration rows.
    The linears whose rounding is expected to cost most KL per FLOP stay in float32, as many as make
    up ``float_kept`` of the FLOPs of all linears, in [0, 1). When repairs are weighed against one
    another, a linear is taken to be as much faster as its weight is smaller, as where reading weights
    takes the time; with many tokens at once it is slower than in float32.
    """

    bits: int = 4
    block: int = 32
    method: str = "rtn"
    float_kept: float = 0.0
    embeddings: int = 8

    def __post_init__(self) -> None:
        check_options("weight_only", float_kept=self.float_kept, embeddings=self.embeddings)
        for name, value, known in (("bits", self.bits, (4, 8)), ("method", self.method, ("rtn", "hqq", "gptq"))):
            if value not in known:
                remedy = f"choose from {', '.join(map(str, known))}"
                raise InputError(f"strategies: weight_only.{name}", value, f"no such {name}", remedy)
        if self.bits == 8 and self.method != "rtn":
            raise InputError("strategies: weight_only.method", self.method, "is for 4 bits only", "use rtn for 8 bits")
        try:
            weight_edit(self._edit)
        except InputError as error:
            raise InputError("strategies: weight_only.block", self.block, error.problem, error.remedy) from None

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("linear",)

    @property
    def rounds(self) -> int:
        return 1

    @property
    def weight_edits(self) -> Mapping[str, float]:
        return {self._edit: 32 / self.bits}

    @property
    def ranges(self) -> Ranges | None:
        """What is to be found out of a linear's inputs; nothing, unless levels are chosen by what they are."""
        return Ranges(products=True) if self.method == "gptq" else None

    @property
    def scheme(self) -> Scheme:
        from compress_explain.deployment.weight_only import WeightOnly as Scheme  # which takes a second to import

        return Scheme(bits=self.bits, block=self.block, method=self.method, embeddings=self.embeddings)  # type: ignore[arg-type]

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        return all_but(situation, self.weight_edits, self.float_kept)

    @property
    def _edit(self) -> str:
        return f"int{self.bits}-g{self.block}" + ("" if self.method == "rtn" else f"-{self.method}")
