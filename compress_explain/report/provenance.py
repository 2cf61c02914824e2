"""Where everything came from: model, splits, settings, environment, ledger, files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress_explain.report.numbers import count

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run

Facts = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Names and values, ready to be listed; ``files`` maps a file to its SHA-256."""

    run: Facts
    model: Facts
    splits: list[dict[str, Any]]
    settings: Facts
    environment: Facts
    files: dict[str, str]


def provenance(run: Run) -> Provenance:
    """Everything that is needed to tell this run from another."""
    started = run.ledger.of_kind("started")[0].body
    return Provenance(
        run=_run_facts(run),
        model=_model_facts(run, started["model"]),
        splits=[{"name": name, **facts} for name, facts in run.summary["splits"].items()],
        settings=list(_settings(run.summary["settings"])),
        environment=list(_flat(started["environment"])),
        files={name: digest for record in run.ledger for name, digest in record.files.items()},
    )


def _run_facts(run: Run) -> Facts:
    records = run.ledger.records
    return [
        ("identity", run.summary["identity"]),
        ("ledger head", run.ledger.head),
        ("ledger records", count(len(records))),
        ("first record", records[0].time),
        ("last record", records[-1].time),
        ("full evaluations", count(run.summary["evaluations"])),
        ("seed", str(run.summary["settings"]["seed"])),
    ]


def _model_facts(run: Run, model: dict[str, Any]) -> Facts:
    return [
        ("source", model["source"]),
        ("SHA-256 of its weights", model["digest"]),
        ("class", model["class"]),
        ("family", run.summary["family"]),
        ("parameters", count(model["parameters"])),
        ("layer FLOPs an example", f"{count(model['flops'])}, at {count(model['tokens'])} tokens"),
    ]


def _settings(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, list):
            yield from ((f"{key} {position}", _one_line(part)) for position, part in enumerate(value, start=1))
        else:
            yield key, _one_line(value)


def _one_line(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{key} {part}" for key, part in value.items() if part is not None)


def _flat(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from ((f"{name}", str(part)) for name, part in value.items())
        else:
            yield key, value if isinstance(value, str) else json.dumps(value)
