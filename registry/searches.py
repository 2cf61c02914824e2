"""Mirroring a search: one run that holds its front and its decisions, and inside it one run a trial."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run as Tracked
from mlflow.tracking.context.registry import resolve_tags

from compress_explain.record.outcome import Run
from compress_explain.search import Found
from compress_explain.search.trials import TRIALS

from .addresses import run_page
from .mirror import COMPLETE, INCOMPLETE, alone, experiment_of, mirror
from .names import Point, flattened, points, slug, tag
from .records import find_mirrored, log_missing
from .steps import milliseconds
from .uploads import upload_folder

_NOT_MIRRORED = (".lock", f"{TRIALS}/")  # trials are runs of their own
_COSTS = ("cost", "work", "flops", "parameters", "bytes", "milliseconds", "accuracy_change", "kl", "put_back")


def mirror_search(found: Found, uri: str, *, experiment: str | None, register_as: str | None) -> str:
    """Bring a search and its trials into the store at ``uri`` and return the address of its page.

    Raises:
        InputError: as of :func:`~.mirror.mirror`.
    """
    client = MlflowClient(tracking_uri=uri)
    source = str(found.summary["model"]["source"]).rstrip("/").rpartition("/")[2] or "model"
    name = experiment or source
    with alone(found.folder):
        experiment_id = experiment_of(client, uri, name)
        parent = find_mirrored(
            client, experiment_id, {"identity": found.summary["identity"], "ledger_head": found.ledger.head}
        ) or _start(client, experiment_id, found)
        run_id = parent.info.run_id
        if parent.data.tags.get(tag("mirror")) != COMPLETE:
            for body in found.trials:
                if body["trouble"] is None:
                    run, chosen = Run(found.folder / body["folder"]), register_as if body["named"] else None
                    mirror(run, uri, experiment=name, register_as=chosen, inside=run_id)
            _complete(client, found, run_id)
    return run_page(uri, experiment_id, run_id)


def _complete(client: MlflowClient, found: Found, run_id: str) -> None:
    upload_folder(client, run_id, found.folder, _NOT_MIRRORED, {})
    time = milliseconds(found.ledger.records[-1].time)
    settings = dict(flattened(found.summary["settings"]["search"], "search"))
    tracked = client.get_run(run_id)
    log_missing(client, tracked, points(_figures(found)), time, settings)
    log_missing(client, tracked, list(_curves(found)), time)
    client.set_terminated(run_id, "FINISHED", end_time=time)
    client.set_tag(run_id, tag("mirror"), COMPLETE)


def _start(client: MlflowClient, experiment_id: str, found: Found) -> Tracked:
    tags = {
        tag("identity"): found.summary["identity"],
        tag("ledger_head"): found.ledger.head,
        tag("state"): found.state,
        tag("kind"): "search",
        tag("mirror"): INCOMPLETE,
        "mlflow.note.content": _told(found),
        "mlflow.source.name": "compress-explain",
    }
    started = milliseconds(found.ledger.records[0].time)
    name = found.folder.resolve().name
    return client.create_run(experiment_id, start_time=started, tags=resolve_tags(tags), run_name=name)


def _figures(found: Found) -> dict[str, Any]:
    """How many were considered, how good prices were, and the named point."""
    figures: dict[str, Any] = {"trials": len(found.trials)}
    for rung in found.summary["rungs"]:
        figures[f"rungs/{rung['name']}"] = rung["considered"]
        if rung["agreement"]:
            figures[f"price/{rung['name']}_spearman"] = rung["agreement"]["together"]
    body = next((each for each in found.trials if each["named"]), {})
    figures |= {f"named/{slug(name)}": body.get(name) for name in _COSTS}
    test = found.summary["test"] or {}
    return figures | {"named/test_accuracy_change": test.get("accuracy_change")}


def _curves(found: Found) -> Iterator[Point]:
    """What each trial came to (step = trial)."""
    for body in found.trials:
        for name in _COSTS:
            if body.get(name) is not None:
                yield Point(key=f"trial/{slug(name)}", value=float(body[name]), step=body["number"])


def _told(found: Found) -> str:
    """The Markdown on top of the search's page."""
    summary = found.summary
    lines = [f"## Search: {summary['state']}", ""]
    if summary["named"] is None:
        lines.append(f"No point is named: {summary['why']}.")
    else:
        body = next(each for each in found.trials if each["named"])
        lines.append(f"Trial {body['number']} is named, because {summary['why']}: `{body['pipeline']}`.")
    lines += ["", "| trial | pipeline | gates | FLOPs | accuracy change on validation |", "|---|---|---|---|---|"]
    for body in found.trials:
        if body["trouble"] is None:
            lines.append(
                f"| {body['number']}{' (named)' if body['named'] else ''} | {body['pipeline']} | {body['state']} | "
                f"{body['flops']:.0%} | {body['accuracy_change']:+.4f} |"
            )
    lines += ["", "**Artifacts → report.html** shows the front; **child runs** are the trials, each a whole run."]
    return "\n".join(lines)
