"""Remove whole layers, the cheapest first: the stream passes by them as it came."""

from __future__ import annotations

from dataclasses import dataclass

from compress_explain.choosing.ranking_units import Extent, cheapest_units
from compress_explain.editing.edits import Edit
from compress_explain.model.anatomy import Anatomy
from compress_explain.plugins.strategy import Situation


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Remove ``count`` layers, or as many as keep ``flops_kept`` of the FLOPs of all layers, in (0, 1].

    They are ranked over all stacks by expected KL for each FLOP that is left in them, priced exactly
    and again before each of ``rounds`` rounds, of which there are no more than ``count``. The last
    layer of a stack stays. A layer goes with its norms, and the list of layers becomes shorter.
    """

    count: int | None = None
    flops_kept: float | None = None
    rounds: int = 4

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("layer",)

    @property
    def extent(self) -> Extent:
        return Extent(kind="layer", count=self.count, flops_kept=self.flops_kept, rounds=self.rounds)

    def __post_init__(self) -> None:
        self.extent.check()
        if self.count is not None:  # a round without anything to remove would be priced for nothing
            object.__setattr__(self, "rounds", min(self.rounds, self.count))

    def fit(self, anatomy: Anatomy) -> None:
        """Raises InputError when the model has too few layers."""
        self.extent.fit(anatomy)

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        return cheapest_units(situation, self.extent)
