"""Runs that take whole sublayers and layers out, among other things, and put them back."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from compress_explain import Compensation, Gate, Reinstatement, Run, compress, replay
from compress_explain.cli import app
from compress_explain.comparison.predictions import Pairs, predict
from compress_explain.data.loading import DataSpec, load_splits
from compress_explain.deployment.deploy import deploy
from compress_explain.deployment.runtime import OnnxRunner, run_examples
from compress_explain.editing.masks import Masks
from compress_explain.editing.surgery import materialize
from compress_explain.evaluators import Quality
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.depth import shortened
from compress_explain.model.loading import load_subject
from compress_explain.pricing import AuditPlan
from compress_explain.record.checkpoint import read_manifest
from compress_explain.record.replay import applied_plans
from compress_explain.strategies import Heads, Int8Dynamic, Layers, Neurons, Sublayers, Vocabulary
from compress_explain.terminal.reading import print_component, print_ledger
from compress_explain.terminal.summary import print_run
from compress_explain.vocabulary import read_by
from tests.small_job import loaded_small_job, sentences
from tests.tiny import EXPORTED, tiny_examples, tiny_model, tiny_tokens
from tests.words import reading_model, trained_tokenizer

NO_AUDIT = AuditPlan(heads=0, neurons=0)
LENIENT = [Gate(metric="accuracy", max_drop=0.9, rule="point")]
ORDERS = {
    "depth-first": [
        Layers(count=1), Sublayers(count=1), Heads(share=0.7, rounds=1), Neurons(share=0.6, rounds=1), Vocabulary(),
        Int8Dynamic(),
    ],
    "depth-last": [
        Int8Dynamic(), Vocabulary(), Heads(share=0.2, rounds=1), Neurons(share=0.3, rounds=1), Sublayers(count=1),
        Layers(count=1),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    tokenizer = trained_tokenizer("bert")
    tokenizer.save_pretrained(folder / "model")
    model = reading_model("bert", tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)  # so that 8 bits do not decide
    model.save_pretrained(folder / "model")
    for name, rows, seed in (("calibration", 64, 2), ("validation", 48, 3), ("test", 48, 4)):
        sentences(rows, seed).to_csv(folder / f"{name}.csv", index=False)
    subject = load_subject(str(folder / "model"), "text-classification")
    files = {name: str(folder / f"{name}.csv") for name in ("calibration", "validation", "test")}
    return folder, subject, load_splits(DataSpec(**files, max_length=24), [], subject, seed=0)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name == "depth-first" else pytest.mark.exhaustive) for name in ORDERS],
)
def finished(request, job) -> Run:
    folder, subject, splits = job
    return compress(
        subject, splits, strategies=ORDERS[request.param], evaluators=[Quality()], gates=LENIENT, audit=NO_AUDIT,
        out=folder / request.param,
    )  # fmt: skip


def test_layers_go_with_everything_else_in_any_order(finished, job):
    _, subject, splits = job
    assert finished.passed
    counts = finished.summary["components"]
    assert counts["layer"] == {"kept": 2, "removed": 1, "restored": 0}
    assert counts["sublayer"] == {"kept": 5, "removed": 1, "restored": 0}
    assert {kind for kind, each in counts.items() if each["removed"]} == {
        "head",
        "neuron",
        "layer",
        "sublayer",
        "token",
    }
    model = finished.load_model()
    assert model.config.num_hidden_layers == len(model.bert.encoder.layer) == 2
    again = replay(AutoModelForSequenceClassification.from_pretrained(subject.source).eval(), finished.folder)
    assert model.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    read = read_by(splits.test, AutoTokenizer.from_pretrained(finished.folder / "artifact"))
    judged = Pairs.load(finished.folder / "predictions" / "artifact-test.parquet").compressed
    runner = OnnxRunner(path=finished.folder / finished.summary["deployed"]["file"])
    np.testing.assert_allclose(judged, run_examples(runner, read, 32), atol=1e-5)
    assert finished.summary["deployed"]["beside_masked"]["agreement"] > 0.9


def test_every_parameter_and_flop_is_counted_once(finished, job):
    anatomy = read_anatomy(job[1].model, finished.summary["tokens"])
    removals = [edit for applied in applied_plans(finished.ledger) for edit in applied.plan.edits]
    saved = sum(edit.flops_saved for edit in removals)
    assert finished.summary["flops"] == {"original": anatomy.flops, "compressed": anatomy.flops - saved}
    model = finished.load_model()
    assert finished.summary["parameters"]["compressed"] == sum(each.numel() for each in model.parameters())
    assert sum(edit.parameters_saved for edit in removals) == anatomy.parameters - model.num_parameters()
    left = sum(module.weight.numel() for module in _linears(model, anatomy, finished))
    tokens = finished.summary["tokens"]
    scores = sum(
        4 * tokens * tokens * group.width * (group.count - int(_gone(finished, group.name)))
        for group in anatomy.groups.values()
        if group.kind == "head"
    )
    assert 2 * tokens * left + scores == anatomy.flops - saved


def _linears(model, anatomy, run):
    removed = {name: torch.ones(1, dtype=torch.bool) for name in read_manifest(run.folder / "artifact")["removed"]
               if name in anatomy.units}  # fmt: skip
    modules = dict(model.named_modules())
    there = [modules.get(each.module) for each in shortened(anatomy, removed).linears.values()]
    return [module for module in there if getattr(module, "weight", None) is not None]


def _gone(run, group):
    mine = run.components[run.components["component"].str.rpartition(".")[0] == group]
    return (mine["status"] == "removed").sum()


def test_people_are_told_in_words(finished):
    print_run(finished, Console(file=(text := io.StringIO()), width=160))
    assert "layers" in text.getvalue() and "sublayers" in text.getvalue()
    page = (finished.folder / "report.html").read_text()
    for words in ("removed 1 layer", "removed 1 sublayer", "Whole sublayers and layers", "Removed layers"):
        assert words in page, words
    rows = finished.components[finished.components["status"] == "removed"]
    [layer] = rows[rows["kind"] == "layer"]["component"]
    inside = rows[rows["component"].str.startswith(f"{layer}.") & rows["kind"].isin(["head", "neuron"])]
    with_it = inside[inside["removed_reason"].str.startswith(f"with {layer}: ")]
    assert len(with_it)
    assert {"status", "removed_step"} <= finished.anatomy["layers"][layer].keys()
    assert finished.anatomy["layers"][layer]["status"] == "removed"
    assert finished.anatomy["layers"][layer]["flops_removed"] == finished.anatomy["layers"][layer]["flops"]
    print_component(finished.folder, layer, Console(file=(text := io.StringIO()), width=200))
    print_component(finished.folder, with_it["component"].iloc[0], Console(file=text, width=200))
    assert f"removed with {layer} at step" in text.getvalue() and "(layer)" in text.getvalue()
    print_ledger(finished.folder, Console(file=(text := io.StringIO()), width=200))
    assert "1 layer" in text.getvalue()


# Put back


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config, subject, splits = loaded_small_job(tmp_path_factory.mktemp("inputs"))
    return subject, replace(splits, calibration=splits.calibration.draw(96, 0))


def run_trained(trained, out, strategies, compensation=None, **options):
    subject, splits = trained
    gates = [Gate(metric="nll", max_rise=0.02, rule="point")]
    return compress(
        subject, splits, strategies=strategies, evaluators=[Quality()], gates=gates, compensation=compensation,
        reinstatement=Reinstatement(step=0.05, max_share=1.0), audit=NO_AUDIT, out=out, **options,
    )  # fmt: skip


def test_a_layer_that_a_gate_needs_is_put_back_whole_and_bit_for_bit(trained, tmp_path):
    run = run_trained(trained, tmp_path / "out", [Layers(count=1)])
    assert {row["state"] for row in run.summary["first_verdicts"]} == {"fail"} and run.passed
    plans = [applied.plan for applied in applied_plans(run.ledger)]
    [went], [back] = plans[0].edits, plans[1].edits
    assert (went.kind, back.kind, back.action) == ("layer", "layer", "restore")
    assert back.component == went.component and "for the time that it takes" in back.reason
    assert (back.flops_saved, back.parameters_saved, back.work_saved) == (
        -went.flops_saved, -went.parameters_saved, -went.work_saved
    )  # fmt: skip
    assert run.summary["restored_share"] == {"count": 1.0, "flops": 1.0}
    for step in run.summary["steps"]:
        assert step["expected"]["loss_change"] == pytest.approx(step["observed"]["loss_change"], abs=1e-5)
    base = trained[0].model.state_dict()
    assert all(torch.equal(value, base[name]) for name, value in run.load_model().state_dict().items())


@pytest.mark.exhaustive
def test_a_stopped_run_goes_on_to_the_same_file(trained, tmp_path):
    strategies = [Sublayers(count=1), Neurons(share=0.6, rounds=1)]
    whole = run_trained(trained, tmp_path / "whole", strategies, Compensation())
    kinds = [record.kind for record in whole.ledger]
    lines = (whole.folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    shutil.copytree(whole.folder, tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "artifact", ignore_errors=True)
    (tmp_path / "stopped" / "ledger.jsonl").write_text("".join(lines[: kinds.index("refitted") + 1]))
    again = run_trained(trained, tmp_path / "stopped", strategies, Compensation(), resume=True)
    weights = [(run.folder / "artifact" / "model.safetensors").read_bytes() for run in (whole, again)]
    assert weights[0] == weights[1]


# From the command line


def test_a_plan_can_be_seen_first_and_too_much_is_refused_in_one_message(job):
    folder, _, _ = job
    document = {
        "model": str(folder / "model"),
        "data": {name: str(folder / f"{name}.csv") for name in ("calibration", "validation", "test")},
        "strategies": [{"layers": {"count": 1}}, {"sublayers": {"flops_kept": 0.6, "rounds": 1}}],
        "gates": [{"metric": "accuracy", "max_drop": 0.9, "rule": "point"}],
        "registries": [],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    planned = CliRunner().invoke(app, ["plan", str(folder / "config.yaml")], catch_exceptions=False)
    assert planned.exit_code == 0 and "layers, round 1: 1 layer to be removed" in planned.output
    document["strategies"] = [{"layers": {"count": 3}}]
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    from compress_explain.cli import _guarded

    refused = _guarded(
        lambda: app(["run", str(folder / "config.yaml"), "--out", str(folder / "refused")], standalone_mode=False)
    )
    assert refused == 2


# ONNX


@pytest.mark.parametrize("kind", ["sublayer", "layer"])
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name == "gpt2" else pytest.mark.exhaustive) for name in EXPORTED]
)
def test_what_is_left_is_exported_under_its_original_names(family, kind, tmp_path):
    model, examples = tiny_model(family), tiny_examples(family)
    masks = Masks(model, read_anatomy(model, tiny_tokens(family)))
    units = masks.anatomy.units.items()
    masks.remove([next(name for name, unit in units if unit.kind == kind and not getattr(unit, "stays", False))])
    smaller = materialize(model, masks.anatomy, masks.removed)
    anatomy = shortened(masks.anatomy, masks.removed)
    made = deploy(smaller, anatomy, examples, tmp_path / "model.onnx")
    gone = {name for name in masks.anatomy.linears if masks.gone(name)}
    assert gone and made.linears.keys() == masks.anatomy.linears.keys() - gone
    names = {node.name for node in onnx.load(made.path).graph.node}
    assert set(made.linears) <= names
    logits = run_examples(OnnxRunner(path=made.path), examples, 8)
    np.testing.assert_allclose(logits, predict(smaller, examples, 8), atol=1e-4)
