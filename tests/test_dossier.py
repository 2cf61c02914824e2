"""``anatomy.json``: the living model of an architecture says of every component what is known of it."""

from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pandas as pd
import pytest

from compress_explain.record.outcome import Run
from compress_explain.record.replay import removed_components
from compress_explain.registry.figures import layer_rows
from compress_explain.running.reinstate import Reinstatement
from tests.test_report import MIDDLE, finished_run

LIMITS = {"max_rounds": 8, "step": 0.3, "max_share": 1.0, "reserve": 0.3}
PARALLEL = ("status", "removed_step", "restored_step", "gradient_share", "expected_loss_change",
            "expected_loss_change_se", "expected_kl", "exact_loss_change")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return finished_run(tmp_path_factory.mktemp("run") / "out", MIDDLE, Reinstatement(**LIMITS))[0]


def test_every_list_has_one_entry_a_component(run):
    for group in run.anatomy["groups"].values():
        assert {len(group[name]) for name in PARALLEL} == {group["count"]}
        assert {len(values) for values in group["decision_share"].values()} == {group["count"]}
    assert sum(group["count"] for group in run.anatomy["groups"].values()) == run.anatomy["components"]


def test_shares_sum_to_one_over_a_kind_on_every_slice_and_over_its_layers(run):
    facts = run.anatomy
    for kind in ("head", "neuron"):
        mine = [group for group in facts["groups"].values() if group["kind"] == kind]
        for name in facts["slices"]:
            assert sum(chain(*(group["decision_share"][name] for group in mine))) == pytest.approx(1, abs=1e-4)
            for whole in ("layers", "sublayers"):
                parts = [part["decision_share"].get(kind, {name: 0.0})[name] for part in facts[whole].values()]
                assert sum(parts) == pytest.approx(1, abs=1e-4)
        assert sum(chain(*(group["gradient_share"] for group in mine))) == pytest.approx(1, abs=1e-4)


def test_the_end_of_every_component_is_that_of_the_ledger(run):
    facts = run.anatomy["groups"]
    told = {f"{name}.{index}" for name, group in facts.items() for index in group["removed"]}
    assert told == set(removed_components(run.ledger))
    status = dict(zip(run.components["component"], run.components["status"], strict=True))
    for name, group in facts.items():
        assert group["status"] == [status[f"{name}.{index}"] for index in range(group["count"])]
        assert [index for index, each in enumerate(group["status"]) if each == "removed"] == group["removed"]
    assert "restored" in status.values()


def test_steps_are_named_and_lie_in_the_same_file(run):
    steps = {step["step"]: step for step in run.anatomy["steps"]}
    for name, group in run.anatomy["groups"].items():
        assert group["took_part"].keys() <= steps.keys()
        for index, step in enumerate(group["removed_step"]):
            assert step is None or index in group["took_part"][step], name
        for step in group["restored_step"]:
            assert step is None or steps[step]["action"] == "restore"
    for step in steps.values():
        edits = pd.read_parquet(run.folder / "tables" / f"edits-{step['step']}.parquet")
        assert len(edits) == sum(len(g["took_part"].get(step["step"], [])) for g in run.anatomy["groups"].values())
        assert step["expected"].keys() == (step["observed"] or step["expected"]).keys()


def test_what_is_gone_after_the_last_step_is_what_the_summary_says(run):
    last = [step for step in run.anatomy["steps"] if not step["reverted"]][-1]
    flops = run.summary["flops"]
    assert last["flops_removed"] == pytest.approx(1 - flops["compressed"] / flops["original"], abs=1e-5)
    assert (
        sum(layer["flops_removed"] for layer in run.anatomy["layers"].values())
        == flops["original"] - flops["compressed"]
    )


def test_dependencies_lead_from_linears_to_groups_and_back(run):
    facts = run.anatomy
    for name, group in facts["groups"].items():
        assert (
            name in facts["sublayers"][group["sublayer"]]["groups"]
            and name in facts["layers"][group["layer"]]["groups"]
        )
        assert facts["linears"][group["consumed_by"]]["module"] == group["site"]
        for linear in (group["consumed_by"], *group["produced_by"]):
            assert facts["linears"][linear]["groups"] == [name]


def test_audited_components_carry_their_exact_figure_and_no_others(run):
    frame = run.audit.frame.query("slice == 'all'").set_index("component")
    found = {f"{name}.{index}": value for name, group in run.anatomy["groups"].items()
             for index, value in enumerate(group["exact_loss_change"]) if value is not None}  # fmt: skip
    assert found.keys() == set(frame.index)
    for component, value in found.items():
        assert value == pytest.approx(frame.loc[component, "exact_loss_change"], rel=1e-5)


def test_every_field_of_a_group_is_explained(run):
    about = " ".join(run.anatomy["about"])
    catalogue = {"name", "kind", "count", "width", "position_bias", "attention", "layer", "sublayer", "produced_by"}
    fields = next(iter(run.anatomy["groups"].values())).keys() - catalogue
    assert {field for field in fields if field not in about} == set()


def test_floats_have_six_digits_and_lists_one_line(run):
    def floats(value):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            yield from chain(*map(floats, value))
        elif isinstance(value, float):
            yield value

    text = (run.folder / "anatomy.json").read_text()
    assert all(value == float(f"{value:.6g}") for value in floats(json.loads(text)))
    assert len(text.splitlines()) < 150 + 50 * len(run.anatomy["groups"]) + 20 * len(run.anatomy["linears"])


def test_its_readers_still_find_what_they_need(run):
    rows = layer_rows(run)
    assert sum(row["flops_kept"] for row in rows) == run.summary["flops"]["compressed"]
    kept = np.array([row["neurons_kept"] for row in rows])
    assert kept.sum() == (run.components.query("kind == 'neuron'")["status"] != "removed").sum()
