"""Quantized linears: simulated under masks, written to the file that runs, weighed against other repairs."""

from __future__ import annotations

import copy
import dataclasses
import io

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.models import Model
from rich.console import Console

from compress_explain import Gate, Reinstatement, compress, load_compressed
from compress_explain.comparison.predictions import Pairs, predict
from compress_explain.compensation import Compensation, Compensator
from compress_explain.deployment.deploy import deploy
from compress_explain.deployment.embeddings import tables_in
from compress_explain.deployment.int8 import Int8Dynamic as Int8DynamicScheme
from compress_explain.deployment.runtime import OnnxRunner, run_examples
from compress_explain.editing.edits import Plan
from compress_explain.editing.masks import Masks
from compress_explain.editing.rounded import let_round
from compress_explain.editing.surgery import materialize
from compress_explain.errors import EditError, InputError
from compress_explain.evaluators import Quality
from compress_explain.model.anatomy import read_anatomy
from compress_explain.plugins.strategy import Situation, menu_of
from compress_explain.pricing import AuditPlan, expected_joint, price
from compress_explain.record.replay import applied_plans
from compress_explain.registry import served
from compress_explain.strategies import Heads, Int8Dynamic, Neurons
from compress_explain.terminal.reading import print_component
from compress_explain.terminal.summary import print_run
from compress_explain.weight_edits import weight_edit
from tests.small_job import loaded_small_job
from tests.tiny import flagged, tiny_examples, tiny_model, uneven_removal


def tiny(family="bert"):
    model, examples = tiny_model(family, labels=2), tiny_examples(family, labels=2)
    return Masks(model, read_anatomy(model, 9)), examples


def plan_of(masks, examples, strategy):
    prices = price(masks, examples, menu=menu_of(masks.anatomy, strategy), batch_size=16)
    situation = Situation(
        anatomy=masks.anatomy, prices=prices, removed=masks.removed, round=0, quantized=masks.quantized
    )
    return Plan(step="1", author="test", edits=strategy.plan(situation))


# Under masks


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_model_that_is_let_round_computes_as_the_masked_one_bit_for_bit(family):
    masks, examples = tiny(family)
    alone, anatomy = copy.deepcopy(masks.model), masks.anatomy
    quantized = dict.fromkeys(list(anatomy.linears)[::2], "int8-dynamic")
    let_round(alone, anatomy, quantized, {})
    with masks:
        masks.quantize(quantized)
        np.testing.assert_array_equal(predict(alone, examples, 16), predict(masks.model, examples, 16))
    assert (predict(alone, examples, 16) != predict(masks.model, examples, 16)).any()


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_quantized_linear_computes_what_its_edit_says_and_comes_back_bit_for_bit(family):
    masks, examples = tiny(family)
    original = predict(masks.model, examples, 16)
    linear = list(masks.anatomy.linears.values())[1]
    module = masks.model.get_submodule(linear.module)
    seen = {}
    with masks:
        masks.quantize({linear.name: "int8-dynamic"})
        hook = module.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0], y=output))
        quantized = predict(masks.model, examples, 16)
        hook.remove()
        weight = module.weight.data
        edit = weight_edit("int8-dynamic").prepare(weight.T if family == "gpt2" else weight, module.bias)
        torch.testing.assert_close(seen["y"], edit.apply(seen["x"]))
        assert np.abs(quantized - original).max() > 1e-5
        masks.restore([linear.name])
        assert np.array_equal(predict(masks.model, examples, 16), original)
        masks.quantize({linear.name: "int8-dynamic"})
        with masks.untouched():
            assert np.array_equal(predict(masks.model, examples, 16), original)
        assert np.array_equal(predict(masks.model, examples, 16), quantized)
    assert np.array_equal(predict(masks.model, examples, 16), original)


