"""A whole run in miniature: what it leaves behind, how it ends, and that it ends the same way again."""

from __future__ import annotations

import copy
import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForSequenceClassification

from compress_explain import (
    Compensation,
    Edit,
    EditError,
    Gate,
    InputError,
    LedgerError,
    Reinstatement,
    Run,
    Situation,
    compress,
    load_compressed,
    replay,
)
from compress_explain.cli import _guarded, app
from compress_explain.config import Config
from compress_explain.evaluators import Quality, Slices
from compress_explain.record.replay import read_ledger, removed_components
from compress_explain.strategies import Heads, Neurons
from compress_explain.terminal.reading import print_component, print_ledger
from compress_explain.terminal.summary import print_run
from tests.small_job import loaded_small_job


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return loaded_small_job(tmp_path_factory.mktemp("inputs"))


def run_small(
    inputs,
    out: Path,
    gates: list[Gate],
    compensation: Compensation | None = None,
    *,
    resume: bool = False,
    **limits: float,
) -> Run:
    _, subject, splits = inputs
    return compress(
        subject,
        splits,
        strategies=[Heads(share=0.75), Neurons(share=0.97, rounds=2, floor=0.0)],
        evaluators=[Quality(), Slices()],
        gates=gates,
        compensation=compensation,
        reinstatement=Reinstatement(step=0.05, **limits),
        out=out,
        resume=resume,
    )


GATES = [
    Gate(metric="nll", max_rise=0.02, rule="point"),
    Gate(metric="nll", slice="*", max_rise=0.02, rule="point"),
    Gate(metric="accuracy", max_drop=0.05, rule="point"),
]


@pytest.fixture(scope="module")
def restored(inputs, tmp_path_factory) -> Run:
    """Nothing is refitted, and so the gates fail at first."""
    return run_small(inputs, tmp_path_factory.mktemp("run") / "out", GATES)


@pytest.fixture(scope="module")
def refitted(inputs, tmp_path_factory) -> Run:
    return run_small(inputs, tmp_path_factory.mktemp("run") / "out", GATES, Compensation())


@pytest.fixture(params=["restored", "refitted"])
def finished(request) -> Run:
    return request.getfixturevalue(request.param)


def test_a_failing_gate_brings_components_back_until_it_holds(restored):
    first, last = restored.summary["first_verdicts"], restored.summary["verdicts"]
    assert "fail" in {row["state"] for row in first}
    assert restored.passed and {row["state"] for row in last} == {"pass"}
    assert restored.summary["judged_split"] == "test"
    back = restored.components[restored.components["status"] == "restored"]
    assert 0 < len(back) < (restored.components["status"] == "removed").sum()
    assert back["restored_reason"].str.contains("slack").all()


def test_the_artifact_holds_what_the_ledger_says(finished, inputs):
    model = finished.load_model()
    assert model.num_parameters() == finished.summary["parameters"]["compressed"]
    base = AutoModelForSequenceClassification.from_pretrained(inputs[0].model).eval()
    again = replay(base, finished.folder).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_the_model_in_memory_is_left_as_it_was(finished, inputs):
    base = AutoModelForSequenceClassification.from_pretrained(inputs[0].model)
    for name, value in inputs[1].model.state_dict().items():
        assert torch.equal(value, base.state_dict()[name]), name
    assert not any(module._forward_pre_hooks for module in inputs[1].model.modules())


def test_every_component_was_priced_and_every_step_recorded(finished):
    assert len(finished.components) == sum(sum(each.values()) for each in finished.summary["components"].values())
    kinds = [record.kind for record in finished.ledger]
    assert kinds[0] == "started" and kinds[-1] == "finished"
    for record in finished.ledger.of_kind("applied"):
        planned = finished.ledger.find("planned", record.step)
        assert planned is not None and planned.seq < record.seq
    assert len(finished.ledger.of_kind("predicted")) == finished.summary["evaluations"]


