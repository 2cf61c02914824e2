"""A mask is reversible to the last bit, and real removal computes what the mask computed."""

from __future__ import annotations

import copy

import pytest
import torch

from compress_explain.editing.masks import Masks
from compress_explain.editing.surgery import expected_parameters, materialize
from compress_explain.errors import EditError, InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.record.checkpoint import load_compressed, save_compressed
from tests.tiny import (
    FAMILIES,
    GENERATOR_KERNELS,
    GENERATORS,
    KERNELS,
    WITH_AND_WITHOUT_GENERATION,
    flagged,
    logits_of,
    tiny_inputs,
    tiny_model,
    tiny_tokens,
    uneven_removal,
)

# Of logits of order 1 to 5. Largest seen: 8.4e-6 and 1.3e-14 (gated T5), 4.5e-6 and below elsewhere.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}

DISTANCES = dict.fromkeys(("deberta-v2", "deberta-v2-own"), 2 * 8)  # scored with queries and with keys


# Masks


@pytest.mark.parametrize("family", FAMILIES)
def test_undoing_every_removal_gives_the_original_back_bit_for_bit(family):
    model, inputs = tiny_model(family), tiny_inputs(family)
    anatomy = read_anatomy(model, tiny_tokens(family))
    original, weights = logits_of(model, inputs), copy.deepcopy(model.state_dict())
    components = flagged(anatomy, uneven_removal(anatomy))
    with Masks(model, anatomy) as masks:
        assert torch.equal(logits_of(model, inputs), original)
        masks.remove(components)
        assert (logits_of(model, inputs) - original).abs().max() > 0.01
        masks.restore(components)
        assert torch.equal(logits_of(model, inputs), original)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_group_reaches_the_logits(family):
    """Masking components of any one group alone must show: an edit that changes nothing is not believed."""
    model, inputs = tiny_model(family), tiny_inputs(family)
    anatomy = read_anatomy(model, tiny_tokens(family))
    original = logits_of(model, inputs)
    with Masks(model, anatomy) as masks:
        for group in anatomy.groups.values():
            masks.remove(group.components[1:])
            assert not torch.equal(logits_of(model, inputs), original), group.name
            masks.restore(group.components[1:])


def test_outside_the_context_the_model_is_untouched():
    model, inputs = tiny_model("bert"), tiny_inputs("bert")
    original = logits_of(model, inputs)
    masks = Masks(model, read_anatomy(model, 9))
    masks.remove(["encoder.layer.0.attention.head.1"])
    assert torch.equal(logits_of(model, inputs), original)
    with masks:
        assert masks.attached
        assert not torch.equal(logits_of(model, inputs), original)
    assert not masks.attached
    assert torch.equal(logits_of(model, inputs), original)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_partial_restoration_equals_never_having_removed():
    model, inputs = tiny_model("gpt2"), tiny_inputs("gpt2")
    anatomy = read_anatomy(model, 9)
    kept_out = ["decoder.layer.1.ffn.neuron.3", "decoder.layer.2.attention.head.0"]
    back = ["decoder.layer.1.ffn.neuron.4", "decoder.layer.0.attention.head.2"]
    with Masks(model, anatomy) as masks:
        masks.remove(kept_out + back)
        masks.restore(back)
        after_detour = logits_of(model, inputs)
        assert set(masks.components) == set(kept_out)
        assert not masks.is_removed(back[0]) and masks.is_removed(kept_out[0])
    with Masks(model, anatomy) as masks:
        masks.remove(kept_out)
        assert torch.equal(logits_of(model, inputs), after_detour)


@pytest.mark.parametrize("again", [["encoder.layer.0.attention.head.1"], ["encoder.layer.1.ffn.neuron.5"] * 2])
def test_a_refused_switch_changes_nothing(again):
    model, inputs = tiny_model("bert"), tiny_inputs("bert")
    with Masks(model, read_anatomy(model, 9)) as masks:
        masks.remove(["encoder.layer.0.attention.head.1"])
        before = logits_of(model, inputs)
        with pytest.raises(EditError, match="already removed"):
            masks.remove(["encoder.layer.0.attention.head.3", *again])
        assert masks.components == ["encoder.layer.0.attention.head.1"]
        assert torch.equal(logits_of(model, inputs), before)
        with pytest.raises(EditError, match="not removed"):
            masks.restore(["encoder.layer.0.attention.head.1", "encoder.layer.2.ffn.neuron.0"])
        assert masks.components == ["encoder.layer.0.attention.head.1"]