def test_what_is_looked_into_holds_the_embeddings_of_the_file(tmp_path):
    masks, examples = tiny()
    scheme = Int8DynamicScheme(embeddings=8)
    made = deploy(masks.model, masks.anatomy, examples, tmp_path / "model.onnx", scheme=scheme, quantized=[])
    tables = tables_in(made.path)
    own = dict(masks.model.named_parameters())
    assert "bert.embeddings.word_embeddings" in tables
    for path, table in tables.items():
        weight = own[f"{path}.weight"].detach().numpy()
        step = np.ptp(weight) / 255
        assert 0 < np.abs(table - weight).max() <= 1.05 * step
    assert tables_in(deploy(masks.model, masks.anatomy, examples, tmp_path / "whole.onnx").path) == {}


def test_what_is_quantized_is_not_quantized_again_and_what_is_not_does_not_come_back():
    masks, _ = tiny()
    first, second = list(masks.anatomy.linears)[:2]
    masks.quantize({first: "int8"})
    with pytest.raises(EditError, match="quantized already, into int8"):
        masks.quantize({second: "int8", first: "int4"})
    assert masks.quantized == {first: "int8"}
    with pytest.raises(EditError, match=f"{second} is not quantized"):
        masks.restore([second])
    with pytest.raises(InputError, match="unknown edit"):
        masks.quantize({second: "int9"})


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_gradients_pass_a_rounded_linear_as_if_it_did_not_round(family):
    """So that what is left can still be priced: the price of a head beside that on the model in full."""
    masks, examples = tiny(family)
    kind = masks.anatomy.kinds[0]
    whole = price(masks, examples, kinds=(kind,), batch_size=16).loss_change()
    with masks:
        masks.quantize(dict.fromkeys(masks.anatomy.linears, "int8"))
        rounded = price(masks, examples, kinds=(kind,), batch_size=16).loss_change()
    assert np.abs(whole).max() > 1e-3
    assert np.abs(rounded - whole).max() < 0.2 * np.abs(whole).max()
    assert not np.array_equal(rounded, whole)


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_the_simulation_is_what_the_file_computes(family, tmp_path):
    """With components removed and weights refitted; 8-bit rounding may fall on the other side here and there."""
    masks, examples = tiny(family)
    with masks:
        masks.remove(flagged(masks.anatomy, uneven_removal(masks.anatomy)))
        Compensator(masks, examples, Compensation(), batch_size=16).refit()
        some = list(masks.anatomy.linears)[1:]
        masks.quantize(dict.fromkeys(some, "int8-dynamic"))
        simulated = predict(masks.model, examples, 8)
        with masks.untouched():
            smaller = materialize(masks.model, masks.anatomy, masks.removed, masks.refits)
    made = deploy(smaller, masks.anatomy, examples, tmp_path / "model.onnx", scheme=Int8DynamicScheme(), quantized=some)
    deployed = run_examples(OnnxRunner(path=made.path), examples, 8)
    in_full = predict(smaller, examples, 8)
    assert np.abs(deployed - simulated).mean() < 0.2 * np.abs(in_full - simulated).mean()
    table = made.to_frame().set_index("component")
    assert set(table.index) == set(masks.anatomy.linears)
    assert (table["scheme"] == "int8-dynamic").sum() == len(some) and (table.loc[some, "sqnr"] > 20).all()
    assert made.difference < 1e-4 and made.bytes == made.path.stat().st_size


def test_an_emptied_sublayer_is_deployed_too(tmp_path):
    masks, examples = tiny()
    attention, _, _, last = list(masks.anatomy.groups.values())[:4]
    with masks:
        masks.remove([*attention.components, *last.components])
        plan = plan_of(masks, examples, Int8Dynamic())
        gone = {attention.name.rpartition(".")[0], last.name.rpartition(".")[0]}
        assert not {name.rpartition(".")[0] for name in plan.components} & gone
        expected = predict(masks.model, examples, 8)
        with masks.untouched():
            smaller = materialize(masks.model, masks.anatomy, masks.removed)
    made = deploy(smaller, masks.anatomy, examples, tmp_path / "model.onnx")
    deployed = run_examples(OnnxRunner(path=made.path), examples, 8)
    assert np.abs(deployed - expected).max() < 1e-4
    assert {name.rpartition(".")[0] for name in made.linears}.isdisjoint(gone)


