"""Factored linears: nearest in what they give, simulated as they are made, counted as torch counts, and all that comes before and after."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compress_explain import Gate, Reinstatement, compress
from compress_explain.choosing.activations import Ranges, find_activations
from compress_explain.choosing.meters import Bytes, Flops, Parameters, Storage, taken
from compress_explain.choosing.spectra import find_spectra, menu_now
from compress_explain.choosing.target import Target
from compress_explain.comparison.predictions import predict
from compress_explain.compensation import Compensation, Compensator
from compress_explain.deployment.deploy import deploy
from compress_explain.deployment.int8 import Int8Dynamic as Int8DynamicScheme
from compress_explain.deployment.runtime import OnnxRunner, run_examples
from compress_explain.deployment.static import Int8Static as Int8StaticScheme
from compress_explain.editing.dense import dense_twin
from compress_explain.editing.masks import Masks
from compress_explain.editing.refits import load_factors, save_factors
from compress_explain.editing.surgery import expected_parameters, materialize
from compress_explain.errors import EditError, InputError, LedgerError
from compress_explain.evaluators import Quality
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.factored import FactoredLinear
from compress_explain.plugins.strategy import Situation, check_order
from compress_explain.pricing import MOVES, AuditPlan, price
from compress_explain.pricing.exact import masked
from compress_explain.progress import Progress
from compress_explain.record.checkpoint import MANIFEST, load_compressed, save_compressed
from compress_explain.record.replay import applied_plans, replay
from compress_explain.running.job import Job
from compress_explain.strategies import Distill, Heads, Int8Dynamic, Int8Static, LowRank, Neurons, Structured
from compress_explain.terminal.rehearsal import rehearse
from compress_explain.weight_edits import Factors, weight_edit, weights_saved
from compress_explain.weight_edits.low_rank import LowRank as LowRankEdit
from compress_explain.weight_edits.spectrum import spectrum_of
from tests.small_job import loaded_small_job
from tests.states import language_examples
from tests.tiny import (
    CLASSIFIERS,
    EXPORTED,
    flagged,
    logits_of,
    tiny_examples,
    tiny_inputs,
    tiny_model,
    tiny_tokens,
    uneven_removal,
)

FILES = [
    pytest.param(family, marks=() if family in ("bert", "gpt2") else pytest.mark.exhaustive) for family in EXPORTED
]
SHARES = (0.1, 0.2, 0.3, 0.45, 0.6)


def tiny(family="bert", *, remove=True, attention=None):
    labels = 3 if family == "bart" else 2  # its configuration forgets that there are two
    model, examples = tiny_model(family, labels=labels, attention=attention), tiny_examples(family, labels=labels)
    masks = Masks(model, read_anatomy(model, tiny_tokens(family)))
    if remove:
        masks.remove(flagged(masks.anatomy, uneven_removal(masks.anatomy)))
    return masks, examples


def left(masks):
    """The share of the layer FLOPs that the model of now takes."""
    return 1 - masks.saved[1] / masks.anatomy.flops


def plan_of(masks, examples, strategy):
    with masked(masks):
        menu = menu_now(masks, strategy)
        masks.spectra = find_spectra(masks, examples, menu, batch_size=16)
        prices = price(masks, examples, menu=menu, batch_size=16, moves=MOVES)
    situation = Situation(
        anatomy=masks.anatomy, prices=prices, removed=masks.removed, round=0, quantized=masks.quantized,
        ranks=masks.ranks, spectra=masks.spectra,
    )  # fmt: skip
    return strategy.plan(situation)


def factor(masks, examples, less=0.12):
    """Let the strategy take a further share of the FLOPs away."""
    plan = plan_of(masks, examples, LowRank(flops_kept=left(masks) - less, ranks=SHARES))
    masks.factorize({edit.component: masks.factors_of(edit.component, edit.into) for edit in plan})
    return plan


def cut(masks):
    standing = masks.standing
    with masks.untouched():
        return materialize(masks.model, masks.anatomy, masks.removed, standing)


# The nearest weight of a rank


def drawn(outputs=7, inputs=10, tokens=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    mixing = torch.randn(inputs, inputs, generator=generator) * torch.logspace(1, -1, inputs)
    return weight, torch.randn(tokens, inputs, generator=generator) @ mixing + torch.randn(inputs, generator=generator)


def taken_apart(weight, x, *, bias, rows=None, columns=None):
    mean = x.double().mean(0) if bias else None
    centred = x.double() if mean is None else x.double() - mean
    every = [torch.arange(size) for size in weight.shape]
    return spectrum_of(
        weight, centred.T @ centred / len(x), mean, rows=every[0] if rows is None else rows,
        columns=every[1] if columns is None else columns, most=min(weight.shape),
    )  # fmt: skip


def missing(x, weight, bias, factors):
    return float((torch.nn.functional.linear(x, weight, bias) - factors.apply(x)).square().sum(1).mean())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_what_a_rank_misses_is_the_energy_that_it_leaves_out_and_no_other_weight_misses_less(rank, bias):
    weight, x = drawn()
    own = torch.randn(7) if bias else None
    spectrum = taken_apart(weight, x, bias=bias)
    factors = spectrum.factors(rank, weight, own)
    error = missing(x, weight, own, factors)
    assert error == pytest.approx(float(spectrum.energies[rank:].sum()), rel=2e-2)
    assert spectrum.kept(rank) == pytest.approx(1 - error / float(spectrum.energies.sum()), abs=2e-3)
    plain = LowRankEdit(rank=rank).linears(weight, own)
    assert error < 0.9 * missing(x, weight, own, plain)
    for seed in range(20):
        torch.manual_seed(seed)
        near = Factors(
            factors.left + 0.01 * torch.randn_like(factors.left), factors.right + 0.01 * torch.randn_like(factors.right),
            factors.bias,
        )  # fmt: skip
        assert missing(x, weight, own, near) > error


def test_a_bias_takes_up_what_is_missing_on_average():
    weight, x = drawn()
    own = torch.randn(7)
    factors = taken_apart(weight, x, bias=True).factors(2, weight, own)
    difference = torch.nn.functional.linear(x, weight, own) - factors.apply(x)
    assert difference.mean(0).abs().max() < 1e-3 * difference.abs().max()
    kept = Factors(factors.left, factors.right, own)
    assert missing(x, weight, own, factors) < missing(x, weight, own, kept)


def test_the_full_rank_is_the_weight_and_what_is_gone_is_seen_through_what_is_left():
    weight, x = drawn()
    rows, columns = torch.tensor([0, 2, 3, 5, 6]), torch.tensor([0, 1, 4, 5, 6, 8, 9])
    x[:, [2, 3, 7]] = 0
    spectrum = taken_apart(weight, x, bias=False, rows=rows, columns=columns)
    whole = spectrum.factors(5, weight, None).weight
    torch.testing.assert_close(whole[rows][:, columns], weight[rows][:, columns], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole[rows], weight[rows], atol=1e-3, rtol=1e-3)  # all outputs' directions are there
    gone = torch.tensor([1, 4])
    near, nothing = ((weight[gone] - each) @ x.T for each in (whole[gone], torch.zeros(2, 10)))
    assert near.square().sum() < 0.9 * nothing.square().sum()


def test_a_linear_that_never_ran_is_factored_like_its_weight():
    weight, _ = drawn()
    spectrum = taken_apart(weight, torch.zeros(3, 10), bias=False)
    ours, plain = spectrum.factors(3, weight, None), LowRankEdit(rank=3).linears(weight, None)
    torch.testing.assert_close(ours.weight, plain.weight, atol=1e-4, rtol=1e-4)


# What is on offer, and what is chosen


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_only_ranks_that_save_are_offered_for_what_is_left_of_each_linear(family):
    masks, _ = tiny(family)
    menu = menu_now(masks, LowRank(flops_kept=0.5, ranks=(0.05, 0.3, 0.5, 0.7, 0.9, 1.0)))
    assert {linear.name for linear in menu.linears} == set(menu.own_edits)
    for linear in menu.linears:
        assert (linear.outputs, linear.inputs) == masks.anatomy.shape_left(linear.name, masks.removed)
        ranks = [edit.rank for edit in menu.own_edits[linear.name]]
        assert ranks == sorted(set(ranks))
        assert all(rank * (linear.outputs + linear.inputs) < linear.outputs * linear.inputs for rank in ranks)
    parameters, flops, size = menu.savings(masks.removed)
    assert (parameters > 0).all() and (flops > 0).all() and (size == 4 * parameters).all()


@pytest.mark.parametrize("kept", [0.95, 0.85, 0.7])
@pytest.mark.parametrize("budget", ["flops_kept", "parameters_kept", "bytes_kept"])
def test_the_budget_is_met_and_hardly_more(budget, kept):
    masks, examples = tiny("bert", remove=False)
    anatomy = masks.anatomy
    meter = {
        "flops_kept": Flops(anatomy),
        "parameters_kept": Parameters(anatomy),
        "bytes_kept": Bytes(anatomy, Storage()),
    }[budget]
    wanted = meter.original - (1 - kept) * 0.4 * (meter.original - meter.rest({}))
    strategy = LowRank(**{budget: wanted / meter.original}, ranks=SHARES)
    plan = plan_of(masks, examples, strategy)
    ranks = {edit.component: weight_edit(edit.into).rank for edit in plan}
    now = type(meter)(
        **{**{"anatomy": anatomy, "ranks": ranks}, **({"storage": Storage()} if budget == "bytes_kept" else {})}
    )
    takes = taken(now, masks.removed, anatomy)
    assert takes <= wanted + 0.5
    largest = max(meter.thinner(linear, 1) for linear in anatomy.linears.values())
    assert takes > wanted - largest
    for edit in plan:
        assert edit.action == "factorize" and edit.kind == "linear" and edit.flops_saved > 0 and "rank" in edit.reason


def test_the_choice_is_missed_less_than_chance_would_have_it():
    masks, examples = tiny("bert", remove=False)
    strategy = LowRank(flops_kept=0.8, ranks=SHARES)
    plan = plan_of(masks, examples, strategy)
    prices = price(masks, examples, menu=menu_now(masks, strategy), batch_size=16)
    original = predict(masks.model, examples, 16)

    def kl(ranks):
        masks.factorize({name: masks.factors_of(name, into) for name, into in ranks.items()})
        ours, theirs = (
            torch.from_numpy(each).double().log_softmax(-1) for each in (predict(masks.model, examples, 16), original)
        )
        masks.restore(ranks)
        return float((theirs.exp() * (theirs - ours)).sum(1).mean())

    saved = sum(edit.flops_saved for edit in plan)
    random, chances = np.random.default_rng(0), []
    for _ in range(12):
        ranks, total = {}, 0
        for column in random.permutation(len(prices)):
            name = prices.components[column]
            if name not in ranks and total < saved:
                ranks[name], total = prices.edits[column], total + prices.flops[column]
        chances.append(kl(ranks))
    assert kl({edit.component: edit.into for edit in plan}) < np.median(chances)
    assert np.array_equal(predict(masks.model, examples, 16), original)


def test_a_budget_that_no_rank_reaches_is_refused_before_anything_is_factored():
    masks, examples = tiny()
    with pytest.raises(InputError, match="out of reach: .* stay when every linear has the smallest rank on offer"):
        plan_of(masks, examples, LowRank(flops_kept=0.05))
    assert not masks.factors


def test_nothing_is_left_to_factor():
    masks, examples = tiny()
    strategy = LowRank(flops_kept=0.4, ranks=SHARES)
    every = plan_of(masks, examples, LowRank(flops_kept=left(masks) - 0.01, ranks=SHARES))
    assert plan_of(masks, examples, LowRank(flops_kept=1.0, ranks=SHARES)) == ()
    names = [linear.name for linear in menu_now(masks, strategy).linears]
    masks.factorize({name: masks.factors_of(name, "rank1") for name in names})
    assert every and set(names) >= {edit.component for edit in every}
    with pytest.raises(InputError, match="there is no linear that two of these ranks are smaller than"):
        menu_now(masks, strategy)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "exactly one target is needed"),
        ({"flops_kept": 0.5, "bytes_kept": 0.5}, "exactly one target is needed"),
        ({"flops_kept": 0.0}, "lies outside"),
        ({"parameters_kept": 1.5}, "lies outside"),
        ({"flops_kept": 0.5, "ranks": []}, "not shares of the full rank"),
        ({"flops_kept": 0.5, "ranks": [0.5, 1.5]}, "not shares of the full rank"),
        ({"flops_kept": 0.5, "ranks": [True]}, "not shares of the full rank"),
        ({"flops_kept": 0.5, "ranks": ["half"]}, "not shares of the full rank"),
        ({"flops_kept": 0.5, "ranks": [0.5, 0.25]}, "not each larger"),
        ({"flops_kept": 0.5, "rows": 0}, "nothing would be priced"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        LowRank(**options)


def test_an_order_that_cannot_work_is_refused():
    check_order([Structured(flops_kept=0.5), LowRank(flops_kept=0.4), Int8Dynamic()], timed=False)
    check_order([LowRank(flops_kept=0.6), Heads(share=0.2), Int8Static()], timed=False)
    with pytest.raises(InputError, match="int8dynamic stands before lowrank"):
        check_order([Int8Dynamic(), LowRank(flops_kept=0.5)], timed=False)
    with pytest.raises(InputError, match="leave the target out"):
        check_order([LowRank(flops_kept=0.5), Structured()], timed=True)


# Simulated as it is made


STATES = [(family, True) for family in CLASSIFIERS] + [(family, False) for family in ("bert", "gpt2", "phi3", "t5")]


@pytest.mark.parametrize(("family", "remove"), STATES)
def test_the_masked_model_is_the_one_that_is_made_and_loaded_and_counted(family, remove, tmp_path):
    masks, examples = tiny(family, remove=remove)
    inputs = tiny_inputs(family)
    with masks:
        original = logits_of(masks.model, inputs)
        plan = factor(masks, examples)
        assert plan
        simulated = logits_of(masks.model, inputs)
        smaller, ranks = cut(masks), masks.ranks
        two = [module for module in smaller.modules() if isinstance(module, FactoredLinear)]
        assert len(two) == len(plan)
        torch.testing.assert_close(logits_of(smaller, inputs), simulated, atol=1e-5, rtol=1e-5)
        assert (simulated - original).abs().max() > 1e-4
        expected = expected_parameters(masks.model, masks.anatomy, masks.removed, ranks)
        standing = masks.standing
        with masks.untouched():
            twin = dense_twin(masks.model, masks.anatomy, masks.removed, standing)
        torch.testing.assert_close(logits_of(twin, inputs), simulated, atol=1e-5, rtol=1e-5)
        manifest = save_compressed(
            smaller, tmp_path, removed=masks.removed, base=masks.anatomy, provenance={}, ranks=ranks
        )
    assert manifest["parameters"] == expected == sum(parameter.numel() for parameter in smaller.parameters())
    loaded = load_compressed(tmp_path)
    ours, theirs = dict(smaller.named_parameters()), dict(loaded.named_parameters())
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(logits_of(loaded, inputs), logits_of(smaller, inputs))


@pytest.mark.parametrize("family", ["bert", "vit", "gpt2", "llama", "t5"])
def test_the_flops_that_are_saved_are_those_that_torch_no_longer_counts(family):
    masks, examples = tiny(family, attention="eager")
    factor(masks, examples)
    inputs = tiny_inputs(family, batch=1, padded=False)

    def count(subject):
        counter = FlopCounterMode(display=False)
        with counter, torch.inference_mode():
            subject(**inputs)
        return counter.get_total_flops()

    smaller = cut(masks)
    with masks.untouched():
        whole = count(masks.model)
    saved = masks.saved
    assert whole - count(smaller) == saved[1]
    meter = Flops(masks.anatomy, masks.ranks)
    assert taken(meter, masks.removed, masks.anatomy) == masks.anatomy.flops - saved[1]
    parameters = Parameters(masks.anatomy, masks.ranks)
    assert taken(parameters, masks.removed, masks.anatomy) == masks.anatomy.parameters - saved[0]
    for group in masks.anatomy.groups.values():
        if masks.removed[group.name].all():
            continue
        flags = masks.removed[group.name].clone()
        flags[int((~flags).nonzero()[0])] = True
        more = masks.anatomy.saved({**masks.removed, group.name: flags}, masks.ranks)
        assert more[1] - saved[1] <= masks.anatomy.costs(group.name, {})[1]
    assert masks.anatomy.costs(group.name, {}) == (group.parameters, group.flops)


def test_what_a_component_costs_in_factored_linears_is_what_its_removal_saves():
    masks, _ = tiny("bert", remove=False)
    masks.factorize({name: masks.factors_of(name, "rank6") for name in list(masks.anatomy.linears)[::2]})
    before = masks.saved
    for group in masks.anatomy.groups.values():
        flags = torch.zeros(group.count, dtype=torch.bool)
        flags[0] = True
        after = masks.anatomy.saved({**masks.removed, group.name: flags}, masks.ranks)
        assert tuple(np.subtract(after, before)) == masks.anatomy.costs(group.name, masks.ranks)


def test_two_linears_are_one_again_where_they_are_no_longer_smaller():
    masks, _ = tiny("bert", remove=False)
    attention, neurons = list(masks.anatomy.groups.values())[:2]
    names = {linear.module: name for name, linear in masks.anatomy.linears.items()}
    site = names[neurons.site]
    emptied = [names[producer.module] for producer in attention.producers] + [names[attention.site]]
    with masks:
        masks.factorize({name: masks.factors_of(name, "rank8") for name in [site, *emptied]})
        masks.remove([*neurons.components[:16], *attention.components])
        assert masks.anatomy.shape_left(site, masks.removed) == (32, 8) and not weights_saved(32, 8, 8)
        simulated = logits_of(masks.model, tiny_inputs("bert"))
        smaller = cut(masks)
        expected = expected_parameters(masks.model, masks.anatomy, masks.removed, masks.ranks)
    assert not any(isinstance(module, FactoredLinear) for module in smaller.modules())
    assert expected == sum(parameter.numel() for parameter in smaller.parameters())
    torch.testing.assert_close(logits_of(smaller, tiny_inputs("bert")), simulated, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_what_is_factored_comes_back_bit_for_bit_and_the_dense_twin_is_the_product(family):
    masks, examples = tiny(family)
    inputs = tiny_inputs(family)
    with masks:
        Compensator(masks, examples, Compensation(), batch_size=16).refit()
        before = logits_of(masks.model, inputs)
        factor(masks, examples)
        standing, simulated = masks.standing, logits_of(masks.model, inputs)
        with masks.untouched():
            twin = dense_twin(masks.model, masks.anatomy, masks.removed, standing)
        torch.testing.assert_close(logits_of(twin, inputs), simulated, atol=1e-5, rtol=1e-5)
        assert not any(isinstance(module, FactoredLinear) for module in twin.modules())
        with pytest.raises(EditError, match="factored already"):
            masks.factorize(masks.factors)
        masks.restore(list(masks.factors))
        assert torch.equal(logits_of(masks.model, inputs), before)
        with pytest.raises(EditError, match="not quantized, nor factored"):
            masks.restore([next(iter(masks.anatomy.linears))])


def test_outside_the_masks_the_model_is_the_original():
    masks, examples = tiny(remove=False)
    before = {name: values.clone() for name, values in masks.model.state_dict().items()}
    with masks:
        factor(masks, examples)
        assert any(not torch.equal(values, before[name]) for name, values in masks.model.state_dict().items())
        with masks.untouched():
            assert all(torch.equal(values, before[name]) for name, values in masks.model.state_dict().items())
    assert all(torch.equal(values, before[name]) for name, values in masks.model.state_dict().items())


def test_factors_are_written_and_read_bit_for_bit(tmp_path):
    masks, examples = tiny("gpt2")
    factor(masks, examples)
    by_module = {masks.anatomy.linears[name].module: each for name, each in masks.factors.items()}
    save_factors(by_module, tmp_path / "factors.safetensors")
    again = load_factors(tmp_path / "factors.safetensors")
    assert again.keys() == by_module.keys()
    for name, each in again.items():
        assert torch.equal(each.left, by_module[name].left) and torch.equal(each.right, by_module[name].right)
        assert each.bias is None if by_module[name].bias is None else torch.equal(each.bias, by_module[name].bias)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder.layer.0.attention.none": 3},
        {"encoder.layer.0.attention.query": 0},
        {"encoder.layer.0.attention.query": "8"},
    ],
)
def test_a_manifest_with_ranks_that_cannot_be_is_refused(change, tmp_path):
    masks, examples = tiny()
    factor(masks, examples)
    save_compressed(cut(masks), tmp_path, removed=masks.removed, base=masks.anatomy, provenance={}, ranks=masks.ranks)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["format"] == 2
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "ranks": change}))
    with pytest.raises(InputError, match="which cannot be"):
        load_compressed(tmp_path)


# Priced and compensated


@pytest.mark.parametrize("generates", [False, True])
def test_language_models_are_factored_too(generates):
    model = tiny_model("llama", labels=2, generates=generates)
    masks = Masks(model, read_anatomy(model, 9))
    examples = language_examples() if generates else tiny_examples("llama", labels=2)
    assert factor(masks, examples)
    assert left(masks) <= 0.88 + 1e-9


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "vit"])
def test_refitting_after_it_keeps_the_ranks_and_misses_less(family):
    masks, examples = tiny(family)
    with masks:
        original = predict_untouched(masks, examples)
        factor(masks, examples, less=0.05)
        ranks, rights = masks.ranks, {name: each.right for name, each in masks.factors.items()}
        before = np.square(predict(masks.model, examples, 16) - original).mean()
        repairs = Compensator(masks, examples, Compensation(perturbed=False), batch_size=16).refit()
        after = np.square(predict(masks.model, examples, 16) - original).mean()
        assert masks.ranks == ranks and all(torch.equal(masks.factors[name].right, rights[name]) for name in rights)
        assert after < before
        mine = [repair for repair in repairs if repair.linear in ranks and repair.role != "readout"]
        assert mine and all(repair.missing_after <= repair.missing_before + 1e-9 for repair in mine)
        torch.testing.assert_close(
            logits_of(cut(masks), tiny_inputs(family)),
            logits_of(masks.model, tiny_inputs(family)),
            atol=1e-4,
            rtol=1e-4,
        )


def predict_untouched(masks, examples):
    with masks.untouched():
        return predict(masks.model, examples, 16)


# Deployed


@pytest.mark.parametrize("family", FILES)
def test_the_onnx_file_computes_the_same(family, tmp_path):
    masks, examples = tiny(family)
    with masks:
        plan = factor(masks, examples)
        simulated, smaller = predict(masks.model, examples, 8), cut(masks)
    made = deploy(smaller, masks.anatomy, examples, tmp_path / "model.onnx")
    deployed = run_examples(OnnxRunner(path=made.path), examples, 8)
    assert np.abs(deployed - simulated).max() < 1e-4
    for edit in plan:
        assert {edit.component + ".first", edit.component + ".second"} <= made.linears.keys()
        assert edit.component not in made.linears


@pytest.mark.parametrize(
    ("edit", "scheme"), [("int8-dynamic", Int8DynamicScheme()), ("int8-static", Int8StaticScheme())]
)
def test_both_parts_are_quantized_as_it_was_simulated(edit, scheme, tmp_path):
    masks, examples = tiny("bert")
    with masks:
        factor(masks, examples)
        in_full = predict(masks.model, examples, 8)
        masks.activations = find_activations(masks, examples, Ranges())
        some = list(masks.anatomy.linears)[1:]
        masks.quantize(dict.fromkeys(some, edit))
        simulated = predict(masks.model, examples, 8)
        smaller, found, factored = cut(masks), masks.activations_left(), list(masks.factors)
    made = deploy(
        smaller,
        masks.anatomy,
        examples,
        tmp_path / "model.onnx",
        scheme=scheme,
        quantized=dict.fromkeys(some, edit),
        found=found,
    )
    deployed = run_examples(OnnxRunner(path=made.path), examples, 8)
    assert np.abs(in_full - simulated).mean() > 1e-4
    assert np.abs(deployed - simulated).mean() < 0.2 * np.abs(in_full - simulated).mean()
    table = made.to_frame().set_index("component")
    parts = [name + end for name in some if name in factored for end in (".first", ".second")]
    assert parts and (table.loc[parts, "bits"] == 8).all()


def test_a_quantized_factored_linear_is_put_back_in_two_steps():
    masks, examples = tiny("bert", remove=False)
    with masks:
        [name] = [edit.component for edit in factor(masks, examples, less=0.01)][:1]
        factored = predict(masks.model, examples, 8)
        masks.quantize({name: "int8"})
        assert not np.array_equal(predict(masks.model, examples, 8), factored)
        masks.restore([name])
        assert np.array_equal(predict(masks.model, examples, 8), factored) and name in masks.factors
        masks.restore([name])
        assert name not in masks.factors


# Whole runs

GATES = [Gate(metric="nll", max_rise=0.3, rule="point")]
PRUNED_FACTORED_QUANTIZED = [Structured(flops_kept=0.8, rows=64), LowRank(flops_kept=0.6, rows=64), Int8Dynamic()]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    _, subject, splits = loaded_small_job(tmp_path_factory.mktemp("inputs"))
    return subject, splits


def run(inputs, out, strategies, gates=None, **options):
    settings = {
        "audit": AuditPlan(heads=0, neurons=0, rows=64),
        "reinstatement": Reinstatement(step=0.2, trims=2),
        **options,
    }
    return compress(
        *inputs, strategies=strategies, evaluators=[Quality()], gates=gates or GATES, out=out, **settings
    )  # fmt: skip


def noisy(inputs):
    """The same job with layers to which every direction matters; what was learned needs hardly one."""
    subject, splits = inputs
    model, generator = copy.deepcopy(subject.model), torch.Generator().manual_seed(0)
    for module in model.bert.encoder.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data += 0.3 * torch.randn(module.weight.shape, generator=generator)
    return dataclasses.replace(subject, model=model), splits


def same_weights(ours, theirs):
    one, other = ours.state_dict(), theirs.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    return run(
        inputs, tmp_path_factory.mktemp("run") / "out", PRUNED_FACTORED_QUANTIZED, artifacts=["checkpoint", "dense"]
    )


def test_pruned_then_factored_then_quantized_runs_and_replays(finished, inputs):
    assert finished.passed
    loaded = finished.load_model()
    two = [name for name, module in loaded.named_modules() if isinstance(module, FactoredLinear)]
    assert two
    assert same_weights(replay(inputs[0].model, finished.folder), loaded)
    flops = finished.summary["flops"]
    assert flops["compressed"] <= 0.6 * flops["original"]
    assert finished.summary["parameters"]["compressed"] == sum(each.numel() for each in loaded.parameters())
    stored = finished.summary["deployed"]["linears"]
    assert stored["int8-dynamic"] == 12 + len(two)
    assert finished.summary["deployed"]["beside_masked"]["agreement"] > 0.98


def test_every_factored_linear_is_a_row_with_what_was_expected_and_observed(finished):
    record = next(iter(finished.ledger.of_kind("factored")))
    table = pd.read_parquet(finished.folder / "tables" / f"factors-{record.step}.parquet").set_index("component")
    assert table["rank"].to_dict() == record.body["ranks"]
    assert ((table["energy_kept"] > 0) & (table["energy_kept"] <= 1)).all()
    assert np.isfinite(table[["expected_loss_change", "observed_loss_change"]]).all().all() and (table["n"] == 64).all()
    assert all(weights_saved(*shape, rank) for *shape, rank in table[["outputs", "inputs", "rank"]].to_numpy().tolist())
    [plan] = [applied.plan for applied in applied_plans(finished.ledger) if applied.plan.step == record.step]
    assert finished.ledger.find("refitted", record.step) and finished.ledger.find("compensated", record.step)
    assert plan.verb == "factored" and set(plan.components) == set(table.index)
    observed = finished.ledger.find("observed", record.step)
    assert observed is not None and observed.body["observed"]["kl"] > 0
    assert "factored" in (finished.folder / "report.html").read_text()


def test_a_finished_run_is_resumed_without_doing_anything_again(finished, inputs):
    before = finished.ledger.head
    again = run(inputs, finished.folder, PRUNED_FACTORED_QUANTIZED, artifacts=["checkpoint", "dense"], resume=True)
    assert again.ledger.head == before and again.summary == finished.summary


@pytest.mark.exhaustive
def test_a_run_that_was_stopped_goes_on_with_the_same_weights(finished, inputs, tmp_path):
    """Cut off before or after linears were factored, it ends in the same artifact."""
    lines = (finished.folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    position = [record.kind for record in finished.ledger].index("factored")
    for stop in (position - 1, position):
        folder = tmp_path / f"stopped-{stop}"
        shutil.copytree(finished.folder, folder)
        shutil.rmtree(folder / "artifact", ignore_errors=True)
        (folder / "ledger.jsonl").write_text("".join(lines[: stop + 1]))
        again = run(inputs, folder, PRUNED_FACTORED_QUANTIZED, artifacts=["checkpoint", "dense"], resume=True)
        weights = [(each.folder / "artifact" / "model.safetensors").read_bytes() for each in (finished, again)]
        assert weights[0] == weights[1]


def test_a_rehearsal_proposes_the_same_and_leaves_the_model_as_it_was(inputs):
    subject, splits = inputs
    before = {name: values.clone() for name, values in subject.model.state_dict().items()}
    job = Job(subject=subject, splits=splits, strategies=[Heads(share=0.25), LowRank(flops_kept=0.6, rows=64)],
              evaluators=[Quality()], gates=GATES)  # fmt: skip
    edits = rehearse(job, Progress(quiet=True))
    assert {edit.action for edit in edits} == {"remove", "factorize"}
    assert all(torch.equal(values, before[name]) for name, values in subject.model.state_dict().items())


def test_a_changed_factor_is_noticed(finished, tmp_path):
    copied = shutil.copytree(finished.folder, tmp_path / "copy")
    [path] = (copied / "tensors").glob("factors-*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(LedgerError, match="differs from what record"):
        replay(tiny_model("bert"), copied)


@pytest.mark.parametrize(
    ("before", "compensation", "flips"), [((), None, 0.15), ((Heads(share=0.25),), Compensation(), 0.15)]
)
def test_what_a_gate_needs_comes_back_in_one_and_the_rest_replays(before, compensation, flips, inputs, tmp_path):
    gates = [Gate(metric="negative_flips", max=flips, rule="point")]
    strategies = [*before, LowRank(flops_kept=0.5, ranks=(0.1, 0.3), rows=64)]
    job = noisy(inputs)
    done = run(job, tmp_path / "out", strategies, gates, compensation=compensation,
               reinstatement=Reinstatement(step=0.3, max_share=1.0, trims=3))  # fmt: skip
    plans = [applied.plan for applied in applied_plans(done.ledger) if not applied.reverted]
    back = [edit for plan in plans if plan.edits[0].action == "restore" for edit in plan.edits if edit.into]
    assert back and all(edit.into.startswith("rank") and edit.flops_saved < 0 for edit in back)
    loaded = done.load_model()
    left = {edit.component for plan in plans for edit in plan.edits if edit.action == "factorize"}
    assert sum(isinstance(module, FactoredLinear) for module in loaded.modules()) < len(left)
    assert same_weights(replay(job[0].model, done.folder), loaded)
    assert done.summary["parameters"]["compressed"] == sum(each.numel() for each in loaded.parameters())
    facts = json.loads((done.folder / "run.json").read_text())
    assert facts["flops"]["compressed"] == done.summary["flops"]["compressed"] < facts["flops"]["original"]


def test_it_is_pruned_after_it_and_replays(inputs, tmp_path):
    strategies = [LowRank(flops_kept=0.8, rows=64), Neurons(flops_kept=0.6, rounds=2), Heads(share=0.25)]
    done = run(inputs, tmp_path / "out", strategies)
    loaded = done.load_model()
    assert done.passed and any(isinstance(module, FactoredLinear) for module in loaded.modules())
    assert same_weights(replay(inputs[0].model, done.folder), loaded)
    assert done.summary["parameters"]["compressed"] == sum(each.numel() for each in loaded.parameters())


def test_what_is_factored_is_tuned_and_replays(inputs, tmp_path):
    strategies = [Heads(share=0.25), LowRank(flops_kept=0.6, rows=64), Distill(epochs=2)]
    job, gates = noisy(inputs), [Gate(metric="nll", max_rise=10.0, rule="point")]
    done = run(job, tmp_path / "out", strategies, gates)
    loaded = done.load_model()
    assert any(isinstance(module, FactoredLinear) for module in loaded.modules())
    assert same_weights(replay(job[0].model, done.folder), loaded)
    tuned = done.ledger.of_kind("tuned")[0].body
    assert tuned["kl_after"] < tuned["kl_before"]


def test_a_target_is_refused_with_it(inputs, tmp_path):
    with pytest.raises(InputError, match="leave the target out"):
        run(inputs, tmp_path / "out", [LowRank(flops_kept=0.6)], target=Target(speedup=1.2))
