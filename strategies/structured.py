"""Remove heads and neurons alike, whatever is cheapest for the FLOPs that it saves."""

from __future__ import annotations

from dataclasses import dataclass

from compress_explain.edits import Edit
from compress_explain.ranking import Budget, cheapest
from compress_explain.strategy import Situation


@dataclass(frozen=True, kw_only=True)
class Structured:
    """Keep ``flops_kept`` of the FLOPs of all layers, in (0, 1], and the heads and neurons that are worth most.

    Heads, whole key-value groups where heads share them, and neurons are ranked in one order, over
    all layers, by the expected KL of softened predictions per FLOP, with what they cost together with
    those chosen before them in their sublayer. Each of ``rounds`` rounds takes
    the same share of what is left, at fresh prices; no sublayer loses more than ``bite`` of what it
    has left in one round, because prices add up only as long as little changes at once, or goes
    below ``floor`` of its components; without a floor it may be emptied, and then adds a constant.
    """

    flops_kept: float
    rounds: int = 8
    floor: float = 0.02
    bite: float = 0.35

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("head", "kv_group", "neuron")

    @property
    def budget(self) -> Budget:
        return Budget(
            share=None,
            flops_kept=self.flops_kept,
            floor=self.floor,
            rounds=self.rounds,
            bite=self.bite,
            proportional=True,
            by="soft_kl",
            together=True,
        )

    def __post_init__(self) -> None:
        self.budget.check("structured")

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        return cheapest(situation, self.kinds, self.budget)