@pytest.mark.parametrize(
    "component",
    ["encoder.layer.0.attention.head.4", "encoder.layer.0.attention.head.-1", "encoder.layer.9.attention", "head"],
)
def test_unknown_components_are_refused(component):
    model = tiny_model("bert")
    with pytest.raises(InputError, match="no such component"):
        Masks(model, read_anatomy(model, 9)).remove([component])


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5-gated"])
def test_a_dead_neuron_is_found_silent_and_only_that(family):
    model, inputs = tiny_model(family), tiny_inputs(family)
    anatomy = read_anatomy(model, 9)
    group = next(anatomy.of_kind("neuron"))
    with torch.no_grad():
        for producer in group.producers:
            linear = model.get_submodule(producer.module)
            (linear.weight[:, 7] if family == "gpt2" else linear.weight[7]).zero_()
            if linear.bias is not None:
                linear.bias[7] = 0
    masks = Masks(model, anatomy)
    assert masks.silent(group.components, inputs) == [group.components[7]]
    masks.remove([group.components[7], group.components[8]])
    with masks:
        assert masks.silent(group.components, inputs) == [group.components[7]], "a mask must not look like silence"
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_site_that_never_runs_is_an_error():
    model, inputs = tiny_model("bert"), tiny_inputs("bert")
    anatomy = read_anatomy(model, 9)
    model.bert.encoder.layer[1].output.forward = lambda hidden, residual: residual
    with pytest.raises(EditError, match=r"never ran the consumer of encoder\.layer\.1\.ffn\.neuron"):
        Masks(model, anatomy).silent(["encoder.layer.1.ffn.neuron.0"], inputs)
    assert not any(module._forward_pre_hooks for module in model.modules())


# Surgery


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("family", "attention"), KERNELS)
def test_real_removal_computes_what_the_mask_computed(family, attention, dtype, record_property):
    model, inputs = tiny_model(family, attention=attention).to(dtype), tiny_inputs(family)
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    anatomy = read_anatomy(model, tiny_tokens(family))
    removed = uneven_removal(anatomy)
    weights = copy.deepcopy(model.state_dict())
    with Masks(model, anatomy) as masks:
        masks.remove(flagged(anatomy, removed))
        masked = logits_of(model, inputs)
    smaller = materialize(model, anatomy, removed)
    difference = float((logits_of(smaller, inputs) - masked).abs().max())
    record_property("largest_difference", difference)
    assert difference < TOLERANCE[dtype]
    assert masked.std() > 0.1, "the check would be empty on constant logits"
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("family", "generates"), WITH_AND_WITHOUT_GENERATION)
def test_the_cut_model_has_exactly_the_announced_number_of_parameters(family, generates):
    model = tiny_model(family, generates=generates)
    anatomy = read_anatomy(model, tiny_tokens(family))
    for seed in range(3):
        removed = uneven_removal(anatomy, seed)
        smaller = materialize(model, anatomy, removed)
        counted = sum(parameter.numel() for parameter in smaller.parameters())
        assert counted == expected_parameters(model, anatomy, removed)
        assert counted < anatomy.parameters


def test_t5_pays_for_the_position_biases_that_it_had_to_copy():
    """8 buckets for each kept head of layers 1 and 2; layer 0 owned its bias before."""
    model = tiny_model("t5")
    anatomy = read_anatomy(model, 9)
    removed = {name: torch.zeros(group.count, dtype=torch.bool) for name, group in anatomy.groups.items()}
    removed["encoder.layer.1.attention.head"][2] = True
    row = 3 * 6 * 32 + 6 * 32  # query, key and value rows of width 6, output columns
    assert expected_parameters(model, anatomy, removed) == anatomy.parameters - row + 8 * 3 + 8 * 4
    removed["encoder.layer.1.attention.head"][2] = False
    removed["encoder.layer.1.ffn.neuron"][2] = True
    assert expected_parameters(model, anatomy, removed) == anatomy.parameters - 2 * 32


