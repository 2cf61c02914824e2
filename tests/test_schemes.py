"""Every way to quantize, from prices to the file that is judged: simulated, weighed, repaired, deployed as simulated."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pandas as pd
import pytest
import torch

from compress_explain import Gate, Reinstatement, compress
from compress_explain.choosing.activations import (
    Ranges,
    find_activations,
    load_activations,
    passes_of,
    save_activations,
)
from compress_explain.choosing.quantizing import joint_kl
from compress_explain.comparison.predictions import Pairs, predict
from compress_explain.deployment import OnnxRunner, run_examples
from compress_explain.deployment.deploy import deploy
from compress_explain.editing.edits import Plan
from compress_explain.editing.masks import Masks
from compress_explain.editing.surgery import materialize
from compress_explain.errors import InputError
from compress_explain.evaluators import Quality
from compress_explain.model.anatomy import read_anatomy
from compress_explain.plugins.catalog import STRATEGIES
from compress_explain.plugins.strategy import Quantizing, Situation, menu_of, ranges_of
from compress_explain.pricing import MOVES, AuditPlan, price
from compress_explain.record.replay import applied_plans
from compress_explain.strategies import Half, Heads, Int8Dynamic, Int8Static, MixedPrecision, Neurons, WeightOnly
from tests.small_job import loaded_small_job
from tests.tiny import flagged, tiny_examples, tiny_model, uneven_removal

STRATEGY = {
    "static": Int8Static(),
    "static, percentile": Int8Static(calibration="percentile", percentile=99.9),
    "static, entropy": Int8Static(calibration="entropy"),
    "static, smooth": Int8Static(smooth=0.5),
    "4 bits": WeightOnly(block=16),
    "8 bits": WeightOnly(bits=8, block=16),
    "hqq": WeightOnly(block=16, method="hqq"),
    "gptq": WeightOnly(block=16, method="gptq"),
    "float16": Half(),
    "bfloat16": Half(format="bfloat16"),
    "mixed": MixedPrecision(float_kept=0.4),
    "mixed, static": MixedPrecision(to={"int8_static": {"smooth": 0.5}}, float_kept=0.4),
    "mixed, 4 and 8 bits": MixedPrecision(to=WeightOnly(block=16), float_kept=0.4),
}


def tiny(family="bert"):
    model, examples = tiny_model(family, labels=2), tiny_examples(family, labels=2)
    return Masks(model, read_anatomy(model, 9)), examples


def plan_of(masks, examples, strategy):
    ranges = ranges_of(strategy)
    if ranges is not None:
        masks.activations = find_activations(masks, examples, ranges)
    prices = price(masks, examples, menu=menu_of(masks.anatomy, strategy), batch_size=16, moves=MOVES)
    situation = Situation(
        anatomy=masks.anatomy, prices=prices, removed=masks.removed, round=0, quantized=masks.quantized
    )
    return Plan(step="1", author="test", edits=strategy.plan(situation)), prices


# Simulated and deployed


USUAL = ("static, smooth", "4 bits", "gptq", "float16", "mixed")
VARIANTS = [pytest.param(name, marks=() if name in USUAL else pytest.mark.exhaustive) for name in STRATEGY]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_simulation_is_what_the_file_computes(name, tmp_path):
    """With heads and neurons gone, so that blocks and ranges are those of what is left."""
    masks, examples = tiny()
    strategy = STRATEGY[name]
    with masks:
        masks.remove(flagged(masks.anatomy, uneven_removal(masks.anatomy)))
        plan, _ = plan_of(masks, examples, strategy)
        assert plan.quantized and all(edit.work_saved > 0 and edit.into for edit in plan.edits)
        masks.quantize(plan.quantized)
        simulated = predict(masks.model, examples, 8)
        with masks.untouched():
            smaller = materialize(masks.model, masks.anatomy, masks.removed)
        found = masks.activations_left()
    quantized = masks.quantized
    scheme = dataclasses.replace(strategy.scheme, embeddings=False if isinstance(strategy, Half) else 32)
    made = deploy(
        smaller, masks.anatomy, examples, tmp_path / "model.onnx", scheme=scheme, quantized=quantized, found=found
    )
    deployed = run_examples(OnnxRunner(path=made.path), examples, 8)
    in_full = predict(smaller, examples, 8)
    assert np.abs(in_full - simulated).mean() > 1e-5
    assert np.abs(deployed - simulated).mean() < 0.2 * np.abs(in_full - simulated).mean() + 1e-6
    stored = made.to_frame().set_index("component")["bits"]
    expected = {"int8": 8, "int4": 4, "fp16": 16, "bf16": 16}
    bits = {linear: expected[edit[:4]] for linear, edit in quantized.items()}
    assert stored.to_dict() == {linear: bits.get(linear, 32) for linear in masks.anatomy.linears}


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", ["gpt2", "vit"])
@pytest.mark.parametrize("name", ["static, smooth", "4 bits", "float16"])
def test_other_families_are_simulated_as_they_are_deployed(name, family, tmp_path):
    masks, examples = tiny(family)
    with masks:
        plan, _ = plan_of(masks, examples, STRATEGY[name])
        masks.quantize(plan.quantized)
        simulated = predict(masks.model, examples, 8)
    scheme = dataclasses.replace(STRATEGY[name].scheme, embeddings=False if name == "float16" else 32)
    made = deploy(masks.model, masks.anatomy, examples, tmp_path / "model.onnx", scheme=scheme,
                  quantized=masks.quantized, found=masks.activations_left())  # fmt: skip
    deployed = run_examples(OnnxRunner(path=made.path), examples, 8)
    in_full = predict(masks.model, examples, 8)
    assert np.abs(deployed - simulated).mean() < 0.2 * np.abs(in_full - simulated).mean() + 1e-6


# Ranges


def test_ranges_are_those_of_what_is_not_padding():
    masks, examples = tiny()
    found = find_activations(masks, examples, Ranges())
    name = "encoder.layer.1.ffn.up"
    module = masks.model.get_submodule(masks.anatomy.linears[name].module)
    seen = []
    hook = module.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    predict(masks.model, examples, 1)
    hook.remove()
    assert found[name].low == pytest.approx(float(min(each.min() for each in seen)), rel=1e-5)
    assert found[name].high == pytest.approx(float(max(each.max() for each in seen)), rel=1e-5)
    assert found.keys() == masks.anatomy.linears.keys()


def test_percentile_and_entropy_give_narrower_ranges_within_the_extremes():
    masks, examples = tiny()
    whole = find_activations(masks, examples, Ranges())
    half = find_activations(masks, examples, Ranges(method="percentile", percentile=90.0))
    all_of_it = find_activations(masks, examples, Ranges(method="percentile", percentile=100.0))
    best = find_activations(masks, examples, Ranges(method="entropy"))
    for name, each in whole.items():
        width = each.high - each.low
        assert each.low <= half[name].low and half[name].high <= each.high
        assert half[name].high - half[name].low < 0.9 * width
        assert all_of_it[name].high - all_of_it[name].low == pytest.approx(width, rel=1e-3)
        assert each.low <= best[name].low and best[name].high <= each.high
    assert passes_of(Ranges()) == 1 and passes_of(Ranges(method="entropy")) == 2


def test_entropy_cuts_a_lonely_outlier_off():
    masks, examples = tiny()
    name = "encoder.layer.0.attention.query"
    module = masks.model.get_submodule(masks.anatomy.linears[name].module)
    hook = module.register_forward_pre_hook(lambda module, inputs: (with_outlier(inputs[0]),))
    wide = find_activations(masks, examples, Ranges())[name]
    best = find_activations(masks, examples, Ranges(method="entropy"))[name]
    hook.remove()
    assert wide.high == pytest.approx(1e3) and best.high < 300


def with_outlier(x):
    changed = x.clone()
    changed[0, 0, 0] = 1e3
    return changed


def test_smoothing_evens_out_the_range_of_channels():
    masks, examples = tiny()
    model = masks.model
    with torch.no_grad():  # the same function: large value channels, small columns behind them
        for layer in model.bert.encoder.layer:
            layer.attention.self.value.weight[::8] *= 1000
            layer.attention.self.value.bias[::8] *= 1000
            layer.attention.output.dense.weight[:, ::8] /= 1000
    original = predict(model, examples, 16)
    errors = []
    for smooth in (None, 0.5):
        with masks:
            masks.activations = find_activations(masks, examples, Ranges(smooth=smooth))
            masks.quantize(dict.fromkeys(masks.anatomy.linears, "int8-static"))
            errors.append(np.abs(predict(model, examples, 16) - original).mean())
            masks.restore(masks.anatomy.linears)
    assert errors[1] < 0.5 * errors[0]


def test_activations_are_read_back_as_they_were_written(tmp_path):
    masks, examples = tiny()
    found = find_activations(masks, examples, Ranges(method="percentile", smooth=0.5))
    save_activations(found, tmp_path / "there" / "activations.safetensors")
    read = load_activations(tmp_path / "there" / "activations.safetensors")
    for name, each in found.items():
        assert (each.low, each.high) == (read[name].low, read[name].high)
        assert torch.equal(each.divisor, read[name].divisor)


# Mixed precision


def test_the_cheapest_are_quantized_until_the_allowed_loss_is_spent():
    masks, examples = tiny()
    _, prices = plan_of(masks, examples, Int8Dynamic())
    whole = joint_kl(prices, range(len(prices)))
    assert whole > 0
    plans = {share: plan_of(masks, examples, MixedPrecision(loss=share * whole))[0] for share in (0.0, 0.3, 1.0)}
    assert len(plans[0.0]) == 0 and len(plans[1.0]) == len(masks.anatomy.linears)
    some = plans[0.3]
    assert 0 < len(some) < len(masks.anatomy.linears)
    index = {name: place for place, name in enumerate(prices.components)}
    assert joint_kl(prices, [index[name] for name in some.components]) <= 0.3 * whole
    cost = prices.values["kl"][0] / [masks.anatomy.linears[name].flops for name in prices.components]
    order = [cost[index[name]] for name in some.components]
    assert order == sorted(order)
    left = [place for name, place in index.items() if name not in some.components]
    assert all(joint_kl(prices, [*map(index.get, some.components), each]) > 0.3 * whole for each in left)


def test_moves_that_agree_cost_more_than_their_sum_and_moves_that_cancel_less():
    masks, examples = tiny()
    _, prices = plan_of(masks, examples, Int8Dynamic())
    column = prices.moves[:, :1]
    kl = {name: values.copy() for name, values in prices.values.items()}
    kl["kl"][:, 1] = kl["kl"][:, 0]
    same, opposite = (
        dataclasses.replace(prices, values=kl, moves=np.concatenate([column, sign * column, prices.moves[:, 2:]], 1))
        for sign in (1, -1)
    )
    alone = joint_kl(same, [0])
    assert joint_kl(same, [0, 1]) == pytest.approx(4 * alone) and joint_kl(opposite, [0, 1]) == pytest.approx(0)
    unknown = dataclasses.replace(same, moves=None)
    assert joint_kl(unknown, [0, 1]) == pytest.approx(2 * alone) and joint_kl(same, []) == 0


def test_limits_on_what_stays_go_before_the_loss():
    masks, examples = tiny()
    linears = masks.anatomy.linears
    flops = sum(each.flops for each in linears.values())
    for strategy, size, room in (
        (MixedPrecision(loss=0.0, float_kept=0.3), lambda each: each.flops, 0.3 * flops),
        (MixedPrecision(float_kept=0.3), lambda each: each.flops, 0.3 * flops),
        (MixedPrecision(loss=0.0, float_bytes=9000), lambda each: 4 * each.inputs * each.outputs, 9000),
    ):
        plan, prices = plan_of(masks, examples, strategy)
        kept = [linears[name] for name in linears if name not in plan.components]
        assert kept and sum(map(size, kept)) <= room
    cost = prices.values["kl"][0] / [linears[name].flops for name in prices.components]
    assert max(cost) in [cost[prices.components.index(each.name)] for each in kept]


def test_what_is_too_costly_in_4_bits_takes_8():
    masks, examples = tiny()
    plan, prices = plan_of(masks, examples, MixedPrecision(to={"weight_only": {"block": 16}}, float_kept=0.4))
    assert set(plan.quantized) == set(masks.anatomy.linears)
    assert set(plan.quantized.values()) == {"int4-g16", "int8-g16"}
    cost = {
        (name, edit): kl for name, edit, kl in zip(prices.components, prices.edits, prices.values["kl"][0], strict=True)
    }
    worst = max(masks.anatomy.linears, key=lambda name: cost[name, "int4-g16"] / masks.anatomy.linears[name].flops)
    assert plan.quantized[worst] == "int8-g16" and cost[worst, "int8-g16"] < cost[worst, "int4-g16"]


# Whole runs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    _, subject, splits = loaded_small_job(tmp_path_factory.mktemp("inputs"))
    return subject, splits


GATES = [Gate(metric="nll", max_rise=0.05, rule="point")]


def run(subject, splits, out, strategies, gates=GATES, **options):
    return compress(
        subject, splits, strategies=strategies, evaluators=[Quality()], gates=gates, compensation=None,
        reinstatement=Reinstatement(step=0.2, trims=1), audit=AuditPlan(heads=0, neurons=0), out=out, **options,
    )  # fmt: skip


RUNS = [
    "static, smooth",
    *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("hqq", "gptq", "bfloat16", "mixed, 4 and 8 bits")),
]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_ends_with_the_file_that_was_simulated(name, inputs, tmp_path):
    strategies = [Heads(share=0.25), Neurons(share=0.3, rounds=1), STRATEGY[name]]
    done = run(*inputs, tmp_path / "out", strategies)
    assert done.passed and done.summary["judged_split"] == "test"
    facts = done.summary["deployed"]
    assert facts["beside_masked"]["agreement"] > 0.98
    assert facts["bytes"] < facts["original_bytes"] and "float32" not in facts["linears"]
    runner = OnnxRunner(path=done.folder / facts["file"])
    judged = Pairs.load(done.folder / "predictions" / "artifact-test.parquet").compressed
    np.testing.assert_allclose(judged, run_examples(runner, inputs[1].test, 32), atol=1e-5)
    again = run(*inputs, tmp_path / "out", strategies, resume=True)
    assert again.ledger.head == done.ledger.head and again.summary == done.summary


@pytest.mark.exhaustive
def test_a_linear_that_static_ranges_ruin_comes_back_in_float(inputs, tmp_path):
    subject, splits = inputs
    model = tiny_copy_with_outliers(subject.model)
    changed = dataclasses.replace(subject, model=model)
    gates = [Gate(metric="nll", max_rise=0.02, rule="point")]
    done = run(changed, splits, tmp_path / "out", [Int8Static()], gates)
    assert {row["state"] for row in done.summary["first_verdicts"]} == {"fail"}
    assert done.passed
    returned = restored(done)
    assert returned[0].component.endswith("attention.output") and returned[0].into == "int8-static"
    assert done.summary["deployed"]["linears"]["float32"] >= 1
    assert done.summary["deployed"]["beside_masked"]["agreement"] > 0.98
    table = pd.read_parquet(done.folder / "tables" / "linears.parquet").set_index("component")
    assert table.loc[returned[0].component, "scheme"] == "float32"
    smoothed = run(changed, splits, tmp_path / "smooth", [Int8Static(smooth=0.5)], gates)
    assert {row["state"] for row in smoothed.summary["first_verdicts"]} == {"pass"}
    written = onnx.load(tmp_path / "smooth" / "artifact" / "model.onnx")
    assert sum(node.op_type == "Mul" and node.name.endswith(".narrowed") for node in written.graph.node) == 12
    mixed = run(changed, splits, tmp_path / "mixed", [MixedPrecision(to="int8_static", loss=0.005)], gates)
    assert mixed.passed and mixed.summary["deployed"]["linears"]["float32"] >= 1
    assert len(restored(mixed)) <= len(returned)


def restored(done):
    return [edit for each in applied_plans(done.ledger) for edit in each.plan.edits if edit.action == "restore"]


def tiny_copy_with_outliers(model):
    """The same function: one value channel a head is large, and its consumer's column small."""
    import copy

    changed = copy.deepcopy(model)
    for layer in changed.bert.encoder.layer:
        value, output = layer.attention.self.value, layer.attention.output.dense
        with torch.no_grad():
            value.weight[5::8] *= 3000
            value.bias[5::8] *= 3000
            output.weight[:, 5::8] /= 3000
    return changed


