"""What learning from the original did for what is left, in sentences, and where its token states were lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress_explain.report.numbers import count, plain, share

if TYPE_CHECKING:
    from compress_explain.record.ledger import Record
    from compress_explain.record.outcome import Run


@dataclass(frozen=True, kw_only=True)
class TunedLayer:
    """One layer: the share of the original's states that could not be read off there, and whether it was matched."""

    layer: str
    missing: float
    lost: float
    matched: bool


@dataclass(frozen=True, kw_only=True)
class TunedModel:
    """In sentences, one a tuning that stands, and the layers of the first one."""

    sentences: tuple[str, ...]
    layers: tuple[TunedLayer, ...]


def tuned(run: Run) -> TunedModel | None:
    """None where nothing was tuned."""
    reverted = {record.step for record in run.ledger.of_kind("reverted")}
    standing = [record for record in run.ledger.of_kind("tuned") if record.step not in reverted]
    if not standing:
        return None
    first = max(standing, key=lambda record: record.body["share"])
    return TunedModel(
        sentences=(_read(first.body), _gained(first.body), *_again(standing)),
        layers=tuple(TunedLayer(**signal) for signal in first.body["layers"]),
    )


def _read(facts: dict[str, Any]) -> str:
    what = "All linears and norms" if facts["tunes"] == "all" else "The linears and norms after the last layer"
    early = ", and ended early, since validation no longer improved" if facts["stopped_early"] else ""
    return (
        f"{what} that were left learned from the original, without labels: {count(facts['rows_read'])} rows in "
        f"{count(facts['steps'])} steps, made of {count(facts['rows'])} rows{early}."
    )


def _gained(facts: dict[str, Any]) -> str:
    return (
        f"On validation the distance to the original's predictions went from {plain(facts['kl_before'])} to "
        f"{plain(facts['kl_after'])} nats (KL), accuracy from {share(facts['accuracy_before'])} to "
        f"{share(facts['accuracy_after'])}. The weights that are kept are those with the least distance there."
    )


def _again(standing: list[Record]) -> list[str]:
    brief = [record for record in standing if record.body["share"] < 1]
    if not brief:
        return []
    times = "once" if len(brief) == 1 else f"{len(brief)} times"
    return [
        f"After components were put back or more were taken out it was tuned again {times}, on "
        f"{count(sum(record.body['rows_read'] for record in brief))} rows."
    ]
