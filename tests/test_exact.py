"""What an edit really does: the model edited by hand gives the same, and nothing is computed that need not be."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from compress_explain.anatomy import read_anatomy
from compress_explain.examples import Batch
from compress_explain.masks import Masks
from compress_explain.pricing import Candidate, read_menu
from compress_explain.pricing.exact import Trials, exact_of_group, masked
from compress_explain.pricing.impact import IMPACTS
from compress_explain.pricing.prefix import Prefix
from compress_explain.pricing.sums import over_columns
from compress_explain.pricing.work import Auditing
from compress_explain.weight_edits import weight_edit
from tests.states import CAUSAL, language_examples, random_state, sliced_examples, traces
from tests.tiny import FAMILIES, tiny_examples, tiny_inputs, tiny_model, tiny_tokens

EVERYTHING = "heads,neurons,sublayers,layers,linears:int8,linears:int4,linears:rank2"
CLASSIFIERS = [(family, False) for family in FAMILIES]
GENERATORS = [(family, True) for family in CAUSAL]


def candidates_of(masks, text=EVERYTHING, every=9):
    """Edits of every kind: all sublayers and layers, of heads, neurons and linears one in ``every`` and a bit."""
    menu = read_menu(masks.anatomy, text)
    removed = torch.cat([masks.removed[group.name] for group in menu.groups] or [torch.zeros(0)]).bool().tolist()
    named = zip(menu.components, menu.kinds, menu.edits(removed), strict=True)
    found = [Candidate(component=component, kind=kind, edit=edit) for component, kind, edit in named]
    return tuple(
        each for place, each in enumerate(found) if place % every == 0 or each.kind in ("sublayer", "layer", "head", "kv_group")
    )


def audited(masks, examples, candidates, *, reuse, batch_size=5):
    work = Auditing(masks=masks, examples=examples, candidates=candidates, batch_size=batch_size, reuse=reuse)
    return over_columns([work.run(shard) for shard in range(work.shards)])


def logits_of(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits


def logits_under(masks, candidate, inputs, *, reuse):
    """Logits under one edit, by a trial."""
    with torch.inference_mode(), masked(masks):
        prefix = Prefix(masks, inputs) if reuse else None
        with Trials(masks, [candidate]).made(candidate, prefix):
            return masks.model(**inputs).logits


# Reuse


@pytest.mark.parametrize("remove", [False, True], ids=["whole", "thinned"])
@pytest.mark.parametrize(("family", "generates"), CLASSIFIERS + GENERATORS)
def test_what_is_reused_changes_no_bit_of_any_sum(family, generates, remove):
    """Every kind of edit, restorations among them, against a whole pass for each."""
    masks = random_state(family, remove=remove, generates=generates)
    examples = language_examples() if generates else tiny_examples(family, rows=13)
    candidates = candidates_of(masks)
    assert {each.kind for each in candidates} >= {*masks.anatomy.kinds, "linear", "sublayer", "layer"}
    assert remove is ("restore" in {each.edit for each in candidates})
    fast, slow = (audited(masks, examples, candidates, reuse=reuse) for reuse in (True, False))
    for name in fast.totals:
        assert torch.equal(fast.totals[name], slow.totals[name]), name
    assert torch.equal(fast.units, slow.units) and float(fast.units[0]) == examples.counts["all"]
    assert float(fast.totals["logit_move"].abs().min(0).values.max()) > 0.1


@pytest.mark.parametrize("batch_size", [1, 3, 13])
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_reuse_holds_for_every_batch_size(family, batch_size):
    masks = random_state(family)
    examples = tiny_examples(family, rows=13)
    candidates = candidates_of(masks, every=30)
    fast, slow = (audited(masks, examples, candidates, reuse=reuse, batch_size=batch_size) for reuse in (True, False))
    assert all(torch.equal(fast.totals[name], slow.totals[name]) for name in fast.totals)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_comes_before_an_edit_is_not_computed(family):
    """Of an edit of the last layer, no linear of an earlier layer runs; that is what reuse is for."""
    masks = random_state(family)
    inputs = tiny_inputs(family)
    last = list(masks.anatomy.layers.values())[-1]
    earlier = [each.module for each in masks.anatomy.linears.values() if not each.module.startswith(last.module + ".")]
    ran = []
    for name in earlier:
        module = masks.model.get_submodule(name)
        module.forward = lambda x, module=module, name=name: ran.append(name) or type(module).forward(module, x)
    try:
        with torch.inference_mode(), masked(masks):
            prefix = Prefix(masks, inputs)
            assert set(ran) == set(earlier)
            ran.clear()
            candidate = Candidate(component=masks.anatomy.sublayers[last.sublayers[-1]].name, kind="sublayer", edit="remove")
            with Trials(masks, [candidate]).made(candidate, prefix):
                masks.model(**inputs)
            assert ran == []
    finally:
        for name in earlier:
            del masks.model.get_submodule(name).forward


@pytest.mark.parametrize("order", [(0, 1, 0, 2), (0, 1, 0, 1), (0, 0, 1, 2)])
def test_a_layer_that_is_called_twice_is_edited_at_both_calls(order):
    """What runs between the two calls depends on the edit and must not be reused."""
    model = tiny_model("gpt2")
    blocks = list(model.transformer.h)
    model.transformer.h = nn.ModuleList(blocks[index] for index in order)
    model.config.n_layer = len(order)
    masks = Masks(model, read_anatomy(model, 9))
    examples = tiny_examples("gpt2", rows=6)
    candidates = candidates_of(masks)
    fast, slow = (audited(masks, examples, candidates, reuse=reuse) for reuse in (True, False))
    assert all(torch.equal(fast.totals[name], slow.totals[name]) for name in fast.totals)


# Many at once


@pytest.mark.parametrize("remove", [False, True], ids=["whole", "thinned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_edits_that_share_a_batch_do_what_they_do_alone(family, dtype, remove):
    """Of logits of order 1; on all rows of the batch and on some of them."""
    masks = random_state(family, remove=remove, dtype=dtype)
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tiny_inputs(family, batch=6).items()}
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    with torch.inference_mode(), masked(masks):
        prefix = Prefix(masks, inputs)
        for group in masks.anatomy.groups.values():
            chosen = torch.arange(group.count)[:: 1 if group.count < 10 else 7]
            alone = torch.stack([_alone(masks, prefix, group, index) for index in chosen.tolist()], 1)
            for rows in (torch.arange(6), torch.tensor([4, 1])):
                together = exact_of_group(masks, prefix, group, chosen, rows)
                assert together.shape == (len(rows), len(chosen), 3)
                assert float((together - alone[rows]).abs().max()) < tolerance * max(1.0, float(alone.abs().max())), group.name


def _alone(masks, prefix, group, index):
    edit = "restore" if bool(masks.removed[group.name][index]) else "remove"
    candidate = Candidate(component=group.components[index], kind=group.kind, edit=edit)
    with Trials(masks, [candidate]).made(candidate, prefix):
        return masks.model(**prefix.inputs).logits


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "t5-gated", "vit"])
@pytest.mark.parametrize("rows", [1, 5, 9])
def test_what_has_no_axis_of_rows_is_not_mistaken_for_it(family, rows):
    """As many rows as tokens (9, or 5 patches of an image), or a single row: sizes alone do not tell the axes apart."""
    masks = random_state(family)
    inputs = tiny_inputs(family, batch=rows, padded=False)
    with torch.inference_mode(), masked(masks):
        prefix = Prefix(masks, inputs)
        for group in masks.anatomy.groups.values():
            chosen = torch.tensor([0, group.count - 1])
            alone = torch.stack([_alone(masks, prefix, group, index) for index in chosen.tolist()], 1)
            together = exact_of_group(masks, prefix, group, chosen, torch.arange(rows))
            torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


# By hand


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sublayer_removed_is_a_consumer_of_zeros(family, reuse):
    masks, inputs = random_state(family), tiny_inputs(family)
    for sublayer in masks.anatomy.sublayers.values():
        by_hand = copy.deepcopy(masks)
        site = by_hand.model.get_submodule(by_hand.anatomy.groups[sublayer.groups[0]].site)
        with torch.no_grad():
            for parameter in site.parameters():
                parameter.zero_()
        candidate = Candidate(component=sublayer.name, kind="sublayer", edit="remove")
        with by_hand:
            expected = logits_of(by_hand.model, inputs)
        torch.testing.assert_close(logits_under(masks, candidate, inputs, reuse=reuse), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_removed_is_a_model_without_it(family, reuse):
    """The reference is the model with the layer taken out of its list."""
    masks, inputs = random_state(family, remove=False), tiny_inputs(family)
    whole = logits_of(masks.model, inputs)
    for layer in masks.anatomy.layers.values():
        candidate = Candidate(component=layer.name, kind="layer", edit="remove")
        expected = logits_of(without_layer(masks.model, layer.module), inputs)
        got = logits_under(masks, candidate, inputs, reuse=reuse)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
        assert float((got - whole).abs().max()) > 0.01, layer.name


def without_layer(model, path):
    """A copy of the model without one of its layers; T5's first layers hand their position bias on."""
    model = copy.deepcopy(model)
    parent, _, index = path.rpartition(".")
    layers = model.get_submodule(parent)
    block = layers[int(index)]
    del layers[int(index)]
    if index == "0" and hasattr(block, "layer") and hasattr(block.layer[0], "SelfAttention"):
        attention = layers[0].layer[0].SelfAttention
        attention.relative_attention_bias = block.layer[0].SelfAttention.relative_attention_bias
        attention.has_relative_attention_bias = True
    for name in ("num_hidden_layers", "num_layers", "num_decoder_layers"):
        for each in model.modules():
            if isinstance(getattr(getattr(each, "config", None), name, None), int) and hasattr(each, "layers"):
                setattr(each.config, name, len(each.layers))
    return model


