"""Remove heads and neurons alike, whatever is cheapest for the FLOPs, parameters, bytes or time that it saves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compress_explain.choosing.budget import Budget
from compress_explain.choosing.ranking import cheapest, rounds_to_go
from compress_explain.editing.edits import Edit
from compress_explain.errors import InputError
from compress_explain.plugins.strategy import Situation


@dataclass(frozen=True, kw_only=True)
class Structured:
    """Keep a share of what the model takes, in (0, 1], and the heads and neurons that are worth most.

    That is ``flops_kept`` of the FLOPs of all layers, ``parameters_kept`` of all parameters, or
    ``bytes_kept`` of what they take in float32, as the deployed file will store them. Without any of
    them it removes what the job's target asks for. Heads, whole key-value groups where heads share
    them, and neurons are ranked in one order, over all layers, by the expected KL of softened
    predictions per FLOP, parameter, byte or millisecond that they save, with what they cost together
    with those chosen before them in their sublayer. Each round takes about ``step`` of what is left, at
    fresh prices; no sublayer loses more than ``bite`` of what it has left in one round, because
    prices add up only as long as little changes at once, or goes below ``floor`` of its components;
    without a floor it may be emptied, and then adds a constant.

    A classifier of texts is asked on ``rows`` texts that it has not seen: rows of calibration cropped,
    thinned or spliced. On those that it was trained on it is sure of itself whatever is removed.
    """

    flops_kept: float | None = None
    parameters_kept: float | None = None
    bytes_kept: float | None = None
    step: float = 0.1
    floor: float = 0.02
    bite: float = 0.35
    rows: int = 512

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("head", "kv_group", "neuron")

    @property
    def rounds(self) -> int:
        """Of a budget of FLOPs; of others only the model tells (:meth:`rounds_from`)."""
        return max(1, round(math.log(self.flops_kept or 1.0) / math.log(1 - self.step)))

    def rounds_from(self, situation: Situation) -> int:
        """How many rounds lead to the budget from here."""
        return self.rounds if self.flops_kept is not None else rounds_to_go(situation, self.budget, self.step)

    @property
    def budget(self) -> Budget:
        return Budget(
            share=None,
            flops_kept=self.flops_kept,
            parameters_kept=self.parameters_kept,
            bytes_kept=self.bytes_kept,
            open=True,
            floor=self.floor,
            rounds=self.rounds,
            bite=self.bite,
            proportional=True,
            by="soft_kl",
            together=True,
        )

    def __post_init__(self) -> None:
        if not 0 < self.step < 1:
            raise InputError("strategies: structured.step", self.step, "lies outside (0, 1)", "try 0.1")
        if self.flops_kept is not None and not 0 < self.flops_kept <= 1:
            raise InputError("strategies: structured.flops_kept", self.flops_kept, "lies outside (0, 1]", "try 0.4")
        if self.rows < 1:
            raise InputError("strategies: structured.rows", self.rows, "nothing would be priced", "try 512")
        self.budget.check("structured")

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        return cheapest(situation, self.kinds, self.budget)