# The strategy


def test_the_linears_whose_rounding_costs_most_stay_in_float():
    masks, examples = tiny()
    whole, part = (plan_of(masks, examples, Int8Dynamic(float_kept=share)) for share in (0.0, 0.3))
    assert set(whole.components) == set(masks.anatomy.linears)
    linears = masks.anatomy.linears
    kept = [name for name in linears if name not in part.components]
    total = sum(linear.flops for linear in linears.values())
    assert (
        0.3 * total
        <= sum(linears[name].flops for name in kept)
        < 0.3 * total + max(linear.flops for linear in linears.values())
    )
    prices = price(masks, examples, menu=menu_of(masks.anatomy, Int8Dynamic()), batch_size=16)
    cost = dict(
        zip(
            prices.components, prices.values["kl"][0] / [linears[name].flops for name in prices.components], strict=True
        )
    )
    assert min(cost[name] for name in kept) >= max(cost[name] for name in part.components)
    assert all(edit.work_saved == round(linears[edit.component].flops * 2 / 3) for edit in whole.edits)
    assert {edit.into for edit in whole.edits} == {"int8-dynamic"}


def test_what_is_quantized_is_not_proposed_again():
    masks, examples = tiny()
    first = next(iter(masks.anatomy.linears))
    masks.quantize({first: "int8-dynamic"})
    assert first not in plan_of(masks, examples, Int8Dynamic()).components


@pytest.mark.parametrize(
    ("options", "culprit"),
    [({"float_kept": 1.0}, "float_kept"), ({"embeddings": 16}, "embeddings"), ({"speedup": 0.5}, "speedup")],
)
def test_bad_values_are_refused(options, culprit):
    with pytest.raises(InputError, match=rf"int8_dynamic\.{culprit}"):
        Int8Dynamic(**options)


def test_the_expected_effect_of_a_plan_of_linears_is_near_the_observed_one():
    masks, examples = tiny()
    before = predict(masks.model, examples, 16)
    plan = plan_of(masks, examples, Int8Dynamic())
    joint = expected_joint(masks, examples, plan.of_components, before, 16, linears=plan.edits_of_linears)["all"]
    with masks:
        masks.quantize(plan.quantized)
        after = predict(masks.model, examples, 16)
    log = [
        torch.from_numpy(logits).double().log_softmax(-1)[np.arange(len(examples)), examples.labels]
        for logits in (before, after)
    ]
    observed = float((log[0] - log[1]).mean())
    assert observed != 0
    assert abs(joint.loss_change - observed) < 0.5 * abs(observed) + 1e-3


# A whole run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    _, subject, splits = loaded_small_job(tmp_path_factory.mktemp("inputs"))
    return subject, splits


def with_outliers(model):
    """The same function, but one value channel a head is large and its consumer's column small, as real models have them."""
    for layer in model.bert.encoder.layer:
        value, output = layer.attention.self.value, layer.attention.output.dense
        with torch.no_grad():
            value.weight[5::8] *= 3000
            value.bias[5::8] *= 3000
            output.weight[:, 5::8] /= 3000
    return model


def run(subject, splits, out, gates, *, resume=False, **options):
    return compress(
        subject, splits, strategies=[Heads(share=0.25), Neurons(share=0.3, rounds=1), Int8Dynamic(**options)],
        evaluators=[Quality()], gates=gates, reinstatement=Reinstatement(step=0.2, trims=2), audit=AuditPlan(heads=0, neurons=0),
        compensation=None, out=out, resume=resume,
    )  # fmt: skip


GATES = [Gate(metric="nll", max_rise=0.02, rule="point")]


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    return run(*inputs, tmp_path_factory.mktemp("run") / "out", GATES)


