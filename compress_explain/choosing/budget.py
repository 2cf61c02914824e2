"""How much to remove, and what that is counted in: components, FLOPs, parameters, bytes or milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compress_explain.choosing.meters import Bytes, Flops, Meter, Milliseconds, Parameters
from compress_explain.errors import InputError
from compress_explain.model.stream import channels_gone

if TYPE_CHECKING:
    from compress_explain.plugins.strategy import Situation

_KEPT = ("flops_kept", "parameters_kept", "bytes_kept")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much to remove: a ``share`` of the components of a kind, or down to a share of something else.

    ``flops_kept`` is the share of the FLOPs of all layers that remains after the strategy,
    ``parameters_kept`` that of all the model's parameters, ``bytes_kept`` that of the bytes which its
    parameters take in float32, counted as the deployed file will store them; each also counts
    what earlier strategies took. An ``open`` budget without any of them buys what the job's target
    asks for. ``floor`` is the share of each group that always stays, ``bite`` the share of what it
    has left that a group may lose in one round. ``proportional`` rounds each take the same share of
    what is left and can go, even ones the same amount.

    What is cheap is measured ``by`` expected KL, or by that of softened predictions: a model is
    sure of itself on the rows that it was trained on, and there KL hears only of the few in doubt.
    The latter also tells what components of a group cost ``together``, where prices hold their moves.
    """

    share: float | None
    flops_kept: float | None
    parameters_kept: float | None = None
    bytes_kept: float | None = None
    open: bool = False
    floor: float
    rounds: int
    bite: float = 1.0
    proportional: bool = False
    by: Literal["kl", "soft_kl"] = "kl"
    together: bool = False

    def check(self, strategy: str) -> None:
        """Raises InputError unless exactly one target is set (none will do for an open one) and everything is in range."""
        values = {name: getattr(self, name) for name in ("share", *_KEPT)}
        given = {name: value for name, value in values.items() if value is not None}
        if len(given) > 1 or not (given or self.open):
            raise InputError(
                f"strategies: {strategy}",
                given,
                "exactly one target is needed",
                "give share (of components removed), or flops_kept, parameters_kept or bytes_kept (what remains)",
            )
        for name, value in given.items():
            if not (0 <= value < 1 if name == "share" else 0 < value <= 1):
                interval = "[0, 1)" if name == "share" else "(0, 1]"
                raise InputError(
                    f"strategies: {strategy}.{name}", value, f"lies outside {interval}", "give a share such as 0.3"
                )
        if not 0 <= self.floor < 1:
            raise InputError(f"strategies: {strategy}.floor", self.floor, "lies outside [0, 1)", "try 0.1")
        if not 0 < self.bite <= 1:
            raise InputError(f"strategies: {strategy}.bite", self.bite, "lies outside (0, 1]", "try 0.35")
        if not 1 <= self.rounds <= 100:
            raise InputError(f"strategies: {strategy}.rounds", self.rounds, "lies outside 1..100", "try 4")

    @property
    def kept(self) -> float | None:
        """The share of what it counts that remains; None of a share of components, and of an open one."""
        return next((value for name in _KEPT if (value := getattr(self, name)) is not None), None)

    @property
    def left_to_target(self) -> bool:
        """Whether the job's target decides how much to remove."""
        return self.share is None and self.kept is None

    def meter(self, situation: Situation) -> Meter:
        """What counts: a share of components is still paid for in FLOPs."""
        anatomy, ranks, channels = situation.anatomy, situation.ranks, channels_gone(situation.removed)
        if self.parameters_kept is not None:
            return Parameters(anatomy, ranks, channels)
        if self.bytes_kept is not None:
            return Bytes(anatomy, situation.storage, ranks, channels)
        if self.left_to_target and situation.latency is not None:
            return Milliseconds(situation.latency)
        return Flops(anatomy, ranks, channels)

    def wanted(self, situation: Situation) -> float:
        """What the model may take in all in the end, in the units of the meter.

        Raises:
            InputError: it is left to a target, and there is none.
        """
        if self.kept is not None:
            return self.kept * self.meter(situation).original
        if situation.milliseconds is None:
            raise InputError(
                "strategies", "no budget", "how much to remove is left to a target, and there is none",
                "give flops_kept, parameters_kept or bytes_kept, or the job a target",
            )  # fmt: skip
        return situation.milliseconds