# Bad input


@pytest.mark.parametrize(
    ("name", "options", "culprit", "remedy"),
    [
        ("int8_static", {"calibration": "max"}, "calibration", "minmax, percentile, entropy"),
        ("int8_static", {"percentile": 0}, "percentile", "99.999"),
        ("int8_static", {"smooth": 1.5}, "smooth", "leave it out"),
        ("int8_static", {"embeddings": 16}, "embeddings", "32, 8 or 4"),
        ("weight_only", {"bits": 3}, "bits", "4, 8"),
        ("weight_only", {"block": 20}, "block", "16, 32, 64, 128, 256"),
        ("weight_only", {"method": "awq"}, "method", "rtn, hqq, gptq"),
        ("weight_only", {"method": "hqq", "bits": 8}, "method", "use rtn"),
        ("weight_only", {"float_kept": 1}, "float_kept", "try 0.1"),
        ("half", {"format": "fp16"}, "format", "float16, bfloat16"),
        ("mixed_precision", {}, "loss", "float_kept or float_bytes"),
        ("mixed_precision", {"loss": -1}, "loss", "0.01"),
        ("mixed_precision", {"loss": 0.01, "float_kept": 1.5}, "float_kept", "0.01"),
        ("mixed_precision", {"float_bytes": -5}, "float_bytes", "1000000"),
        ("mixed_precision", {"loss": 0.01, "to": {"heads": {"share": 0.5}}}, "to", "int8_dynamic"),
        ("mixed_precision", {"loss": 0.01, "to": "mixed_precision"}, "to", "int8_dynamic"),
        ("mixed_precision", {"loss": 0.01, "to": {"half": {}, "heads": {}}}, "to", "int8_static"),
        ("mixed_precision", {"loss": 0.01, "to": {"int8_dynamic": {"float_kept": 0.2}}}, "to", "give float_kept"),
    ],
)  # fmt: skip
def test_bad_options_are_refused_by_name(name, options, culprit, remedy):
    with pytest.raises(InputError, match=rf"strategies: {name}\.{culprit}: .*Remedy: .*{remedy}"):
        STRATEGIES.build(name, options)


def test_a_strategy_to_start_from_must_exist_and_take_its_options():
    with pytest.raises(InputError, match="int8_dynamc.*did you mean 'int8_dynamic'"):
        MixedPrecision(to="int8_dynamc", loss=0.01)
    with pytest.raises(InputError, match="speed.*no such option"):
        MixedPrecision(to={"int8_dynamic": {"speed": 2}}, loss=0.01)


@pytest.mark.parametrize("name", STRATEGY)
def test_every_way_to_quantize_says_so(name):
    strategy = STRATEGY[name]
    assert isinstance(strategy, Quantizing)
    assert all(speedup > 1 for speedup in strategy.weight_edits.values())
    assert (ranges_of(strategy) is not None) == ("static" in name or name == "gptq")
