"""Compute linears as two of a smaller rank each, whatever is cheapest for what it saves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compress_explain.choosing.budget import Budget
from compress_explain.choosing.factoring import factored
from compress_explain.choosing.spectra import check_shares
from compress_explain.editing.edits import Edit
from compress_explain.errors import InputError
from compress_explain.plugins.strategy import Situation


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Keep a share of what the model takes, in (0, 1], and of linears the directions that their outputs owe most to.

    That is ``flops_kept`` of the FLOPs of all layers, ``parameters_kept`` of all parameters, or
    ``bytes_kept`` of what they take in float32, as the deployed file will store them; each also counts what
    earlier strategies took. A weight becomes the product of two thinner ones, of the rank whose output is
    nearest in mean square on calibration rows (SVD-LLM, arXiv:2403.07378). On offer are ``ranks``, shares of the full rank of
    what is left of a linear, in (0, 1], as far as they save anything; which linears and which of their ranks is
    decided in one order, by the expected KL of softened predictions for what is saved.

    A classifier of texts is asked on ``rows`` texts that it has not seen, like ``structured``.
    """

    flops_kept: float | None = None
    parameters_kept: float | None = None
    bytes_kept: float | None = None
    ranks: Any = (0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5, 0.625)
    rows: int = 512

    def __post_init__(self) -> None:
        check_shares("low_rank", self.ranks)
        object.__setattr__(self, "ranks", tuple(self.ranks))  # a file gives a list
        given = {
            name: value
            for name in ("flops_kept", "parameters_kept", "bytes_kept")
            if (value := getattr(self, name)) is not None
        }
        if len(given) != 1:
            raise InputError(
                "strategies: low_rank", given, "exactly one target is needed",
                "give flops_kept, parameters_kept or bytes_kept (what remains)",
            )  # fmt: skip
        if self.rows < 1:
            raise InputError("strategies: low_rank.rows", self.rows, "nothing would be priced", "try 512")
        self.budget.check("low_rank")

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("linear",)

    @property
    def rounds(self) -> int:
        return 1

    @property
    def budget(self) -> Budget:
        return Budget(
            share=None, flops_kept=self.flops_kept, parameters_kept=self.parameters_kept, bytes_kept=self.bytes_kept,
            floor=0.0, rounds=1, by="soft_kl", together=True,
        )  # fmt: skip

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        return factored(situation, self.budget)
