"""The living model of an architecture, ``anatomy.json``: what is known of every component after a run.

What it depends on, what it was expected to be worth and to whom, what became of it, and what was
then seen. Components of a group share parallel arrays: entry i belongs to component ``GROUP.i``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from compress_explain.data.examples import ALL
from compress_explain.model.anatomy import Anatomy, Group, Layer, Sublayer
from compress_explain.model.stream import CHANNEL, Stream
from compress_explain.pricing import Audit, Prices
from compress_explain.record.course import Stage, stage_facts
from compress_explain.record.replay import Applied

ABOUT = {
    "parameters": "weights and biases: of the model, a layer, sublayer or linear; of a group, those of ONE component",
    "flops": "FLOPs for one example of `tokens` tokens, two a multiply-add; of a group, those that removing ONE component saves",
    "slices": "rows of the calibration split in each slice (predicted tokens for a language model): what the prices are means over",
    "groups": "components that meet at one site; entry i of every list belongs to component GROUP.i, in coordinates of the original",
    "groups.*.site": "module whose input the components are: removing one zeroes `width` consecutive input coordinates there",
    "groups.*.producers": "modules that compute the components: in consecutive blocks of outputs, `widths` of them a component; `reader` where the residual stream is all that it reads",
    "groups.*.scale": "vector that multiplies what the site gives before it is added to the residual stream; null when nothing does",
    "groups.*.lent_bias": "argument through which the attention is given a position bias of one column a component; null when it is not",
    "groups.*.sizes": "numbers that the attention module remembers, and how much of each belongs to ONE component",
    "linears.*.tokens, shared": "rows that one example sends through it, and whether all examples of a batch share some of them",
    "groups.*.produced_by, consumed_by": "the same dependencies as ids of linears",
    "groups.*.decision_share": "forward contribution, in [0, 1]: share of all expected logit movement among its kind, on each slice; sums to 1 over a kind",
    "groups.*.gradient_share": "share, in [0, 1], of the mean squared loss gradient among its kind: what recovery training would lose; null when not measured",
    "groups.*.expected_loss_change": "nats an example over all rows: expected if this component alone is removed from the original",
    "groups.*.expected_loss_change_se": "nats: its standard error over rows",
    "groups.*.expected_kl": "nats an example: expected divergence of the predictions from the original's, the same removal",
    "groups.*.exact_loss_change": "nats an example, measured with this component alone removed, on the rows of the audit; null when it was not audited",
    "groups.*.status": "kept, removed, or restored (removed at first, put back because a gate asked for it)",
    "groups.*.removed": "indices of the components that are removed in the end",
    "groups.*.removed_step, restored_step": "the step that removed it for good or at first, and the one that put it back; null when none did",
    "groups.*.took_part": "for each step, the indices of the components that it switched: its expected and observed effect is theirs together",
    "linears, sublayers, layers: decision_share, gradient_share": "sums over the components of the groups named there, by kind and slice; in [0, 1]",
    "linears.*.edits": "expected and exact loss change of weight edits, nats an example; only those that were priced",
    "sublayers, layers: expected_loss_change, exact_loss_change, linear_loss_change": "nats an example if the whole is removed: priced, measured, and by the bare linearisation, which is too small a tool for it; null when not asked",
    "sublayers, layers: parameters_removed, flops_removed": "of the components that are removed in the end; of one that is removed itself, all",
    "sublayers, layers: status, removed_step, restored_step, around, stays": "what became of it as a whole, in the words of `groups`, the steps where it was switched; the modules that only it needs and that go with it; whether the model cannot do without it; left out where there is nothing to tell",
    "embedding": "the token embedding: rows, parameters of ONE row, and the rows, numbered as in the original, that are removed in the end or were put back; null when the model reads no tokens",
    "stream": "the channels of the residual stream: how many, parameters and FLOPs of ONE channel in the whole model, the parameters that it lies in, and the channels that are removed in the end or were put back; null when no strategy removes channels",
    "steps": "every step in order; expected and observed are means an example on the validation split: loss_change and kl in nats, flips and accuracy as shares, n rows",
    "steps.*.flops_removed": "share of the layer FLOPs that is gone after the step, in [0, 1]",
    "steps.*.within_tolerance": "whether the expected loss change was within 25% or 0.005 nats of the observed one; null when not observed",
    "audit": "how well prices agree with exact leave-one-out, by kind: edits, Spearman with 95% interval, Pearson, share of same sign, slope of exact on expected, mean error in nats",
}  # fmt: skip

_STORY = ("status", "removed_step", "restored_step")


def dossier(
    anatomy: Anatomy,
    prices: Prices,
    components: pd.DataFrame,
    stages: Iterable[Stage],
    plans: Iterable[Applied],
    audit: Audit | None,
) -> dict[str, Any]:
    """Everything that is known, as plain values; ``components`` says what became of each."""
    groups = _groups(anatomy, prices, components, list(plans), audit)
    wholes = _wholes(prices, audit)
    return {
        "about": ABOUT,
        "family": anatomy.family,
        "model_class": anatomy.model_class,
        "tokens": anatomy.tokens,
        "parameters": anatomy.parameters,
        "flops": anatomy.flops,
        "components": sum(group.count for group in anatomy.groups.values()),
        "slices": dict(zip(prices.slices, prices.counts, strict=True)),
        "audit": None if audit is None else _audited(audit),
        "steps": [_short(stage_facts(stage)) for stage in stages],
        "layers": {
            name: _told(asdict(layer))
            | _sums(_groups_of(anatomy, layer.sublayers), groups)
            | wholes.get(name, _UNKNOWN)
            | _unit_story(layer, components)
            for name, layer in anatomy.layers.items()
        },
        "sublayers": {
            name: _told(asdict(sublayer))
            | _sums(sublayer.groups, groups)
            | wholes.get(name, _UNKNOWN)
            | _unit_story(sublayer, components)
            for name, sublayer in anatomy.sublayers.items()
        },
        "linears": {
            name: asdict(linear) | _linear_sums(linear.module, groups) | _weight_edits(name, prices, audit)
            for name, linear in anatomy.linears.items()
        },
        "groups": groups,
        "embedding": None
        if anatomy.embedding is None
        else asdict(anatomy.embedding) | _numbers(components, anatomy.embedding.kind),
        "stream": None if anatomy.stream is None else _stream(anatomy.stream) | _numbers(components, CHANNEL),
    }


def dossier_text(facts: Mapping[str, Any]) -> str:
    """JSON with one line a list, so that a person can read it and a large model stays small."""
    return _lines(facts, 0) + "\n"


def shares(prices: Prices) -> tuple[np.ndarray, np.ndarray]:
    """Decision shares ``(slices, edits)`` and gradient shares ``(edits,)``, each among its kind."""
    decision = np.zeros((len(prices.slices), len(prices)))
    gradient = np.full(len(prices), np.nan)
    for kind in dict.fromkeys(prices.kinds):
        mine = prices.kind_of == kind
        decision += prices.decision_shares(kind)
        total = prices.flow[mine].sum()
        gradient[mine] = prices.flow[mine] / total if total > 0 else np.nan
    return decision, gradient


def _groups(
    anatomy: Anatomy, prices: Prices, components: pd.DataFrame, plans: list[Applied], audit: Audit | None
) -> dict[str, Any]:
    decision, gradient = shares(prices)
    place = {component: index for index, component in enumerate(prices.components)}
    story = components.set_index("component")[list(_STORY)].astype(object)
    story = story.where(story.notna(), None)
    exact = _exact(audit)
    took_part = _took_part(anatomy, plans)
    facts = {}
    for name, group in anatomy.groups.items():
        columns = np.array([place[component] for component in group.components])
        status = {column: story.loc[list(group.components), column].tolist() for column in _STORY}
        facts[name] = {
            **asdict(group),
            **_dependencies(anatomy, group),
            "removed": [index for index, each in enumerate(status["status"]) if each == "removed"],
            **status,
            "took_part": took_part.get(name, {}),
            "decision_share": {each: _rounded(decision[row, columns]) for row, each in enumerate(prices.slices)},
            "gradient_share": _rounded(gradient[columns]),
            "expected_loss_change": _rounded(prices.loss_change()[columns]),
            "expected_loss_change_se": _rounded(prices.standard_error[0, columns]),
            "expected_kl": _rounded(prices.values["kl"][0, columns]),
            "exact_loss_change": _rounded([exact.get(component, np.nan) for component in group.components]),
        }
    return facts


def _stream(stream: Stream) -> dict[str, Any]:
    places = [place.parameter for place in stream.places]
    return {"count": stream.count, "parameters": stream.parameters, "flops": stream.flops, "places": places}


def _numbers(components: pd.DataFrame, kind: str) -> dict[str, Any]:
    """The numbers of the rows or channels that are gone, and of those that were put back."""
    mine = components[components["kind"] == kind]
    numbers = mine["component"].str.rpartition(".")[2].astype(int) if len(mine) else mine["component"]
    return {status: sorted(numbers[mine["status"] == status].tolist()) for status in ("removed", "restored")}


def _dependencies(anatomy: Anatomy, group: Group) -> dict[str, Any]:
    named = {linear.module: name for name, linear in anatomy.linears.items()}
    return {
        "layer": group.layer,
        "sublayer": group.name.rpartition(".")[0],
        "produced_by": [named[producer.module] for producer in group.producers],
        "consumed_by": named[group.site],
    }


def _took_part(anatomy: Anatomy, plans: list[Applied]) -> dict[str, dict[str, list[int]]]:
    found: dict[str, dict[str, list[int]]] = {}
    for applied in plans:
        for component in applied.plan.of_components:
            part, index = anatomy.find(component)
            found.setdefault(part.name, {}).setdefault(applied.plan.step, []).append(index)
    return {name: {step: sorted(indices) for step, indices in steps.items()} for name, steps in found.items()}


def _sums(names: Iterable[str], groups: Mapping[str, Any]) -> dict[str, Any]:
    mine = [groups[name] for name in names]
    gone = [len(group["removed"]) for group in mine]
    return _share_sums(mine) | {
        "groups": [group["name"] for group in mine],
        "parameters_removed": sum(group["parameters"] * count for group, count in zip(mine, gone, strict=True)),
        "flops_removed": sum(group["flops"] * count for group, count in zip(mine, gone, strict=True)),
    }


def _told(facts: dict[str, Any]) -> dict[str, Any]:
    """Without what most units have nothing to tell of."""
    return {key: value for key, value in facts.items() if value or key not in ("around", "stays")}


def _unit_story(unit: Sublayer | Layer, components: pd.DataFrame) -> dict[str, Any]:
    """What became of a sublayer or layer as a whole."""
    rows = components[components["component"] == unit.name]
    if rows.empty:
        return {"status": "kept"}
    story: dict[str, Any] = {column: rows.iloc[0][column] for column in _STORY}
    whole = {"parameters_removed": unit.parameters, "flops_removed": unit.flops}
    return {column: value if isinstance(value, str) else None for column, value in story.items()} | (
        whole if story["status"] == "removed" else {}
    )


def _linear_sums(module: str, groups: Mapping[str, Any]) -> dict[str, Any]:
    """Of the groups that the linear computes or consumes."""
    mine = [
        group
        for group in groups.values()
        if module == group["site"] or module in [producer["module"] for producer in group["producers"]]
    ]
    return {"groups": [group["name"] for group in mine]} | _share_sums(mine)


def _share_sums(groups: list[dict[str, Any]]) -> dict[str, Any]:
    decision: dict[str, dict[str, float]] = {}
    gradient: dict[str, float | None] = {}
    for kind in dict.fromkeys(group["kind"] for group in groups):
        mine = [group for group in groups if group["kind"] == kind]
        decision[kind] = {name: _short(sum(sum(group["decision_share"][name]) for group in mine))
                          for name in mine[0]["decision_share"]}  # fmt: skip
        values = [value for group in mine for value in group["gradient_share"]]
        gradient[kind] = None if None in values else _short(sum(values))
    return {"decision_share": decision, "gradient_share": gradient}


_UNKNOWN = {"expected_loss_change": None, "exact_loss_change": None, "linear_loss_change": None}


def _wholes(prices: Prices, audit: Audit | None) -> dict[str, dict[str, Any]]:
    """Whole sublayers and layers, where they were priced or audited."""
    found = {}
    for index in np.flatnonzero(np.isin(prices.kind_of, ["sublayer", "layer"])):
        found[prices.components[index]] = _UNKNOWN | {"expected_loss_change": _short(prices.loss_change()[index])}
    if audit is not None:
        overall = audit.frame[(audit.frame["slice"] == ALL) & audit.frame["kind"].isin(["sublayer", "layer"])]
        for row in overall.to_dict("records"):
            found[row["component"]] = {key: _short(row[key]) for key in _UNKNOWN}
    return found


def _weight_edits(linear: str, prices: Prices, audit: Audit | None) -> dict[str, Any]:
    indices = [index for index, component in enumerate(prices.components) if component == linear]
    edits = {prices.edits[index]: {"expected_loss_change": _short(prices.loss_change()[index]), "exact_loss_change": None}
             for index in indices}  # fmt: skip
    if audit is not None:
        mine = audit.frame[(audit.frame["slice"] == ALL) & (audit.frame["component"] == linear)]
        for row in mine.to_dict("records"):
            edits[row["edit"]] = {key: _short(row[key]) for key in ("expected_loss_change", "exact_loss_change")}
    return {"edits": edits}


def _exact(audit: Audit | None) -> dict[str, float]:
    if audit is None:
        return {}
    removals = audit.frame[(audit.frame["slice"] == ALL) & (audit.frame["edit"] == "remove")]
    return dict(zip(removals["component"], removals["exact_loss_change"], strict=True))


def _audited(audit: Audit) -> dict[str, Any]:
    rows = audit.quality()
    overall = rows[rows["slice"] == ALL].drop(columns=["slice", "n"])
    return {
        "n": int(audit.frame.loc[audit.frame["slice"] == ALL, "n"].iloc[0]),
        "kinds": [_short(row) for row in overall.to_dict("records")],
    }


def _groups_of(anatomy: Anatomy, sublayers: Iterable[str]) -> list[str]:
    return [name for sublayer in sublayers for name in anatomy.sublayers[sublayer].groups]


def _rounded(values: Iterable[float]) -> list[float | None]:
    return [_short(float(value)) for value in values]


def _short(value: Any) -> Any:
    """Floats at six significant digits, and None for what is not a finite number; the same inside containers."""
    if isinstance(value, dict):
        return {str(key): _short(each) for key, each in value.items()}
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value


def _lines(value: Any, depth: int) -> str:
    if isinstance(value, Mapping) and value and depth < 4:
        inner = ",\n".join(
            f"{' ' * (depth + 1)}{json.dumps(key)}: {_lines(each, depth + 1)}" for key, each in value.items()
        )
        return f"{{\n{inner}\n{' ' * depth}}}"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        inner = ",\n".join(f"{' ' * (depth + 1)}{json.dumps(each, allow_nan=False)}" for each in value)
        return f"[\n{inner}\n{' ' * depth}]"
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