@pytest.mark.parametrize("family", FAMILIES)
def test_the_anatomy_of_the_cut_model_is_the_original_less_what_was_saved(family):
    """FLOPs saved are really saved: counting the cut model anew gives the difference."""
    model = tiny_model(family)
    anatomy = read_anatomy(model, tiny_tokens(family))
    removed = uneven_removal(anatomy)
    smaller = materialize(model, anatomy, removed)
    linear_flops = sum(
        2 * linear.tokens * module.weight.numel()
        for linear in anatomy.linears.values()
        for module in [smaller.get_submodule(linear.module)]
    )
    attention_flops = 0
    for group in anatomy.groups.values():
        if group.kind != "neuron":
            sublayer = group.name.rpartition(".")[0]
            tokens = anatomy.linears[f"{sublayer}.output"].tokens
            keys = (anatomy.linears.get(f"{sublayer}.value") or anatomy.linears[f"{sublayer}.qkv"]).tokens
            products = 2 * keys + DISTANCES.get(family, 0)
            attention_flops += 2 * tokens * products * group.width * int((~removed[group.name]).sum())
    assert linear_flops + attention_flops == anatomy.flops - anatomy.saved(removed)[1]


def emptied_removal(anatomy, place):
    """All components of one group gone, and some of the others."""
    removed = uneven_removal(anatomy)
    return removed | {list(anatomy.groups)[place]: torch.ones_like(removed[list(anatomy.groups)[place]])}


@pytest.mark.parametrize("place", [0, 1, -2, -1])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sublayer_may_lose_everything_but_its_bias(family, place, tmp_path):
    model, inputs = tiny_model(family), tiny_inputs(family)
    anatomy = read_anatomy(model, tiny_tokens(family))
    removed = emptied_removal(anatomy, place)
    with Masks(model, anatomy) as masks:
        masks.remove(flagged(anatomy, removed))
        masked = logits_of(model, inputs)
    smaller = materialize(model, anatomy, removed)
    torch.testing.assert_close(logits_of(smaller, inputs), masked, rtol=0, atol=TOLERANCE[torch.float32])
    assert sum(each.numel() for each in smaller.parameters()) == expected_parameters(model, anatomy, removed)
    save_compressed(smaller, tmp_path, removed=removed, base=anatomy, provenance={})
    assert torch.equal(logits_of(load_compressed(tmp_path), inputs), logits_of(smaller, inputs))


@pytest.mark.parametrize("family", GENERATORS)
def test_generation_goes_on_where_the_first_layer_has_no_heads(family):
    model = tiny_model(family, generates=True)
    prompt = tiny_inputs(family, batch=3, padded=False)
    anatomy = read_anatomy(model, 9)
    removed = emptied_removal(anatomy, 0)
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "num_beams": 1}
    with Masks(model, anatomy) as masks:
        masks.remove(flagged(anatomy, removed))
        masked = model.generate(**prompt, **options)
    assert torch.equal(materialize(model, anatomy, removed).generate(**prompt, **options), masked)


@pytest.mark.parametrize(("family", "attention"), GENERATOR_KERNELS)
def test_generation_with_a_cache_gives_the_tokens_of_the_masked_original(family, attention):
    model = tiny_model(family, attention=attention, generates=True)
    prompt = tiny_inputs(family, batch=3, padded=False)
    if not family.startswith(("t5", "whisper")):
        prompt["input_ids"][:, -1] = 17
    anatomy = read_anatomy(model, 9)
    removed = uneven_removal(anatomy)
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "num_beams": 1}
    with Masks(model, anatomy) as masks:
        original = model.generate(**prompt, **options)
        masks.remove(flagged(anatomy, removed))
        masked = model.generate(**prompt, **options)
    smaller = materialize(model, anatomy, removed)
    cached = smaller.generate(**prompt, **options, use_cache=True)
    assert torch.equal(cached, masked)
    assert torch.equal(cached, smaller.generate(**prompt, **options, use_cache=False))
    assert not torch.equal(masked, original), "the removal must show in the tokens for this to mean anything"


def test_a_deep_copy_of_a_cut_t5_still_computes_its_own_biases():
    model, inputs = tiny_model("t5"), tiny_inputs("t5")
    anatomy = read_anatomy(model, 9)
    smaller = materialize(model, anatomy, uneven_removal(anatomy))
    assert torch.equal(logits_of(copy.deepcopy(smaller), inputs), logits_of(smaller, inputs))