@pytest.mark.parametrize("edit", ["int8", "int4-g16", "rank3", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_edited_linear_is_its_weight_replaced(family, edit):
    """For edits of the weight alone; half precision rounds what goes in and out too, so it is done by a hook."""
    masks, inputs = random_state(family), tiny_inputs(family)
    for linear in list(masks.anatomy.linears.values())[::2]:
        by_hand = copy.deepcopy(masks)
        module = by_hand.model.get_submodule(linear.module)
        turned = isinstance(module, Conv1D)
        weight = module.weight.detach().T if turned else module.weight.detach()
        with torch.no_grad():
            if edit == "bf16":
                module.forward = lambda x, weight=weight, bias=module.bias: rounded_linear(x, weight, bias)
            else:
                prepared = weight_edit(edit).prepare(weight, None)
                module.weight.copy_(prepared.weight.T if turned else prepared.weight)
        with by_hand:
            expected = logits_of(by_hand.model, inputs)
        candidate = Candidate(component=linear.name, kind="linear", edit=edit)
        got = logits_under(masks, candidate, inputs, reuse=True)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
        with masks:
            assert not torch.equal(got, logits_of(masks.model, inputs)), linear.name


def rounded_linear(x, weight, bias):
    low = torch.bfloat16
    bias = None if bias is None else bias.to(low).float()
    return nn.functional.linear(x.to(low).float(), weight.to(low).float(), bias).to(low).float()


# Sums of it


@pytest.mark.parametrize("labels", [2, 3, 20])
def test_observed_impacts_are_those_of_two_outputs(labels):
    """Loss, KL, flips and Brier of single edits, per slice, with numpy from the logits of the two models."""
    masks, examples = random_state("bert", labels), sliced_examples(labels=labels)
    candidates = candidates_of(masks, every=17)
    means = audited(masks, examples, candidates, reuse=True).means()
    rows = np.arange(len(examples))
    batch = next(examples.batches(len(examples)))
    back = np.argsort(batch.rows)
    with masks:
        before = logits_of(masks.model, batch.inputs)[back].double()
    truth, was = examples.labels, before.log_softmax(1).numpy()
    for column, candidate in enumerate(candidates):
        after = logits_under(masks, candidate, batch.inputs, reuse=False)[back].double()
        now, right, stays = after.log_softmax(1).numpy(), was.argmax(1) == truth, after.argmax(1).numpy() == truth
        one, move = np.eye(labels)[truth], (after - before).numpy()
        expected = {
            "loss_change": was[rows, truth] - now[rows, truth],
            "kl": (np.exp(was) * (was - now)).sum(1),
            "flips_to_wrong": right & ~stays,
            "flips_to_right": ~right & stays,
            "brier_change": ((np.exp(now) - one) ** 2).sum(1) - ((np.exp(was) - one) ** 2).sum(1),
            "logit_move": np.linalg.norm(move - move.mean(1, keepdims=True), axis=1),
        }
        assert tuple(expected) == IMPACTS
        for name, values in expected.items():
            for place, members in enumerate(examples.slices.values()):
                assert means[name][place, column] == pytest.approx(values[members].mean(), abs=2e-5), (name, candidate)


@pytest.mark.parametrize("family", CAUSAL)
def test_observed_impacts_of_a_language_model_are_means_over_predicted_tokens(family):
    """The reference reads every row alone, without padding, and adds up token by token."""
    masks, examples = random_state(family, generates=True), language_examples()
    candidates = candidates_of(masks, every=40)[::3]
    means = audited(masks, examples, candidates, reuse=True).means()
    alone = [Batch({name: torch.from_numpy(values[row])[None] for name, values in examples.inputs.items()}, np.array([row]))
             for row in range(len(examples))]  # fmt: skip
    with masks:
        before = [_log_probability(logits_of(masks.model, each.inputs)) for each in alone]
    for column, candidate in enumerate(candidates):
        loss, kl, early, even = [], [], [], []
        for row, (batch, was) in enumerate(zip(alone, before, strict=True)):
            now = _log_probability(logits_under(masks, candidate, batch.inputs, reuse=False))
            following = examples.inputs["input_ids"][row][1:]
            places = np.arange(len(following))
            loss += (was - now)[places, following].tolist()
            kl += (np.exp(was) * (was - now)).sum(1)[places].tolist()
            early += (places < 2).tolist()
            even += [row % 2 == 0] * len(places)
        loss, kl, early, even = map(np.array, (loss, kl, early, even))
        for place, members in enumerate((np.ones_like(early), even, early, ~early)):
            assert means["loss_change"][place, column] == pytest.approx(loss[members].mean(), abs=1e-5)
            assert means["kl"][place, column] == pytest.approx(kl[members].mean(), abs=1e-5)


def _log_probability(logits):
    return logits[0].double().log_softmax(-1).numpy()


# Afterwards


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("reuse", [False, True])
def test_the_model_is_left_as_it_was(attached, reuse):
    masks, examples = random_state("t5"), tiny_examples("t5", rows=6)
    masks.model.shared.weight.requires_grad_(False)
    if attached:
        masks.attach()
    before, inputs = traces(masks), tiny_inputs("t5")
    logits = logits_of(masks.model, inputs)
    audited(masks, examples, candidates_of(masks, every=40), reuse=reuse)
    assert traces(masks) == before
    assert torch.equal(logits_of(masks.model, inputs), logits)


@pytest.mark.parametrize("kind", ["head", "neuron", "linear", "sublayer", "layer", "many", "record"])
@pytest.mark.parametrize("attached", [False, True])
def test_the_model_is_left_as_it_was_after_a_failure_in_the_middle(kind, attached):
    """The classifier fails on the pass with the edit (on the first one when recording)."""
    masks, inputs = random_state("bert"), tiny_inputs("bert")
    if attached:
        masks.attach()
    logits, calls = logits_of(masks.model, inputs), []
    fuse = masks.model.classifier.register_forward_hook(lambda *_: calls.append(1) or _blow(len(calls) > (kind != "record")))
    before = traces(masks)
    group = next(masks.anatomy.of_kind("head"))
    with pytest.raises(ZeroDivisionError), torch.inference_mode(), masked(masks):
        prefix = Prefix(masks, inputs)
        if kind == "many":
            exact_of_group(masks, prefix, group, torch.arange(4), torch.arange(4))
        candidate = next(each for each in candidates_of(masks) if each.kind == kind)
        with Trials(masks, [candidate]).made(candidate, prefix):
            masks.model(**inputs)
    assert traces(masks) == before
    fuse.remove()
    assert torch.equal(logits_of(masks.model, inputs), logits)


def _blow(now):
    return 1 // (not now) and None


def test_an_answer_of_someone_elses_is_put_back():
    """A module whose ``forward`` was replaced on the instance keeps that replacement."""
    masks, inputs = random_state("bert"), tiny_inputs("bert")
    module = masks.model.bert.embeddings
    plain = type(module).forward
    mine = module.forward = lambda *inputs, **options: 2 * plain(module, *inputs, **options)
    candidate = candidates_of(masks)[0]
    got, expected = (logits_under(masks, candidate, inputs, reuse=reuse) for reuse in (True, False))
    assert torch.equal(got, expected) and module.__dict__["forward"] is mine
