"""Remove channels of the residual stream, the hidden size, those that matter least to an importance of Torch-Pruning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from compress_explain.choosing.channel_worth import IMPORTANCES
from compress_explain.choosing.ranking import ordinal
from compress_explain.editing.edits import Edit
from compress_explain.errors import InputError, did_you_mean
from compress_explain.model.anatomy import Anatomy
from compress_explain.model.stream import CHANNEL, CHANNELS, Stream, channels_gone
from compress_explain.plugins.strategy import Situation


@dataclass(frozen=True, kw_only=True)
class Width:
    """Keep a share ``hidden_kept`` of the channels of the residual stream, in (0, 1], a whole ``multiple_of`` some number.

    A channel goes out of all embeddings, norms and linears of the model at once; which of their numbers belong to it is
    what Torch-Pruning's dependency graph finds. Its ``importance`` ranks them: ``magnitude``, ``lamp`` and ``fpgm`` look at
    weights, ``taylor`` and ``hessian`` also at the gradients of the loss on ``gradient_rows`` rows of calibration, ``random``
    is the one to beat. Channels go in ``rounds`` rounds of equal size, each ranked anew on what is left.
    """

    hidden_kept: float
    importance: str = "taylor"
    multiple_of: int = 8
    rounds: int = 1
    gradient_rows: int = 256

    @property
    def kinds(self) -> tuple[str, ...]:
        return (CHANNEL,)

    def __post_init__(self) -> None:
        if not 0 < self.hidden_kept <= 1:
            raise InputError("strategies: width.hidden_kept", self.hidden_kept, "lies outside (0, 1]", "try 0.75")
        if self.importance not in IMPORTANCES:
            remedy = did_you_mean(str(self.importance), IMPORTANCES)
            raise InputError("strategies: width.importance", self.importance, "no such importance", remedy)
        for name, most, remedy in (("multiple_of", 4096, "8"), ("rounds", 100, "1"), ("gradient_rows", 10**6, "256")):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise InputError(
                    f"strategies: width.{name}", value, f"not a whole number in 1..{most}", f"try {remedy}"
                )

    def fit(self, anatomy: Anatomy) -> None:
        """Raises InputError when the share is no whole multiple above 0 and below all channels."""
        if anatomy.stream is not None:
            self._stays(anatomy.stream)

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        """The channels of this round, the least important first."""
        stream, worth = situation.anatomy.stream, situation.channels
        if stream is None or worth is None:
            raise InputError("strategies: width", None, "nothing is known of the channels here", "run a whole job")
        rounds, gone = situation.rounds or self.rounds, channels_gone(situation.removed)
        wanted = _whole((stream.count - self._stays(stream)) * (situation.round + 1) / rounds, self.multiple_of)
        if situation.round + 1 == rounds:
            wanted = stream.count - self._stays(stream)
        order = torch.argsort(torch.nan_to_num(worth.importance, nan=torch.inf), stable=True).tolist()
        return tuple(self._edits(situation, stream, order[: max(0, wanted - gone)]))

    def _edits(self, situation: Situation, stream: Stream, chosen: list[int]) -> Iterator[Edit]:
        parameters, flops = situation.anatomy.channel_costs(situation.removed)
        left, worth = stream.count - channels_gone(situation.removed), situation.channels
        assert worth is not None, "a plan was asked for"
        for rank, channel in enumerate(chosen, start=1):
            loss = float(worth.loss_change[channel])
            yield Edit(
                component=f"{CHANNELS}.{channel}",
                kind=CHANNEL,
                action="remove",
                reason=f"{ordinal(rank)} least important of {left} channels by {self.importance} "
                f"({float(worth.importance[channel]):.3g}); expected {loss:+.2g} nats",
                expected_loss_change=loss,
                parameters_saved=parameters,
                flops_saved=flops,
                work_saved=flops,
            )

    def _stays(self, stream: Stream) -> int:
        """How many channels are left in the end: the share, to the nearest multiple.

        Raises:
            InputError: none would be left, or all.
        """
        stays = _whole(self.hidden_kept * stream.count, self.multiple_of)
        if not 0 < stays <= stream.count or (stays == stream.count and self.hidden_kept < 1):
            raise InputError(
                "strategies: width", f"hidden_kept {self.hidden_kept}, multiple_of {self.multiple_of}",
                f"leaves {stays} of {stream.count} channels", "ask for another share, or a smaller multiple",
            )  # fmt: skip
        return stays


def _whole(number: float, multiple: int) -> int:
    """The nearest multiple.

    >>> _whole(100, 8), _whole(576.0, 8)
    (104, 576)
    """
    return int(number / multiple + 0.5) * multiple
