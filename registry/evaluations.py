"""Mirroring an evaluation: one run beside the compressions of the same model, with the same names for the same figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run as Tracked
from mlflow.tracking.context.registry import resolve_tags

from compress_explain.evaluating import Evaluated
from compress_explain.evaluating.evaluated import STEP
from compress_explain.report.judgement import Judgement

from .addresses import run_page
from .description import verdict_table
from .figures import HEADLINES, overall_figures
from .mirror import COMPLETE, INCOMPLETE, alone, experiment_of
from .names import Point, flattened, points, tag
from .records import find_mirrored, log_datasets, log_missing
from .signals import curves_told
from .steps import gate_counts, milliseconds
from .uploads import upload_folder
from .views import gate_view

_NOT_MIRRORED = (".lock",)
_CONTENTS = """\
### Where to look
- **Artifacts → report.html**: the whole story on one page
- **Artifacts → overview**: gates and scores as tables
- **Model metrics**: `test/…` compares the models, `signals/…` shows what both still know (step = depth), if that was measured"""


def mirror_evaluation(evaluated: Evaluated, uri: str, *, experiment: str | None) -> str:
    """Bring an evaluation into the store at ``uri`` and return the address of its page; what is there is not brought again.

    Raises:
        InputError: another process is mirroring this folder, or the experiment was deleted.
    """
    client = MlflowClient(tracking_uri=uri)
    original = evaluated.summary["models"]["original"]["source"].rstrip("/").rpartition("/")[2] or "model"
    with alone(evaluated.folder):
        experiment_id = experiment_of(client, uri, experiment or original)
        tracked = find_mirrored(client, experiment_id, {"ledger_head": evaluated.ledger.head}) or _start(
            client, experiment_id, evaluated
        )
        if tracked.data.tags.get(tag("mirror")) != COMPLETE:
            _complete(client, evaluated, tracked.info.run_id)
    return run_page(uri, experiment_id, tracked.info.run_id)


def _complete(client: MlflowClient, evaluated: Evaluated, run_id: str) -> None:
    """Everything that its page shows; each part adds only what is not there yet."""
    summary = evaluated.summary
    log_datasets(client, run_id, summary["splits"], {})
    views = {"overview/1_gates.json": gate_view(summary["verdicts"]), "overview/2_scores.json": evaluated.scores}
    upload_folder(client, run_id, evaluated.folder, _NOT_MIRRORED, views)
    time, tracked = milliseconds(evaluated.ledger.records[-1].time), client.get_run(run_id)
    gates = gate_counts(summary["verdicts"]) if summary["judged"] else {}
    figures = gates | overall_figures(evaluated.scores, "test")
    log_missing(client, tracked, points(figures, limit=HEADLINES), time, _parameters(evaluated))
    log_missing(client, tracked, list(_curves(evaluated)), time)
    client.set_terminated(run_id, "FINISHED", end_time=time)
    client.set_tag(run_id, tag("mirror"), COMPLETE)


def _start(client: MlflowClient, experiment_id: str, evaluated: Evaluated) -> Tracked:
    summary, started = evaluated.summary, evaluated.ledger.records[0]
    tags = {
        tag("identity"): started.body["identity"],
        tag("ledger_head"): evaluated.ledger.head,
        tag("kind"): "evaluation",
        tag("state"): summary["state"] if summary["judged"] else "not judged",
        tag("model_digest"): summary["models"]["original"]["digest"],
        tag("candidate_digest"): summary["models"]["candidate"]["digest"],
        tag("protocol"): summary["protocol"],
        tag("attempt"): str(summary["attempt"]),
        tag("mirror"): INCOMPLETE,
        "mlflow.note.content": _told(evaluated),
        "mlflow.source.name": "compress-explain",
    }
    name = evaluated.folder.resolve().name
    return client.create_run(
        experiment_id, start_time=milliseconds(started.time), tags=resolve_tags(tags), run_name=name
    )


def _parameters(evaluated: Evaluated) -> dict[str, str]:
    summary = evaluated.summary
    facts: dict[str, Any] = {
        **summary["settings"],
        "digest": {name: model["digest"] for name, model in summary["models"].items()},
        "form": {name: model["form"] for name, model in summary["models"].items()},
        "rows": {name: split["rows"] for name, split in summary["splits"].items()},
        "versions": evaluated.ledger.records[0].body["environment"]["packages"],
    }
    return dict(flattened(facts))


def _curves(evaluated: Evaluated) -> Iterator[Point]:
    judged = evaluated.ledger.find("judged", STEP)
    assert judged is not None, "finished evaluations are judged"
    measured = Judgement(judged, evaluated.ledger).measured("signals")
    if measured is not None:
        yield from curves_told(measured)


def _told(evaluated: Evaluated) -> str:
    """The Markdown on top of the evaluation's page."""
    summary = evaluated.summary
    models, rows = summary["models"], summary["splits"]["test"]["rows"]
    head = f"## Verdict: {summary['state']}" if summary["judged"] else "## No gates were given, so nothing was judged"
    said = f"`{models['candidate']['source']}` ({models['candidate']['form']}) beside `{models['original']['source']}` on the same {rows:,} rows."
    table = verdict_table(summary["verdicts"]) if summary["judged"] else _score_table(evaluated.scores)
    return "\n\n".join((head, said, table, _CONTENTS))


def _score_table(scores: pd.DataFrame) -> str:
    lines = ["| figure | original | candidate | change | interval | examples |", "|---|---|---|---|---|---|"]
    for row in scores[scores["slice"] == "all"].to_dict("records"):
        lines.append(
            f"| {row['metric'].replace('_', ' ')} | {row['original']:.4f} | {row['compressed']:.4f} | {row['difference']:+.4f} | "
            f"{row['low']:+.4f} to {row['high']:+.4f} | {row['n']:,} |"
        )
    return "\n".join(lines)
