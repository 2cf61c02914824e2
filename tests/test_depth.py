"""Whole sublayers and layers: masked, cut out, saved, priced, chosen, put back."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
import torch

from compress_explain.choosing.ranking_units import Extent
from compress_explain.comparison.predictions import predict
from compress_explain.compensation import Compensation, Compensator
from compress_explain.editing.masks import Masks
from compress_explain.editing.surgery import expected_parameters, materialize
from compress_explain.errors import EditError, InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.depth import shortened
from compress_explain.plugins.strategy import Situation, menu_of
from compress_explain.pricing import expected_joint, price
from compress_explain.pricing.exact import Trials, exact_sums
from compress_explain.pricing.menu import Candidate, menu_of_kinds
from compress_explain.record.checkpoint import load_compressed, save_compressed
from compress_explain.strategies import Heads, Layers, Sublayers
from tests.tiny import (
    CLASSIFIERS,
    FAMILIES,
    GENERATORS,
    flagged,
    logits_of,
    tiny_examples,
    tiny_inputs,
    tiny_model,
    tiny_tokens,
    uneven_removal,
)

KINDS = ("sublayer", "layer")
STRATEGIES = {"sublayer": Sublayers, "layer": Layers}


def tiny(family="bert", **options):
    model = tiny_model(family, **options)
    return Masks(model, read_anatomy(model, tiny_tokens(family)))


def some(anatomy, kind):
    """A layer that may go, or the first and the last sublayer."""
    if kind == "layer":
        return [next(name for name, layer in anatomy.layers.items() if not layer.stays)]
    return [next(iter(anatomy.sublayers)), list(anatomy.sublayers)[-1]]


def kept(removed):
    return {name: flags.clone() for name, flags in removed.items()}


def plan_of(masks, strategy, examples, number=0):
    prices = price(masks, examples, menu=menu_of(masks.anatomy, strategy), batch_size=12)
    situation = Situation(anatomy=masks.anatomy, prices=prices, removed=masks.removed, round=number)
    return strategy.plan(situation)


# Every family


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_masked_is_what_is_cut_out_and_saved_and_all_of_it_comes_back(family, kind, tmp_path):
    masks, inputs = tiny(family), tiny_inputs(family)
    model, anatomy = masks.model, masks.anatomy
    units, others = some(anatomy, kind), flagged(anatomy, uneven_removal(anatomy))
    original = logits_of(model, inputs)
    with masks:
        masks.remove(others)
        without = logits_of(model, inputs)
        masks.remove(units)
        masked, removed = logits_of(model, inputs), kept(masks.removed)
        with masks.untouched():
            assert torch.equal(logits_of(model, inputs), original)
        assert torch.equal(logits_of(model, inputs), masked)
        masks.restore(units)
        assert torch.equal(logits_of(model, inputs), without)
        masks.restore(others)
        assert torch.equal(logits_of(model, inputs), original)
    assert not torch.equal(masked, without), "the units must matter for this to mean anything"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    smaller = materialize(model, anatomy, removed)
    assert float((logits_of(smaller, inputs) - masked).abs().max()) < 1e-5
    assert sum(each.numel() for each in smaller.parameters()) == expected_parameters(model, anatomy, removed)
    save_compressed(smaller, tmp_path, removed=removed, base=anatomy, provenance={})
    loaded = load_compressed(tmp_path)
    assert torch.equal(logits_of(loaded, inputs), logits_of(smaller, inputs))
    again, said = (each.config.to_dict() | {"_name_or_path": None} for each in (loaded, smaller))
    assert again == said
    paths = shortened(anatomy, removed).layers
    assert len(paths) == len(anatomy.layers) - (kind == "layer")
    assert all(isinstance(loaded.get_submodule(each.module), torch.nn.Module) for each in paths.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", GENERATORS)
def test_generation_with_a_cache_goes_on_without_them(family, kind, tmp_path):
    masks = tiny(family, generates=True)
    model, prompt = masks.model, tiny_inputs(family, batch=3, padded=False)
    units = some(masks.anatomy, kind)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 1}
    with masks:
        masks.remove(units)
        masked, removed = model.generate(**prompt, **options), kept(masks.removed)
    smaller = materialize(model, masks.anatomy, removed)
    cached = smaller.generate(**prompt, **options, use_cache=True)
    assert torch.equal(cached, masked)
    assert torch.equal(cached, smaller.generate(**prompt, **options, use_cache=False))
    save_compressed(smaller, tmp_path, removed=removed, base=masks.anatomy, provenance={})
    assert torch.equal(load_compressed(tmp_path).generate(**prompt, **options), cached)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", CLASSIFIERS)
def test_the_cheapest_goes_at_the_price_that_its_absence_is_seen_to_have(family, kind):
    """By hand: the KL of the cheapest per FLOP, from logits with it masked, is least among all that may go."""
    masks, examples = tiny(family), tiny_examples(family, rows=12)
    anatomy = masks.anatomy
    [edit] = plan_of(masks, STRATEGIES[kind](count=1), examples)
    before = torch.from_numpy(predict(masks.model, examples, 12)).log_softmax(1)
    costs = {}
    for name, unit in anatomy.units.items():
        if unit.kind == kind and not getattr(unit, "stays", False):
            with masks:
                masks.remove([name])
                after = torch.from_numpy(predict(masks.model, examples, 12)).log_softmax(1)
                masks.restore([name])
            costs[name] = float((before.exp() * (before - after)).sum(1).mean()) / unit.flops
    stacks = Counter(name.split(".")[0] for name in anatomy.units if anatomy.units[name].kind == kind)
    allowed = {name: cost for name, cost in costs.items() if stacks[name.split(".")[0]] > 1}
    assert edit.component == min(allowed, key=allowed.get)
    assert edit.kind == kind and "cheapest of" in edit.reason
    unit = anatomy.units[edit.component]
    assert (edit.parameters_saved, edit.flops_saved, edit.work_saved) == (unit.parameters, unit.flops, unit.flops)


# Semantics


def test_a_removed_sublayer_has_no_parameters_and_the_norm_after_it_stays():
    masks = tiny("bert")
    removed = {"encoder.layer.1.attention": torch.ones(1, dtype=torch.bool)}
    layer = materialize(masks.model, masks.anatomy, removed).bert.encoder.layer[1]
    left = [name for name, _ in layer.attention.named_parameters()]
    assert left == ["output.LayerNorm.weight", "output.LayerNorm.bias"]


def test_the_norm_before_a_removed_sublayer_goes():
    masks = tiny("qwen3")
    removed = {"decoder.layer.1.attention": torch.ones(1, dtype=torch.bool)}
    layer = materialize(masks.model, masks.anatomy, removed).model.layers[1]
    assert not list(layer.self_attn.parameters()) and not list(layer.input_layernorm.parameters())
    whole = masks.model.model.layers[1]
    gone = sum(each.numel() for part in (whole.self_attn, whole.input_layernorm) for each in part.parameters())
    assert masks.anatomy.saved(removed)[0] == masks.anatomy.sublayers["decoder.layer.1.attention"].parameters == gone


def test_layers_move_up_and_so_does_what_the_configuration_says_of_them():
    masks = tiny("modernbert")
    smaller = materialize(masks.model, masks.anatomy, {"encoder.layer.0": torch.ones(1, dtype=torch.bool)})
    assert masks.model.config.layer_types == ["full_attention", "sliding_attention", "full_attention"]
    assert smaller.config.layer_types == ["sliding_attention", "full_attention"]
    assert smaller.config.num_hidden_layers == len(smaller.model.layers) == 2
    masks = tiny("t5", generates=True)
    smaller = materialize(masks.model, masks.anatomy, {"decoder.layer.0": torch.ones(1, dtype=torch.bool)})
    assert (smaller.config.num_layers, smaller.config.num_decoder_layers, smaller.decoder.config.num_layers) == (
        3,
        1,
        1,
    )
    assert smaller.decoder.block[0].layer[0].SelfAttention.layer_idx == 0
    assert smaller.decoder.block[0].layer[0].SelfAttention.has_relative_attention_bias


def test_what_a_unit_holds_goes_once_and_comes_back_as_it_was():
    masks = tiny("bert")
    head, neuron, ffn, layer = (
        "encoder.layer.1.attention.head.2", "encoder.layer.1.ffn.neuron.5", "encoder.layer.1.ffn", "encoder.layer.1"
    )  # fmt: skip
    masks.remove([head, layer])
    assert masks.is_removed(neuron) and masks.is_removed(ffn) and masks.components == [head, layer]
    for inside in (head, neuron, ffn, layer):
        with pytest.raises(EditError, match=f"{inside} is already removed"):
            masks.remove([inside])
    for inside in (neuron, ffn):
        with pytest.raises(EditError, match=f"{inside} is not removed"):
            masks.restore([inside])
    masks.restore([layer])
    assert masks.components == [head] and masks.is_removed(head) and not masks.is_removed(neuron)


def test_a_group_that_lost_some_is_not_gone():
    masks, examples = tiny("bert"), tiny_examples("bert", rows=6)
    masks.remove(["encoder.layer.1.attention.head.2", "encoder.layer.2"])
    named = {name for name in masks.anatomy.groups if masks.gone(name)}
    assert named == {"encoder.layer.2.attention.head", "encoder.layer.2.ffn.neuron"}
    prices = price(masks, examples, kinds=["head"], batch_size=6)
    assert len(prices) == 8 and prices.restores.tolist() == [False] * 6 + [True, False]


def test_parameters_and_flops_of_what_is_still_there_by_hand():
    """A BERT of 9 tokens, width 32, 24 neurons a layer: 10 of them are gone before their sublayer."""
    masks, examples = tiny("bert"), tiny_examples("bert", rows=12)
    anatomy, ffn = masks.anatomy, "encoder.layer.1.ffn"
    masks.remove([f"{ffn}.neuron.{index}" for index in range(10)])
    prices = price(masks, examples, kinds=["sublayer", "layer"], batch_size=12)
    place = prices.components.index(ffn)
    assert prices.parameters[place] == 14 * (32 + 1 + 32) + 32  # rows, biases and columns of 14 neurons; its own bias
    assert prices.flops[place] == 14 * 2 * 9 * (32 + 32)
    before = anatomy.saved(masks.removed)
    masks.remove([ffn])
    layer = anatomy.layers["encoder.layer.1"]
    rest = layer.parameters - (24 * (32 + 1 + 32) + 32)
    again = price(masks, examples, kinds=["layer", "neuron"], batch_size=12)
    assert again.parameters[again.components.index("encoder.layer.1")] == rest
    assert not any(component.startswith(ffn) for component in again.components)
    masks.remove(["encoder.layer.1"])
    assert anatomy.saved(masks.removed) == (layer.parameters, layer.flops) and before[1] == 10 * 2 * 9 * 64
    alone = {"encoder.layer.1": torch.ones(1, dtype=torch.bool)}
    assert anatomy.saved(alone) == (layer.parameters, layer.flops)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_one_of_a_stack_stays(kind):
    masks, examples = tiny("t5"), tiny_examples("t5", rows=6)
    strategy = STRATEGIES[kind](flops_kept=0.01, rounds=1)
    masks.remove(edit.component for edit in plan_of(masks, strategy, examples))
    units = [unit for unit in masks.anatomy.units.values() if unit.kind == kind]
    left = Counter(unit.name.split(".")[0] for unit in units if not masks.is_off(unit.name))
    assert left == {"encoder": 1, "decoder": 1}


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("share", [0.8, 0.45])
@pytest.mark.parametrize("kind", KINDS)
def test_the_flops_that_are_to_be_kept_are_kept_and_no_unit_more_would_fit(kind, share, rounds):
    masks, examples = tiny("bert"), tiny_examples("bert", rows=6)
    strategy = STRATEGIES[kind](flops_kept=share, rounds=rounds)
    for number in range(strategy.rounds):
        masks.remove(edit.component for edit in plan_of(masks, strategy, examples, number))
    left = masks.anatomy.flops - masks.anatomy.saved(masks.removed)[1]
    units = [unit for unit in masks.anatomy.units.values() if unit.kind == kind]
    smallest = min(unit.flops for unit in units if not masks.is_off(unit.name))
    assert share * masks.anatomy.flops <= left < share * masks.anatomy.flops + smallest


def test_a_count_is_met_in_as_many_rounds_as_it_takes():
    assert Layers(count=1).rounds == 1 and Layers(count=2).rounds == 2 and Sublayers(count=9).rounds == 4
    masks, examples, strategy = tiny("bert"), tiny_examples("bert", rows=6), Sublayers(count=4, rounds=3)
    for number in range(strategy.rounds):
        masks.remove(edit.component for edit in plan_of(masks, strategy, examples, number))
    assert len(masks.units) == 4


def test_heads_are_chosen_where_something_is_left():
    masks, examples = tiny("bert"), tiny_examples("bert", rows=12)
    masks.remove(["encoder.layer.0.attention", "encoder.layer.2"])
    edits = plan_of(masks, Heads(share=0.75, rounds=1, floor=0.0), examples)
    assert [edit.component.rpartition(".")[0] for edit in edits] == ["encoder.layer.1.attention.head"]
    masks.remove(["encoder.layer.1.attention"])
    assert plan_of(masks, Heads(share=1 - 1e-9, rounds=1, floor=0.0), examples) == ()


# What is expected


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_what_one_unit_is_expected_to_do_is_what_it_does(family):
    masks, examples = tiny(family), tiny_examples(family, rows=12)
    unit = some(masks.anatomy, "layer")[0]
    before = predict(masks.model, examples, 6)
    for towards, switch in ((masks.remove, masks.restore), (masks.restore, masks.remove)):
        with masks:
            start = predict(masks.model, examples, 6)
            expected = expected_joint(masks, examples, [unit], start, 6)["all"]
            towards([unit])
            after = predict(masks.model, examples, 6)
        losses = [
            torch.nn.functional.cross_entropy(torch.from_numpy(each), torch.from_numpy(examples.labels))
            for each in (start, after)
        ]
        assert expected.loss_change == pytest.approx(float(losses[1] - losses[0]), abs=1e-5)
        del switch
    assert np.array_equal(predict(masks.model, examples, 6), before)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_prices_without_a_layer_are_those_of_the_model_without_it(family):
    masks, examples = tiny(family), tiny_examples(family, rows=12)
    masks.remove(["decoder.layer.1" if family == "gpt2" else "encoder.layer.1"])
    kinds = ("head", "neuron", "sublayer")
    masked = price(masks, examples, kinds=kinds, batch_size=6)
    smaller = materialize(masks.model, masks.anatomy, masks.removed)
    cut = price(Masks(smaller, read_anatomy(smaller, 9)), examples, kinds=kinds, batch_size=6)
    assert len(masked) == len(cut)
    for impact, values in masked.values.items():
        np.testing.assert_allclose(values, cut.values[impact], atol=2e-5, err_msg=impact)
    assert masked.flops.tolist() == cut.flops.tolist()


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_what_is_reused_around_what_is_gone_changes_no_bit(family):
    masks, examples = tiny(family), tiny_examples(family, rows=8)
    masks.remove(["encoder.layer.1", "encoder.layer.0.ffn"])
    menu = menu_of_kinds(masks.anatomy, ("head", "sublayer", "layer")).left(masks.gone)
    pairs = zip(menu.components, menu.kinds, strict=True)
    candidates = [Candidate(component=component, kind=kind, edit="remove") for component, kind in pairs]
    sums = [
        exact_sums(Trials(masks, candidates[::2]), examples, list(examples.batches(4)), reuse=reuse)
        for reuse in (True, False)
    ]
    assert all(torch.equal(total, sums[1].totals[name]) for name, total in sums[0].totals.items())
    assert sums[0].totals["kl"].abs().sum() > 0


def test_nothing_of_a_removed_unit_is_refitted_and_its_neighbours_make_up_for_it():
    masks, examples = tiny("bert"), tiny_examples("bert", rows=48)
    compensator = Compensator(masks, examples, Compensation(), batch_size=12)
    own = copy.deepcopy(masks.model.state_dict())
    with masks:
        masks.remove(["encoder.layer.0.attention.head.1", "encoder.layer.1"])
        repairs = compensator.refit()
        assert repairs and not any(repair.linear.startswith("encoder.layer.1") for repair in repairs)
        later = [each for each in repairs if each.linear == "encoder.layer.2.attention.output"]
        assert later[0].missing_after < later[0].missing_before
        masks.remove(["encoder.layer.0.attention"])
        compensator.refit()
        gone = {linear.module for name, linear in masks.anatomy.linears.items() if masks.gone(name)}
        assert len(gone) == 10 and not gone & masks.refits.keys() and masks.refits
    assert all(torch.equal(value, own[name]) for name, value in masks.model.state_dict().items())


# What is refused


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "exactly one target"),
        ({"count": 1, "flops_kept": 0.5}, "exactly one target"),
        ({"count": 0}, "whole number of 1 or more"),
        ({"count": -1}, "whole number of 1 or more"),
        ({"count": True}, "whole number of 1 or more"),
        ({"flops_kept": 0.0}, r"outside \(0, 1\]"),
        ({"flops_kept": 1.2}, r"outside \(0, 1\]"),
        ({"count": 1, "rounds": 0}, r"whole number in 1\.\.100"),
    ],
)
def test_bad_targets_are_refused(kind, options, problem):
    with pytest.raises(InputError, match=problem) as caught:
        STRATEGIES[kind](**options)
    assert f"strategies: {kind}s" in str(caught.value)


def test_a_model_with_too_few_is_refused_before_anything_is_priced():
    anatomy = tiny("t5").anatomy
    Layers(count=3).fit(anatomy)
    with pytest.raises(InputError, match=r"strategies: layers\.count: 4.*5 layers, of which 2 must stay.*at most 3"):
        Layers(count=4).fit(anatomy)
    with pytest.raises(InputError, match=r"sublayers\.count: 11.*12 sublayers, of which 2 must stay.*at most 10"):
        Sublayers(count=11).fit(anatomy)


def test_a_layer_with_something_behind_it_stays():
    """DeBERTa runs a convolution when its first layer is done."""
    masks, examples = tiny("deberta-v2-own"), tiny_examples("deberta-v2-own", rows=6)
    assert [layer.stays for layer in masks.anatomy.layers.values()] == [True, False, False]
    with pytest.raises(EditError, match=r"encoder\.layer\.0 cannot be removed"):
        masks.remove(["encoder.layer.0"])
    with pytest.raises(EditError, match=r"encoder\.layer\.0 cannot be removed"):
        materialize(masks.model, masks.anatomy, {"encoder.layer.0": torch.ones(1, dtype=torch.bool)})
    Layers(count=2).fit(masks.anatomy)
    edits = plan_of(masks, Layers(count=2, rounds=1), examples)
    assert {edit.component for edit in edits} == {"encoder.layer.1", "encoder.layer.2"}
    assert not any(layer.stays for layer in tiny("deberta-v2").anatomy.layers.values())


def test_the_last_layer_cannot_be_cut_out():
    masks = tiny("bert")
    everything = {name: torch.ones(1, dtype=torch.bool) for name in masks.anatomy.layers}
    with pytest.raises(EditError, match="last layer"):
        materialize(masks.model, masks.anatomy, everything)


def test_an_extent_is_a_value():
    extent = Extent(kind="layer", count=2, flops_kept=None, rounds=2)
    assert extent == Layers(count=2).extent


def test_the_manifest_lists_a_unit_once_and_by_its_original_name(tmp_path):
    masks = tiny("bert")
    masks.remove(["encoder.layer.2.attention.head.3", "encoder.layer.1", "encoder.layer.0.ffn"])
    smaller = materialize(masks.model, masks.anatomy, masks.removed)
    manifest = save_compressed(smaller, tmp_path, removed=masks.removed, base=masks.anatomy, provenance={})
    assert manifest["removed"] == {
        "encoder.layer.2.attention.head": [3], "encoder.layer.1": [0], "encoder.layer.0.ffn": [0]
    }  # fmt: skip
    assert smaller.config.num_hidden_layers == 2


@pytest.mark.parametrize("name", ["encoder.layer.1.attention", "encoder.layer.1.ffn"])
def test_a_model_that_lacks_a_sublayer_is_refused_as_a_starting_point(name):
    masks = tiny("bert")
    smaller = materialize(masks.model, masks.anatomy, {name: torch.ones(1, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"a whole sublayer of encoder\.layer\.1 was taken out"):
        read_anatomy(smaller, 9)


def test_a_model_that_lacks_a_layer_is_an_ordinary_one():
    masks = tiny("bert")
    smaller = materialize(masks.model, masks.anatomy, {"encoder.layer.1": torch.ones(1, dtype=torch.bool)})
    anatomy = read_anatomy(smaller, 9)
    assert list(anatomy.layers) == ["encoder.layer.0", "encoder.layer.1"]
    assert anatomy.flops == masks.anatomy.flops - masks.anatomy.layers["encoder.layer.1"].flops
