"""The channels of the residual stream that were removed: too many to be shown one by one, and all alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress_explain.model.stream import CHANNEL
from compress_explain.record.traced import TRACED
from compress_explain.report.numbers import count

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run


@dataclass(frozen=True, kw_only=True)
class Channels:
    """In sentences, and the reasons of the last ``few`` that went: those that were worth most of them."""

    sentences: tuple[str, ...]
    few: dict[str, str]


def channels(run: Run) -> Channels | None:
    """What became of the channels; None when none was ever removed."""
    counts, traced = run.summary["components"].get(CHANNEL), run.ledger.find(TRACED, "start")
    if counts is None or traced is None:
        return None
    rows = run.components[(run.components["kind"] == CHANNEL) & (run.components["status"] == "removed")]
    last = rows.tail(3)
    return Channels(
        sentences=(_left(counts), _where(traced.body)),
        few=dict(zip(last["component"], last["removed_reason"], strict=True)),
    )


def _left(counts: dict[str, int]) -> str:
    restored = f" {count(counts['restored'])} were removed and put back." if counts["restored"] else ""
    whole = sum(counts.values())
    return (
        f"Of {count(whole)} channels of the residual stream {count(counts['removed'])} are removed: the model is "
        f"{count(whole - counts['removed'])} wide.{restored}"
    )


def _where(body: dict[str, int]) -> str:
    return (
        f"A channel lies in {count(body['places'])} parameters, as Torch-Pruning's dependency graph found, and takes "
        f"{count(body['parameters'])} of their numbers in the original. Norms are computed over the channels that are left. "
        "The last to go, which were worth most of them:"
    )
