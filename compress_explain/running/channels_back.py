"""Channels of the stream that are gone, in the blocks in which they may come back: those worth most first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compress_explain.data.examples import Batch
from compress_explain.editing.edits import Edit
from compress_explain.editing.masks import Masks
from compress_explain.model.heads import logits_in
from compress_explain.model.stream import CHANNEL
from compress_explain.pricing.exact import masked
from compress_explain.pricing.slopes import wide
from compress_explain.record.replay import Applied

AT_ONCE = 4  # blocks that are tried, each alone, before some come back


@dataclass(frozen=True, kw_only=True)
class Block:
    """Removals of channels that are undone together; ``name`` stands for it where parts are listed."""

    removals: tuple[Edit, ...]

    @property
    def name(self) -> str:
        return f"{self.removals[0].component} …"

    @property
    def components(self) -> list[str]:
        return [edit.component for edit in self.removals]

    def flops(self, masks: Masks) -> int:
        """What it takes of the model as it is."""
        return len(self.removals) * masks.anatomy.channel_costs(masks.removed)[1]

    def restored(self, masks: Masks, reason: str, loss_change: float) -> Iterator[Edit]:
        """Its channels put back, for this reason, together expected to change the loss so."""
        parameters, flops = masks.anatomy.channel_costs(masks.removed)
        for edit in self.removals:
            yield replace(
                edit,
                action="restore",
                reason=reason,
                expected_loss_change=loss_change / len(self.removals),
                parameters_saved=-parameters,
                flops_saved=-flops,
                work_saved=-flops,
            )


def blocks_gone(plans: Iterable[Applied], masks: Masks, size: int) -> list[Block]:
    """What is gone, in blocks of ``size`` channels: the last to be planned first."""
    planned = [edit for applied in plans for edit in applied.plan.edits if edit.kind == CHANNEL]
    gone = {edit.component: edit for edit in planned if edit.action == "remove" and masks.is_removed(edit.component)}
    order = list(reversed(gone.values()))
    return [Block(removals=tuple(order[start : start + size])) for start in range(0, len(order), size)]


def channels_back(blocks: Sequence[Block], masks: Masks, *, flops: float, most: float) -> tuple[Edit, ...]:
    """As many blocks as fit into ``flops``, or one that is worth at most ``most``: nothing was found to help more."""
    if not blocks or blocks[0].flops(masks) > most:
        return ()
    count = max(1, int(flops / blocks[0].flops(masks)))
    reason = "nothing that was removed is seen to help the gates, so channels come back, those worth most first"
    return tuple(
        edit
        for block in blocks[:count]
        for edit in block.restored(masks, reason, -sum(edit.expected_loss_change for edit in block.removals))
    )


def logits_with(masks: Masks, batch: Batch, blocks: Sequence[Block]) -> Iterator[Tensor]:
    """Logits of a batch with each block put back, alone."""
    for block in blocks:
        with _back(masks, block.components), masked(masks), torch.inference_mode():
            logits = wide(logits_in(masks.model(**batch.inputs)))
        yield logits


@contextmanager
def _back(masks: Masks, components: list[str]) -> Iterator[None]:
    masks.restore(components)
    try:
        yield
    finally:
        masks.remove(components)
