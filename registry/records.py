"""Parameters, metric points and data sets of a tracked run: what it lacks is added, nothing is added twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.entities import Run as Tracked

from compress_explain.record.outcome import Run

from .names import Point, flattened, tag

_AT_ONCE = 100  # parameters in one request
_POINTS_AT_ONCE = 500
_DIGEST = 36  # characters that MLflow keeps of a data set's digest


def parameters(run: Run) -> dict[str, str]:
    """Settings, digests and versions, flattened; what is too long is in ``run.json``."""
    started = run.ledger.records[0].body
    facts: dict[str, Any] = {
        **run.summary["settings"],
        "digest": {"model": started["model"]["digest"]}
        | {name: split["digest"] for name, split in run.summary["splits"].items()},
        "rows": {name: split["rows"] for name, split in run.summary["splits"].items()},
        "versions": started["environment"]["packages"],
    }
    return dict(flattened(facts))


def log_missing(
    client: MlflowClient,
    tracked: Tracked,
    points: Sequence[Point],
    time: int,
    params: dict[str, str] | None = None,
    model_id: str | None = None,
) -> None:
    """Log the parameters and points that ``tracked`` has not got; ``time`` in milliseconds since 1970."""
    run_id = tracked.info.run_id
    lacking = [Param(key, value) for key, value in (params or {}).items() if key not in tracked.data.params]
    for some in _portions(lacking, _AT_ONCE):
        client.log_batch(run_id, params=some)
    there = set(_logged(client, tracked, {point.key for point in points}))
    new = [
        Metric(point.key, point.value, time, point.step, model_id=model_id)
        for point in points
        if (point.key, point.step) not in there
    ]
    for some in _portions(new, _POINTS_AT_ONCE):
        client.log_batch(run_id, metrics=some)


def find_mirrored(client: MlflowClient, experiment_id: str, tags: dict[str, str]) -> Tracked | None:
    """The first run of an experiment with these tags of ours; None where there is none yet."""
    condition = " and ".join(f"tags.`{tag(name)}` = '{value}'" for name, value in tags.items())
    found = client.search_runs([experiment_id], condition, order_by=["attributes.start_time ASC"], max_results=1)
    return found[0] if found else None


def log_datasets(client: MlflowClient, run_id: str, splits: dict[str, Any], sources: dict[str, Any]) -> None:
    """The ``splits`` as inputs, known by their digests, and where they came from."""
    inputs = client.get_run(run_id).inputs
    there = {each.dataset.name for each in (inputs.dataset_inputs if inputs else [])}
    missing = [
        _dataset(name, split, str(sources.get(name) or "given as objects"))
        for name, split in splits.items()
        if _name(name) not in there
    ]
    if missing:
        client.log_inputs(run_id, datasets=missing)


def _dataset(split: str, facts: dict[str, Any], source: str) -> DatasetInput:
    dataset = Dataset(
        name=_name(split),
        digest=facts["digest"][:_DIGEST],
        source_type="local",
        source=json.dumps({"uri": source}),
        profile=json.dumps({"num_rows": facts["rows"], "truncated_rows": facts["truncated"]}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", split)])


def _name(split: str) -> str:
    return f"{split} split"


def _logged(client: MlflowClient, tracked: Tracked, keys: set[str]) -> Iterator[tuple[str, int]]:
    for key in keys & set(tracked.data.metrics):
        for metric in client.get_metric_history(tracked.info.run_id, key):
            yield key, metric.step


def _portions(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
