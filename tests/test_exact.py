"""What an edit really does: the model edited by hand gives the same, and nothing is computed that need not be."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from compress_explain.data.examples import Batch
from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import read_anatomy
from compress_explain.pricing import Candidate, exact, read_menu
from compress_explain.pricing.exact import Trials, exact_of_pairs, exact_sums, masked
from compress_explain.pricing.impact import IMPACTS
from compress_explain.pricing.prefix import Prefix
from compress_explain.weight_edits import weight_edit
from tests.states import CAUSAL, language_examples, random_state, sliced_examples, traces
from tests.tiny import CLASSIFIERS, tiny_examples, tiny_inputs, tiny_model

EVERYTHING = "heads,neurons,sublayers,layers,linears:int8,linears:int4,linears:rank2"
SHAPES = (
    "bert",
    "gpt2",
    "llama",
    "t5",
    "vit",
    "opt",
    "deberta-v2",
    "mpnet",
    "dinov2",
    "bart",
    "whisper",
    "phi3",
)  # every way of being built
LABELLED = [(family, False, True) for family in CLASSIFIERS]
GENERATORS = [(family, True, True) for family in CAUSAL]


def candidates_of(masks, text=EVERYTHING, every=17):
    """Edits of every kind: all sublayers and layers, of heads, neurons and linears one in ``every`` and a bit."""
    menu = read_menu(masks.anatomy, text)
    removed = torch.cat([masks.removed[group.name] for group in menu.groups] or [torch.zeros(0)]).bool().tolist()
    named = zip(menu.components, menu.kinds, menu.edits(removed), strict=True)
    found = [Candidate(component=component, kind=kind, edit=edit) for component, kind, edit in named]
    return tuple(
        each
        for place, each in enumerate(found)
        if place % every == 0 or each.kind in ("sublayer", "layer", "head", "kv_group")
    )


def observed(masks, examples, candidates, *, reuse=True, batch_size=5):
    return exact_sums(Trials(masks, candidates), examples, examples.batches(batch_size), reuse=reuse)


def logits_of(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits


def logits_under(masks, candidate, inputs, prefix=None):
    """Logits under one edit, by a trial."""
    with torch.inference_mode(), masked(masks), Trials(masks, [candidate]).made(candidate, prefix):
        return masks.model(**inputs).logits


def recorded(masks, inputs):
    with torch.inference_mode(), masked(masks):
        return Prefix(masks, inputs)


# Reuse


@pytest.mark.parametrize(
    ("family", "generates", "remove"), [*LABELLED, *GENERATORS, ("bert", False, False), ("gpt2", True, False)]
)
def test_what_is_reused_changes_no_bit_of_any_sum(family, generates, remove):
    """Every kind of edit, restorations among them, against a whole pass for each."""
    masks = random_state(family, remove=remove, generates=generates)
    examples = language_examples(rows=5) if generates else tiny_examples(family, rows=5)
    candidates = candidates_of(masks)
    assert {each.kind for each in candidates} >= {*masks.anatomy.kinds, "linear", "sublayer", "layer"}
    assert remove is ("restore" in {each.edit for each in candidates})
    fast, slow = (observed(masks, examples, candidates, reuse=reuse) for reuse in (True, False))
    for name in fast.totals:
        assert torch.equal(fast.totals[name], slow.totals[name]), name
    assert torch.equal(fast.units, slow.units) and float(fast.units[0]) == examples.counts["all"]
    assert float(fast.totals["logit_move"].abs().min(0).values.max()) > 0.1


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_reuse_holds_for_every_batch_size(family, batch_size):
    masks = random_state(family)
    examples = tiny_examples(family, rows=3)
    candidates = candidates_of(masks, every=30)[::4]
    fast, slow = (observed(masks, examples, candidates, reuse=reuse, batch_size=batch_size) for reuse in (True, False))
    assert all(torch.equal(fast.totals[name], slow.totals[name]) for name in fast.totals)


@pytest.mark.parametrize("family", SHAPES)
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
            candidate = Candidate(
                component=masks.anatomy.sublayers[last.sublayers[-1]].name, kind="sublayer", edit="remove"
            )
            with Trials(masks, [candidate]).made(candidate, prefix):
                masks.model(**inputs)
            assert ran == []
    finally:
        for name in earlier:
            del masks.model.get_submodule(name).forward


@pytest.mark.parametrize("order", [(0, 1, 2, 0), (0, 1, 1, 0)])
def test_a_layer_that_is_called_twice_is_edited_at_both_calls(order):
    """What runs between the two calls depends on the edit and must not be reused."""
    model = tiny_model("bert")
    blocks = list(model.bert.encoder.layer)
    model.bert.encoder.layer = nn.ModuleList(blocks[index] for index in order)
    masks = Masks(model, read_anatomy(model, 9))
    examples = tiny_examples("bert", rows=5)
    candidates = candidates_of(masks)[::2]
    fast, slow = (observed(masks, examples, candidates, reuse=reuse) for reuse in (True, False))
    assert all(torch.equal(fast.totals[name], slow.totals[name]) for name in fast.totals)


# Many at once


@pytest.mark.parametrize(
    ("family", "dtype", "tolerance"),
    [*((family, torch.float64, 1e-12) for family in SHAPES), ("bert", torch.float32, 1e-5)],
)
def test_edits_that_are_tried_together_do_what_they_do_alone(family, dtype, tolerance):
    """Any rows under any edits, in any order and more than once; of logits of order 1, removals and restorations."""
    masks, inputs = random_state(family, dtype=dtype), tiny_inputs(family, batch=5)
    inputs = {name: each.to(dtype) if each.is_floating_point() else each for name, each in inputs.items()}
    masks.attach()
    prefix = recorded(masks, inputs)
    generator = torch.Generator().manual_seed(0)
    for group in masks.anatomy.groups.values():
        members = torch.randint(0, group.count, (8,), generator=generator)
        rows = torch.randint(0, 5, (8,), generator=generator)
        pairs = zip(rows.tolist(), members.tolist(), strict=True)
        alone = torch.stack([alone_under(masks, prefix, group, index)[row] for row, index in pairs])
        with torch.inference_mode():
            together = exact_of_pairs(masks, prefix, group, rows, members)
        assert together.shape == alone.shape == (8, 3)
        assert float((together - alone).abs().max()) < tolerance * max(1.0, float(alone.abs().max())), group.name
        assert float((together - prefix.logits[rows]).abs().max()) > 1e-3, group.name


def alone_under(masks, prefix, group, index):
    edit = "restore" if bool(masks.removed[group.name][index]) else "remove"
    candidate = Candidate(component=group.components[index], kind=group.kind, edit=edit)
    return logits_under(masks, candidate, prefix.inputs, prefix)


def test_more_pairs_than_are_run_at_once_come_out_in_their_order(monkeypatch):
    masks, inputs = random_state("bert"), tiny_inputs("bert", batch=4)
    masks.attach()
    prefix, group = recorded(masks, inputs), next(masks.anatomy.of_kind("neuron"))
    rows, members = torch.arange(44) % 4, torch.arange(44) % 11
    with torch.inference_mode():
        at_once = exact_of_pairs(masks, prefix, group, rows, members)
        monkeypatch.setattr(exact, "_AT_ONCE", 7)
        torch.testing.assert_close(exact_of_pairs(masks, prefix, group, rows, members), at_once, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("family", "rows"), [("gpt2", 9), ("llama", 1), ("t5", 9), ("t5", 1), ("vit", 5)])
def test_what_has_no_axis_of_rows_is_not_mistaken_for_it(family, rows):
    """As many rows as tokens (9, or 5 of an image), or a single row: sizes alone do not tell the axes apart."""
    masks, inputs = random_state(family), tiny_inputs(family, batch=rows, padded=False)
    masks.attach()
    prefix = recorded(masks, inputs)
    for group in masks.anatomy.groups.values():
        chosen = torch.tensor([rows - 1, 0, rows // 2])
        alone = alone_under(masks, prefix, group, 1)[chosen]
        with torch.inference_mode():
            together = exact_of_pairs(masks, prefix, group, chosen, torch.ones(3, dtype=torch.long))
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


# By hand


@pytest.mark.parametrize("family", SHAPES)
def test_a_sublayer_removed_is_a_consumer_of_zeros(family):
    masks, inputs = random_state(family), tiny_inputs(family)
    masks.attach()
    prefix = recorded(masks, inputs)
    for sublayer in masks.anatomy.sublayers.values():
        site = masks.model.get_submodule(masks.anatomy.groups[sublayer.groups[0]].site)
        with by_hand(masks, {parameter: torch.zeros_like(parameter) for parameter in site.parameters()}):
            expected = logits_of(masks.model, inputs)
        candidate = Candidate(component=sublayer.name, kind="sublayer", edit="remove")
        for before in (prefix, None):
            got = logits_under(masks, candidate, inputs, before)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@contextmanager
def by_hand(masks, replaced):
    """Inside it parameters have other values."""
    kept = {parameter: parameter.detach().clone() for parameter in replaced}
    with torch.no_grad():
        for parameter, value in replaced.items():
            parameter.copy_(value)
        try:
            yield
        finally:
            for parameter, value in kept.items():
                parameter.copy_(value)


@pytest.mark.parametrize("family", SHAPES)
def test_a_layer_removed_is_a_model_without_it(family):
    """The reference is the model with the layer taken out of its list."""
    masks, inputs = random_state(family, remove=False), tiny_inputs(family)
    whole, prefix = logits_of(masks.model, inputs), recorded(masks, inputs)
    for layer in masks.anatomy.layers.values():
        candidate = Candidate(component=layer.name, kind="layer", edit="remove")
        expected = logits_of(without_layer(masks.model, layer.module), inputs)
        for before in (prefix, None):
            got = logits_under(masks, candidate, inputs, before)
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
    return model


@pytest.mark.parametrize("family", SHAPES)
def test_an_edited_linear_is_its_weight_replaced(family):
    masks, inputs = random_state(family), tiny_inputs(family)
    masks.attach()
    prefix = recorded(masks, inputs)
    linears = list(masks.anatomy.linears.values())
    for linear in linears[:: len(linears) // 6]:
        module = masks.model.get_submodule(linear.module)
        turned = isinstance(module, Conv1D)
        weight = module.weight.detach().T if turned else module.weight.detach()
        for edit in ("int8", "int4-g16", "rank3"):
            replacement = weight_edit(edit).prepare(weight.contiguous(), None).weight
            with by_hand(masks, {module.weight: replacement.T if turned else replacement}):
                expected = logits_of(masks.model, inputs)
            candidate = Candidate(component=linear.name, kind="linear", edit=edit)
            got = logits_under(masks, candidate, inputs, prefix)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
            assert not torch.equal(got, prefix.logits), candidate


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_linear_in_half_precision_rounds_what_goes_in_and_comes_out(family):
    masks, inputs = random_state(family), tiny_inputs(family)
    masks.attach()
    prefix = recorded(masks, inputs)
    for linear in list(masks.anatomy.linears.values())[::4]:
        module = masks.model.get_submodule(linear.module)
        weight = module.weight.T if isinstance(module, Conv1D) else module.weight
        module.forward = lambda x, weight=weight, bias=module.bias: rounded_linear(x, weight, bias)
        expected = logits_of(masks.model, inputs)
        del module.forward
        candidate = Candidate(component=linear.name, kind="linear", edit="bf16")
        got = logits_under(masks, candidate, inputs, prefix)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def rounded_linear(x, weight, bias):
    low = torch.bfloat16
    bias = None if bias is None else bias.to(low).float()
    return nn.functional.linear(x.to(low).float(), weight.to(low).float(), bias).to(low).float()


# Sums of it


@pytest.mark.parametrize("labels", [2, 20])
def test_observed_impacts_are_those_of_two_outputs(labels):
    """Loss, KL, flips and Brier of single edits, per slice, with numpy from the logits of the two models."""
    masks, examples = random_state("bert", labels), sliced_examples(labels=labels)
    candidates = candidates_of(masks)[::3]
    masks.attach()
    means = observed(masks, examples, candidates, batch_size=12).means()
    rows = np.arange(len(examples))
    batch = next(examples.batches(len(examples)))
    back = np.argsort(batch.rows)
    before = logits_of(masks.model, batch.inputs)[back].double()
    truth, was = examples.labels, before.log_softmax(1).numpy()
    for column, candidate in enumerate(candidates):
        after = logits_under(masks, candidate, batch.inputs)[back].double()
        now, right, stays = after.log_softmax(1).numpy(), was.argmax(1) == truth, after.argmax(1).numpy() == truth
        softened = (before / 4).softmax(1).numpy()
        one, move = np.eye(labels)[truth], (after - before).numpy()
        expected = {
            "loss_change": was[rows, truth] - now[rows, truth],
            "kl": (np.exp(was) * (was - now)).sum(1),
            "soft_kl": 0.5 * np.array([np.cov(m, aweights=p, ddof=0) for m, p in zip(move, softened, strict=True)]),
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
    masks, examples = random_state(family, generates=True), language_examples(rows=8)
    candidates = candidates_of(masks, every=40)[::4]
    masks.attach()
    means = observed(masks, examples, candidates).means()
    alone = [Batch({name: torch.from_numpy(values[row])[None] for name, values in examples.inputs.items()}, np.array([row]))
             for row in range(len(examples))]  # fmt: skip
    before = [_log_probability(logits_of(masks.model, each.inputs)) for each in alone]
    for column, candidate in enumerate(candidates):
        loss, kl, early, even = [], [], [], []
        for row, (batch, was) in enumerate(zip(alone, before, strict=True)):
            now = _log_probability(logits_under(masks, candidate, batch.inputs))
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


@pytest.mark.parametrize(("attached", "reuse"), [(False, True), (True, True), (True, False)])
def test_the_model_is_left_as_it_was(attached, reuse):
    masks, examples = random_state("t5"), tiny_examples("t5", rows=5)
    masks.model.transformer.shared.weight.requires_grad_(False)
    if attached:
        masks.attach()
    before, inputs = traces(masks), tiny_inputs("t5")
    logits = logits_of(masks.model, inputs)
    observed(masks, examples, candidates_of(masks, every=40), reuse=reuse)
    assert traces(masks) == before
    assert torch.equal(logits_of(masks.model, inputs), logits)


@pytest.mark.parametrize(
    ("kind", "attached"),
    [("head", False), ("neuron", True), ("linear", False), ("sublayer", True), ("layer", False), ("many", True),
     ("many", False), ("record", True)],
)  # fmt: skip
def test_the_model_is_left_as_it_was_after_a_failure_in_the_middle(kind, attached):
    """The classifier fails on the pass with the edit (on the first one when recording)."""
    masks, inputs = random_state("bert"), tiny_inputs("bert")
    if attached:
        masks.attach()
    logits, calls = logits_of(masks.model, inputs), []
    fuse = masks.model.classifier.register_forward_hook(
        lambda *_: calls.append(1) or _blow(len(calls) > (kind != "record"))
    )
    before = traces(masks)
    group = next(masks.anatomy.of_kind("head"))
    with pytest.raises(ZeroDivisionError), torch.inference_mode(), masked(masks):
        prefix = Prefix(masks, inputs)
        if kind == "many":
            exact_of_pairs(masks, prefix, group, torch.arange(4), torch.arange(4))
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
    got, expected = (logits_under(masks, candidate, inputs, prefix) for prefix in (recorded(masks, inputs), None))
    assert torch.equal(got, expected) and module.__dict__["forward"] is mine


@pytest.mark.parametrize("family", ["vit", "gpt2", "llama"])
def test_an_attention_module_is_asked_for_its_projection_alone(family, monkeypatch):
    """What it computes before its output projection is not computed again when that projection is edited."""
    masks, examples = random_state(family, 3, remove=False), tiny_examples(family, labels=3, rows=4)
    groups = [group for group in masks.anatomy.groups.values() if group.attention]
    batch = next(iter(examples.batches(4)))
    kind, asked = type(masks.model.get_submodule(groups[0].attention)), []
    usual = kind.forward
    monkeypatch.setattr(
        kind, "forward", lambda self, *inputs, **options: asked.append(1) or usual(self, *inputs, **options)
    )
    with torch.inference_mode():
        prefix = Prefix(masks, batch.inputs)
        assert len(asked) == len(groups)
        for behind, group in enumerate(reversed(groups)):
            asked.clear()
            with prefix.reused(group.site):
                again = masks.model(**batch.inputs).logits
            assert len(asked) == behind and torch.equal(again, prefix.logits)