def test_what_is_left_is_refitted_after_every_change(inputs, tmp_path):
    strict = [Gate(metric="nll", slice="*", max_rise=0.0, rule="point")]
    run = run_small(inputs, tmp_path / "out", strict, Compensation(), max_rounds=2)
    assert any(record.step.startswith("reinstate") for record in run.ledger.of_kind("refitted"))
    applied = {record.step for record in run.ledger.of_kind("applied")}
    assert applied == {record.step for record in run.ledger.of_kind("refitted")}
    removals = [stage for stage in run.course if stage.action == "remove" and stage.observed is not None]
    gained = sum(stage.compensated["loss_change"] for stage in removals)
    assert gained < 0, "refitting lowers the loss that removals raise"
    facts = run.ledger.of_kind("refitted")[0]
    assert 0 <= facts.body["missing_after"] < facts.body["missing_before"] <= 1
    assert any(name.endswith(".safetensors") for name in facts.files)


def test_refitting_makes_up_for_what_calls_components_back(restored, refitted):
    assert "fail" in {row["state"] for row in restored.summary["first_verdicts"]}
    assert {row["state"] for row in refitted.summary["first_verdicts"]} == {"pass"}


def test_a_run_that_was_stopped_goes_on_with_the_same_weights(refitted, inputs, tmp_path):
    """Cut off after any of the first or the last refit, a run ends in the same artifact."""
    whole = refitted
    lines = (whole.folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    kinds = [record.kind for record in whole.ledger]
    last = len(kinds) - 1 - kinds[::-1].index("refitted")
    for position in (kinds.index("refitted"), kinds.index("compensated"), last):
        folder = tmp_path / f"stopped-{position}"
        shutil.copytree(whole.folder, folder)
        shutil.rmtree(folder / "artifact", ignore_errors=True)
        (folder / "ledger.jsonl").write_text("".join(lines[: position + 1]))
        again = run_small(inputs, folder, GATES, Compensation(), resume=True)
        weights = [(run.folder / "artifact" / "model.safetensors").read_bytes() for run in (whole, again)]
        assert weights[0] == weights[1]


def test_expected_stands_beside_observed(finished):
    steps = finished.summary["steps"]
    assert {"loss_change", "kl", "flips_to_wrong", "accuracy_change"} <= steps[0]["expected"].keys() & steps[0][
        "observed"
    ].keys()


def test_the_same_seed_gives_the_same_edits_in_the_same_order(finished, inputs, tmp_path):
    chosen = finished.summary["settings"]["compensation"]
    again = run_small(inputs, tmp_path / "again", GATES, chosen and Compensation(**chosen))
    names = sorted(path.name for path in (finished.folder / "tables").glob("edits-*.parquet"))
    assert names == sorted(path.name for path in (again.folder / "tables").glob("edits-*.parquet"))
    for name in names:
        pd.testing.assert_frame_equal(*(pd.read_parquet(run.folder / "tables" / name) for run in (finished, again)))


def test_an_unreachable_gate_is_a_clear_failure_without_a_model(inputs, tmp_path):
    run = run_small(inputs, tmp_path / "out", [Gate(metric="nll", max=1e-6)], max_rounds=2)
    assert run.state == "fail" and run.exit_code == 1
    assert not (run.folder / "artifact").exists() and run.summary["judged_split"] == "validation"
    with pytest.raises(InputError):
        run.load_model()
    assert not run.ledger.find("predicted", "original-test"), "the test split was read although nothing could ship"


def test_too_few_rows_are_inconclusive_and_say_how_many_would_do(inputs, tmp_path):
    run = run_small(inputs, tmp_path / "out", [Gate(metric="accuracy", max_drop=0.001)], max_rounds=1)
    verdict = run.summary["verdicts"][0]
    assert run.state in ("inconclusive", "fail") and verdict["state"] == run.state
    _, subject, splits = inputs
    gentle = compress(
        subject, splits, strategies=[Neurons(share=0.05, rounds=1)], evaluators=[Quality()],
        gates=[Gate(metric="accuracy", max_drop=0.001)], out=tmp_path / "gentle", compensation=None,
    )  # fmt: skip
    assert gentle.state == "inconclusive" and gentle.exit_code == 3
    assert gentle.summary["evaluations"] <= 4, "restoring cannot help where rows are missing"


def test_gates_that_hold_at_once_bring_nothing_back(inputs, tmp_path):
    run = run_small(inputs, tmp_path / "out", [Gate(metric="accuracy", max_drop=0.99)])
    assert run.passed and not (run.components["status"] == "restored").any()
    assert not any(record.step.startswith("reinstate") for record in run.ledger)


def test_a_changed_file_of_a_run_is_noticed(inputs, tmp_path, capfd):
    run = run_small(inputs, tmp_path / "out", [Gate(metric="accuracy", max_drop=0.99)])
    table = run.folder / "tables" / "prices-start.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"?")
    with pytest.raises(LedgerError, match=r"prices-start\.parquet"):
        read_ledger(run.folder)
    assert _guarded(lambda: app(["show", str(run.folder)], standalone_mode=False)) == 2
    assert "prices-start.parquet" in capfd.readouterr().err


def test_the_ledger_can_be_read(finished):
    text = io.StringIO()
    print_ledger(finished.folder, Console(file=text, width=200))
    assert "chain verified" in text.getvalue() and "judged on test: pass" in text.getvalue()
    removed = removed_components(finished.ledger)[0]
    print_component(finished.folder, removed, Console(file=text, width=200))
    assert f"{removed} (" in text.getvalue() and "cheapest of" in text.getvalue()


def test_the_summary_says_what_a_first_time_user_needs(restored):
    text = io.StringIO()
    print_run(restored, Console(file=text, width=160))
    for words in ("What was removed", "What it cost whom", "Put back", "Verdict: PASSED", "Next:", "report.html"):
        assert words in text.getvalue(), words


def test_the_folder_is_complete_and_plain(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert {"report.html", "run.json", "ledger.jsonl", "anatomy.json", "artifact", "tables", "predictions"} <= names
    json.loads((finished.folder / "run.json").read_text())
    assert not [path for path in finished.folder.rglob("*") if path.suffix in (".bin", ".pkl", ".pt")]
    assert load_compressed(finished.folder / "artifact").config.num_labels == 2


def test_every_part_of_the_configuration_reaches_the_job(inputs):
    assert isinstance(inputs[0], Config)
    assert inputs[2].spec is not None and inputs[2].spec.validation.endswith("validation.csv")


def test_the_front_door_takes_a_folder_and_files(inputs, tmp_path):
    config, _, _ = inputs
    spec = config.data_spec()
    run = compress(
        config.model, spec, slices=config.slice_rules(), strategies=[Neurons(share=0.1, rounds=1)],
        evaluators=[Quality(), Slices()], gates=[Gate(metric="accuracy", slice="*", max_drop=0.99)], out=tmp_path / "out",
    )  # fmt: skip
    assert run.passed and run.summary["settings"]["data"]["test"] == spec.test


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Removes one neuron and claims what that will do."""

    loss: float
    kinds: tuple[str, ...] = ("neuron",)
    rounds: int = 1

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        group = situation.anatomy.groups["encoder.layer.0.ffn.neuron"]
        return (
            Edit(
                component=group.components[0], kind="neuron", action="remove", reason="claimed",
                expected_loss_change=self.loss, parameters_saved=group.parameters, flops_saved=group.flops,
            ),
        )  # fmt: skip


def test_a_removal_of_nothing_is_believed_only_at_a_price_of_nothing(inputs, tmp_path):
    _, subject, splits = inputs
    model = copy.deepcopy(subject.model)
    with torch.no_grad():
        up = model.bert.encoder.layer[0].intermediate.dense
        up.weight[0], up.bias[0] = 0.0, 0.0  # GELU(0) = 0: a dead neuron
    parts = {"evaluators": [Quality()], "gates": [Gate(metric="accuracy", max_drop=0.99)]}
    dead = replace(subject, model=model)
    with pytest.raises(EditError, match=r"encoder\.layer\.0\.ffn\.neuron\.0 has no output to remove"):
        compress(dead, splits, strategies=[Claim(loss=0.1)], out=tmp_path / "boast", **parts)
    assert compress(dead, splits, strategies=[Claim(loss=0.0)], out=tmp_path / "dead", **parts).passed