def test_the_file_that_runs_is_what_is_judged(finished, inputs):
    _, splits = inputs
    assert finished.passed and finished.summary["judged_split"] == "test"
    facts = finished.summary["deployed"]
    runner = OnnxRunner(path=finished.folder / facts["file"])
    logits = run_examples(runner, splits.test, 32)
    judged = Pairs.load(finished.folder / "predictions" / "artifact-test.parquet").compressed
    np.testing.assert_allclose(judged, logits, atol=1e-5)
    assert facts["linears"] == {"int8-dynamic": 12} and facts["bytes"] < facts["original_bytes"]
    assert facts["beside_masked"]["agreement"] > 0.98
    table = pd.read_parquet(finished.folder / "tables" / "linears.parquet")
    assert (table["digest"].str.len() == 64).all() and (table["bits"] == 8).all()


def test_the_report_and_the_ledger_tell_of_it(finished, capsys):
    page = (finished.folder / "report.html").read_text()
    assert "What runs" in page and "encoder.layer.1.attention.output" in page and "12 of its 12 linears" in page
    print_run(finished, Console(file=(text := io.StringIO()), width=200))
    assert "artifact/model.onnx: linears 12 int8-dynamic" in text.getvalue()
    print_component(
        finished.folder, "encoder.layer.1.attention.output", Console(file=(text := io.StringIO()), width=200)
    )
    assert "quantized at step 3-int8dynamic-1" in text.getvalue()


def test_what_mlflow_serves_is_the_file_that_was_judged(finished, tmp_path):
    served._save(finished, tmp_path / "model", Model())
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    inputs, expected = served.judged(finished.folder / "artifact")
    found = model.predict(inputs).drop(columns="label").to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    _, in_full = served.reference(load_compressed(finished.folder / "artifact"), finished.folder / "artifact")
    assert np.abs(found - in_full).max() > 1e-4, "8 bits must show for this to mean anything"


def test_a_finished_run_is_resumed_without_doing_anything_again(finished, inputs):
    before = finished.ledger.head
    again = run(*inputs, finished.folder, GATES, resume=True)
    assert again.ledger.head == before and again.summary == finished.summary


def test_the_cheapest_repair_is_made_whatever_strategy_it_undoes(inputs, tmp_path):
    """Where 8 bits are what hurts, the linears that they hurt go back to float, and heads and neurons stay away."""
    subject, splits = inputs
    outliers = dataclasses.replace(subject, model=with_outliers(copy.deepcopy(subject.model)))
    gates = [Gate(metric="nll", max_rise=0.02, rule="point")]
    done = run(outliers, splits, tmp_path / "out", gates)
    assert {row["state"] for row in done.summary["first_verdicts"]} == {"fail"}
    assert done.passed
    plans = [applied.plan for applied in applied_plans(done.ledger) if applied.plan.edits[0].action == "restore"]
    returned = [edit for plan in plans for edit in plan.edits]
    assert returned[0].component.endswith("attention.output") and "for the time that it takes" in returned[0].reason
    flops = sum(edit.work_saved for edit in returned if edit.kind != "linear")
    assert flops >= -0.2 * sum(-edit.work_saved for edit in returned)
    assert done.summary["deployed"]["linears"]["float32"] >= 1


def test_one_file_has_one_scheme(inputs, tmp_path):
    subject, splits = inputs
    with pytest.raises(InputError, match="one scheme"):
        compress(subject, splits, strategies=[Int8Dynamic(), Int8Dynamic(float_kept=0.5)], evaluators=[Quality()],
                 gates=GATES, out=tmp_path / "out")  # fmt: skip


def test_an_onnx_file_can_be_deployed_without_quantizing(inputs, tmp_path):
    subject, splits = inputs
    done = compress(subject, splits, strategies=[Heads(share=0.25)], evaluators=[Quality()], gates=GATES, runtime="onnx",
                    audit=AuditPlan(heads=0, neurons=0), out=tmp_path / "out")  # fmt: skip
    assert done.passed and done.summary["deployed"]["linears"] == {"float32": 12}
    assert done.summary["deployed"]["difference"] < 1e-4
