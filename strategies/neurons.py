"""Remove feed-forward neurons, the cheapest first, plain and gated ones alike."""

from __future__ import annotations

from dataclasses import dataclass

from compress_explain.choosing.budget import Budget
from compress_explain.choosing.ranking import cheapest
from compress_explain.editing.edits import Edit
from compress_explain.plugins.strategy import Situation


@dataclass(frozen=True, kw_only=True)
class Neurons:
    """Remove ``share`` of all neurons, in [0, 1), or enough to keep a share of something else, in (0, 1].

    That is ``flops_kept`` of layer FLOPs, ``parameters_kept`` of all parameters, or ``bytes_kept`` of
    what they take in float32, as the deployed file will store them. Neurons are ranked over all layers
    by expected KL per FLOP, parameter or byte that they save and priced again before each of
    ``rounds`` rounds. Every feed-forward sublayer keeps at least ``floor`` of its neurons.
    """

    share: float | None = None
    flops_kept: float | None = None
    parameters_kept: float | None = None
    bytes_kept: float | None = None
    rounds: int = 4
    floor: float = 0.1

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("neuron",)

    @property
    def budget(self) -> Budget:
        return Budget(
            share=self.share,
            flops_kept=self.flops_kept,
            parameters_kept=self.parameters_kept,
            bytes_kept=self.bytes_kept,
            floor=self.floor,
            rounds=self.rounds,
        )

    def __post_init__(self) -> None:
        self.budget.check("neurons")

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        return cheapest(situation, self.kinds, self.budget)
