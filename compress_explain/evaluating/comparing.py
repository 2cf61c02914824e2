"""Runs and evaluations beside one another, under one protocol or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from compress_explain.comparison.scores import Score
from compress_explain.data.examples import ALL
from compress_explain.errors import InputError
from compress_explain.evaluating.judging import built
from compress_explain.plugins.evaluator import telling
from compress_explain.record.champion import between
from compress_explain.record.judged import judged_pairs, scores_file
from compress_explain.record.ledger import Ledger
from compress_explain.record.protocol import Protocol
from compress_explain.record.replay import read_ledger

_SHOWN = 8  # differences that a message lists


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One of them: what it made of which original, its state, its scores over all rows, and how it stands beside the first.

    ``beside_first`` are scores in which the first one's model takes the original's place; empty of the first itself.
    """

    folder: Path
    original: str
    state: str
    attempt: int | None
    size: dict[str, float]
    scores: tuple[dict[str, Any], ...] = field(repr=False)
    beside_first: tuple[Score, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All of them; ``despite`` names the parts of the protocol that differ and were asked to be let pass."""

    digest: str
    despite: dict[str, tuple[Any, Any]]
    versions_differ: bool
    compared: tuple[Compared, ...]

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "protocol": self.digest,
            "despite": {key: list(values) for key, values in self.despite.items()},
            "compared": [
                {"folder": str(each.folder), "original": each.original, "state": each.state, "attempt": each.attempt,
                 "size": each.size, "scores": list(each.scores),
                 "beside_first": [asdict(score) for score in each.beside_first]}
                for each in self.compared
            ],
        }  # fmt: skip


def compare(folders: Sequence[Path], despite: Sequence[str] = ()) -> Comparison:
    """Put the runs or evaluations in ``folders`` side by side.

    ``despite`` names parts of a protocol, as ``machine`` or ``running.threads``, that may differ.

    Raises:
        InputError: fewer than two, one that was not judged, or protocols that are not the same: it says where.
    """
    if len(folders) < 2:
        raise InputError(
            "compare", [str(each) for each in folders], "nothing to compare with", "name at least two folders"
        )
    protocols = [Protocol.load(folder) for folder in folders]
    differences: dict[str, tuple[Any, Any]] = {}
    for folder, protocol in zip(folders[1:], protocols[1:], strict=True):
        found = protocols[0].differences(protocol)
        refused = {key: values for key, values in found.items() if not _let_pass(key, despite)}
        if refused:
            raise InputError("protocol", f"{folders[0]}, {folder}", _told(refused), _remedy(refused))
        differences |= found
    ledgers = [read_ledger(folder) for folder in folders]
    return Comparison(
        digest=protocols[0].digest,
        despite=differences,
        versions_differ=any(each.versions != protocols[0].versions for each in protocols),
        compared=tuple(_compared(folder, ledger, ledgers[0]) for folder, ledger in zip(folders, ledgers, strict=True)),
    )


def _let_pass(key: str, despite: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in despite)


def _told(differences: dict[str, tuple[Any, Any]]) -> str:
    each = [f"{key} is {_short(mine)} and {_short(theirs)}" for key, (mine, theirs) in differences.items()]
    more = f", and {len(each) - _SHOWN} more" if len(each) > _SHOWN else ""
    return f"the protocols differ: {'; '.join(each[:_SHOWN])}{more}"


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 40 else text


def _remedy(differences: dict[str, tuple[Any, Any]]) -> str:
    parts = ", ".join(sorted({key.partition(".")[0] for key in differences}))
    if "data" in parts:
        return "judge both on the same rows: compress-explain evaluate ORIGINAL CANDIDATE --data FILE"
    return f"judge both under one protocol, or let it pass with: --despite {parts.partition(',')[0]}"


def _compared(folder: Path, ledger: Ledger, first: Ledger) -> Compared:
    record, leading = ledger.standing("judged"), first.standing("judged")
    if record is None or leading is None or record.body["split"] != "test":
        raise InputError("run", str(folder), "nothing was judged on test rows here", "compare those that reached them")
    started = ledger.records[0].body
    beside: list[Score] = []
    if ledger is not first:
        pairs = between(judged_pairs(first, leading), judged_pairs(ledger, record))
        beside = [score for each in telling(built(started["settings"])) for score in each.evaluate(pairs)]
    attempted = ledger.find("attempted", "test")
    table = pd.read_parquet(scores_file(ledger, record.step))
    rows: list[dict[str, Any]] = table[table["slice"] == ALL].to_dict("records")  # type: ignore[assignment]
    model = started.get("model") or started["models"]["original"]
    return Compared(
        folder=folder, original=f"{model['source']} ({model['digest'][:12]})", state=record.body["state"],
        attempt=attempted.body["number"] if attempted else None, size=_size(ledger), scores=tuple(rows),
        beside_first=tuple(beside),
    )  # fmt: skip


def _size(ledger: Ledger) -> dict[str, float]:
    """What is left of a run's model, as shares of the original; nothing of models that came from elsewhere."""
    made, started = ledger.find("materialized", "artifact"), ledger.records[0].body
    if made is None:
        return {}
    return {key: made.body[key] / started["model"][key] for key in ("parameters", "flops")}
