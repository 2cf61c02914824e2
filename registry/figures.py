"""What the parent run shows as metrics: the headline figures, and one curve a quantity over the layers."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pandas as pd

from compress_explain.record.outcome import Run

from .names import Point, points, slug
from .signals import signal_curves
from .steps import Step, gate_counts

HEADLINES = 40
_FIRST = ("accuracy", "macro_f1", "nll", "brier")  # in this order; other metrics follow
_OTHERS = 3
_LAYER = re.compile(r"(?P<stack>\w+)\.layer\.(?P<index>\d+)(\.|$)")


def headlines(run: Run) -> list[Point]:
    """At most :data:`HEADLINES` figures that say how the run ended."""
    facts = run.summary
    figures = (
        gate_counts(facts["verdicts"])
        | overall_figures(run.scores, facts["judged_split"])
        | _size(run)
        | {"effort/evaluations": facts["evaluations"]}
    )
    return points(figures | _price(run) | _components(facts), limit=HEADLINES)


def curves(run: Run, steps: list[Step]) -> list[Point]:
    """What is kept of every layer (step = layer), what every step did (step = its position), what is still known (step = depth)."""
    return [*_layers(run), *_course(steps), *signal_curves(run)]


def layer_rows(run: Run) -> list[dict[str, Any]]:
    """One row a layer: how many components of each kind are kept, and how many FLOPs."""
    anatomy = json.loads((run.folder / "anatomy.json").read_text())
    rows = {}
    for name, layer in anatomy["layers"].items():
        place = _LAYER.match(name)
        if place:
            rows[name] = {"stack": place["stack"], "layer": int(place["index"]), "flops": layer["flops"]}
            rows[name] |= {"flops_kept": layer["flops"]}
    for group in anatomy["groups"].values():
        row = rows.get(".".join(group["name"].split(".")[:3]))
        if row is not None:
            gone, kind = len(group["removed"]), f"{group['kind']}s"
            row[kind] = row.get(kind, 0) + group["count"]
            row[f"{kind}_kept"] = row.get(f"{kind}_kept", 0) + group["count"] - gone
            row["flops_kept"] -= gone * group["flops"]
    return list(rows.values())


def _layers(run: Run) -> Iterator[Point]:
    rows = layer_rows(run)
    several = len({row["stack"] for row in rows}) > 1
    for row in rows:
        prefix = f"layer/{row['stack']}" if several else "layer"
        for quantity, value in row.items():
            if quantity.endswith("_kept"):
                yield Point(key=f"{prefix}/{slug(quantity)}", value=float(value), step=row["layer"])


def _course(steps: list[Step]) -> Iterator[Point]:
    for position, step in enumerate(steps, start=1):
        values = {point.key: point.value for point in step.points}
        for which in ("expected", "observed"):
            if f"{which}/loss_change" in values:
                yield Point(key=f"course/{which}_loss_change", value=values[f"{which}/loss_change"], step=position)


def _size(run: Run) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for quantity in ("parameters", "flops"):
        original, compressed = (run.summary[quantity][which] for which in ("original", "compressed"))
        figures[f"size/{quantity}_original"] = original
        figures[f"size/{quantity}_compressed"] = compressed
        figures[f"size/{quantity}_saved_share"] = 1 - compressed / original if original else None
    deployed, materialized = run.summary["deployed"], run.ledger.find("materialized", "artifact")
    figures["size/bytes_compressed"] = materialized.body["bytes"] if materialized else None
    if deployed is not None:
        figures["size/bytes_deployed"] = deployed["bytes"]
        figures["deployed/agreement_with_masked"] = deployed["beside_masked"]["agreement"]
        timed = [] if deployed["measured"] is None else deployed["measured"]["forms"]
        figures |= {f"deployed/milliseconds_{slug(row['form'])}": row["milliseconds"] for row in timed}
    return figures


def _price(run: Run) -> dict[str, Any]:
    """How well the price ranks what it was audited on: Spearman against exact leave-one-out."""
    audited = run.ledger.find("audited", "start")
    quality = audited.body["quality"] if audited else []
    return {f"price/{slug(row['what'])}s_spearman": row["spearman"] for row in quality}


def _components(facts: dict[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for kind, counts in list(facts["components"].items())[:4]:
        for status in ("removed", "restored"):
            figures[f"components/{slug(kind)}s_{status}"] = counts[status]
    return figures | {"components/restored_share": facts["restored_share"]["count"]}


def overall_figures(scores: pd.DataFrame, judged_split: str) -> dict[str, Any]:
    """Original, compressed and difference of each overall metric, and the slice that lost most.

    A metric that compares the two models, such as flips, is 0 for the original: it is one figure.
    """
    split = slug(judged_split)
    drops = scores[(scores["metric"] == "accuracy") & (scores["slice"] != "all")]["difference"]
    figures: dict[str, Any] = {f"{split}/worst_slice_accuracy_difference": float(drops.min()) if len(drops) else None}
    by_metric: dict[str, Any] = defaultdict(dict)
    for row in scores[scores["slice"] == "all"].itertuples():
        for which in ("original", "compressed", "difference"):
            by_metric[str(row.metric)][which] = float(getattr(row, which))
    others = [metric for metric in by_metric if metric not in _FIRST][:_OTHERS]
    for metric in (*_FIRST, *others):
        values = by_metric.get(metric, {})
        if values and values["original"] == 0 and metric not in _FIRST:
            figures[f"{split}/{slug(metric)}"] = values["compressed"]
        else:
            figures |= {f"{split}/{slug(metric)}_{which}": value for which, value in values.items()}
    return figures
