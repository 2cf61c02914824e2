"""What is told of attention, of the stream's spread and of neurons is so by hand, and what is planted is found."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from compress_explain.signals.flow.attention_maps import attending, divergence, eager, entropy, paths_needed
from compress_explain.signals.flow.flow import flow
from compress_explain.signals.flow.geometry import geometry
from compress_explain.signals.flow.moments import Dimension, Moments, effective_rank, participation_ratio
from compress_explain.signals.flow.units_alive import feed_forward_sites, units_alive
from compress_explain.signals.stream.layers import Layers, beside, layers_of, passing
from compress_explain.signals.stream.watched import Watched
from tests.tiny import tiny_examples, tiny_inputs, tiny_model

FAMILIES = ("bert", "distilbert", "deberta-v2", "modernbert", "vit", "gpt2", "llama", "opt", "gpt_neox", "t5")


def of(findings, figure, **where):
    return [
        each
        for each in findings
        if each.figure == figure and all(getattr(each, name) == value for name, value in where.items())
    ]


def only(findings, figure, **where):
    (found,) = of(findings, figure, **where)
    return found


def told(original, compressed, split, *, kept=None, gone=(), **options):
    layers = layers_of(original)
    now = beside(layers, layers_of(compressed), gone)
    return flow(original, compressed, split, split, layers, now, kept=kept or {}, **options)


def without_heads(model, layer, gone, kept_first=None):
    """A BERT whose layer has lost heads; ``kept_first`` maps a head that stays to one whose query and key it is given."""
    model = copy.deepcopy(model)
    attention = model.bert.encoder.layer[layer].attention
    inner, width = attention.self, attention.self.attention_head_size
    left = [head for head in range(inner.num_attention_heads) if head not in gone]
    with torch.no_grad():
        for taker, giver in (kept_first or {}).items():
            for linear in (inner.query, inner.key):
                taken, given = (slice(head * width, (head + 1) * width) for head in (taker, giver))
                linear.weight[taken], linear.bias[taken] = linear.weight[given].clone(), linear.bias[given].clone()
        rows = torch.cat([torch.arange(head * width, (head + 1) * width) for head in left])
        for linear in (inner.query, inner.key, inner.value):
            linear.weight, linear.bias = (torch.nn.Parameter(each[rows]) for each in (linear.weight, linear.bias))
        attention.output.dense.weight = torch.nn.Parameter(attention.output.dense.weight[:, rows])
    inner.num_attention_heads, inner.all_head_size = len(left), len(left) * width
    return model, left


@pytest.fixture(scope="module")
def bert():
    return tiny_model("bert")


@pytest.fixture(scope="module")
def split():
    return tiny_examples("bert", rows=40)


def watched(model, examples, layers=None):
    return Watched(name="original", model=model, examples=examples, layers=layers or layers_of(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_attends_as_it_does_itself_and_is_as_before(family):
    model, split = tiny_model(family), tiny_examples(family, rows=12)
    batch = split.batch(np.arange(12))
    with torch.no_grad():
        before, kernel = model(**batch.inputs).logits, model.config._attn_implementation
    found = told(model, copy.deepcopy(model), split)
    js = of(found, "attention_js")
    assert js and {each.value for each in js} == {0.0}
    assert {each.layer for each in js} == set(layers_of(model).names)
    pairs = [of(found, "attention_entropy", model=name) for name in ("original", "compressed")]
    assert [each.value for each in pairs[0]] == [each.value for each in pairs[1]]
    assert of(found, "dead", model="original") and not any(np.isnan(each.value) for each in of(found, "dead"))
    with torch.no_grad():
        assert torch.equal(before, model(**batch.inputs).logits)
    assert model.config._attn_implementation == kernel
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family", ["bert", "gpt2", "clip_vision_model", "vit"])
def test_maps_are_those_that_the_model_gives_away(family):
    model, inputs = tiny_model(family), tiny_inputs(family)
    layers = layers_of(model)
    with torch.no_grad(), eager(model), attending(model, layers) as seen:
        given = model(**inputs, output_attentions=True).attentions
    assert list(seen) == list(layers.names)
    assert all(torch.equal(one, other) for one, other in zip(seen.values(), given, strict=True))


def test_eager_attention_is_for_a_while_only_also_when_something_fails():
    model = tiny_model("clip_vision_model", attention="sdpa")
    with pytest.raises(RuntimeError, match="on the way"), eager(model):
        assert {each.config._attn_implementation for each in model.modules() if hasattr(each, "config")} == {"eager"}
        raise RuntimeError("on the way")
    assert {each.config._attn_implementation for each in model.modules() if hasattr(each, "config")} == {"sdpa"}


def test_divergence_and_entropy_are_those_by_hand():
    one, other = torch.tensor([[[[1.0, 0.0, 0.0]]]]), torch.tensor([[[[0.0, 0.5, 0.5]]]])
    assert float(divergence(one, other)) == pytest.approx(1)  # nothing in common: one bit
    half = torch.tensor([[[[0.5, 0.5, 0.0]]]])
    by_hand = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25)) - 0.5
    assert float(divergence(one, half)) == pytest.approx(by_hand)
    assert float(entropy(half)) == pytest.approx(np.log(2))
    assert float(divergence(half, half)) == 0


def test_sparsity_is_the_share_of_paths_that_hold_most():
    real = torch.ones(1, 10, dtype=torch.bool)
    alike = torch.full((1, 2, 10, 10), 0.1)
    assert float(paths_needed(alike, real)) == pytest.approx(0.9)
    causal = torch.tril(torch.ones(10, 10)) / torch.arange(1, 11)[:, None]
    one_key = torch.zeros(1, 1, 10, 10)
    one_key[..., 0] = 1
    assert float(paths_needed(torch.cat([one_key, causal[None, None]], 1), real)) < 0.9
    both = torch.cat([one_key, alike[:, :1]], 1)
    assert float(paths_needed(both, real, share=0.5)) == pytest.approx(10 / 200)
    padded = real.clone()
    padded[:, 5:] = False
    seen = alike.clone()
    seen[..., 5:] = 0
    seen[..., :5] = 0.2
    assert float(paths_needed(seen, padded)) == pytest.approx(0.9)  # of the paths that exist
    assert float(paths_needed(seen[:, :1], padded)) == pytest.approx(23 / 25)  # the fewest of 25 that hold 90%


def test_paths_are_counted_as_if_they_were_sorted():
    maps = torch.rand(3, 2, 30, 30, generator=torch.Generator().manual_seed(0)).pow(9)
    maps /= maps.sum(-1, keepdim=True)
    strongest = maps.flatten(1).double().sort(1, descending=True).values.cumsum(1)
    by_hand = ((strongest < 0.9 * strongest[:, -1:]).sum(1) + 1) / 1800
    found = paths_needed(maps, torch.ones(3, 30, dtype=torch.bool))
    assert torch.allclose(found, by_hand.double(), atol=1 / 1800 + 1e-9)


def test_padding_asks_nothing_and_the_size_of_batches_changes_nothing(bert, split):
    other = without_heads(bert, 1, [0])[0]
    kept = {"encoder.layer.1": [1, 2, 3]}
    alone, together = (told(bert, other, split, kept=kept, rows=12, batch_size=size) for size in (1, 12))
    assert len(alone) == len(together)
    for one, many in zip(alone, together, strict=True):
        assert (one.figure, one.layer, one.other) == (many.figure, many.layer, many.other)
        assert one.value == pytest.approx(many.value, rel=1e-3, abs=1e-5), one.figure


def test_a_copy_of_a_removed_head_is_found_as_its_heir(bert, split):
    name = "encoder.layer.1"
    plain, left = without_heads(bert, 1, [2])
    heir, _ = without_heads(bert, 1, [2], kept_first={3: 2})
    found = told(bert, heir, split, kept={name: left})
    taken = only(found, "taken_over", other=f"{name}.attention.head.2")
    assert taken.note == f"{name}.attention.head.3" and taken.value < 1e-6
    nearer = only(found, "taken_over_nearer")
    js = {each.other: each.value for each in of(found, "attention_js", layer=name)}
    assert nearer.value == pytest.approx(js[f"{name}.attention.head.3"], abs=1e-5) and nearer.low > 0
    assert set(js) == {f"{name}.attention.head.{head}" for head in (0, 1, 3)}
    assert max(js[f"{name}.attention.head.{head}"] for head in (0, 1)) < 1e-6
    before = only(told(bert, plain, split, kept={name: left}), "taken_over")
    assert before.value > 0.01  # without the copy nobody looks where it looked
    assert only(told(bert, plain, split, kept={name: left}), "taken_over_nearer").value == pytest.approx(0, abs=1e-6)


@pytest.mark.exhaustive
def test_heads_that_nobody_names_are_not_compared(bert, split):
    found = told(bert, without_heads(bert, 1, [2])[0], split)
    why = only(found, "attention_js", layer="encoder.layer.1")
    assert np.isnan(why.value) and "of 4 heads 3 are left" in why.note
    assert of(found, "attention_js", layer="encoder.layer.0")


def test_layers_are_told_under_the_names_of_the_original(bert, split):
    shorter = copy.deepcopy(bert)
    del shorter.bert.encoder.layer[1]
    found = told(bert, shorter, split, gone=["encoder.layer.1"])
    assert {each.layer for each in of(found, "attention_js")} == {"encoder.layer.0", "encoder.layer.2"}
    assert {each.value for each in of(found, "attention_js", layer="encoder.layer.0")} == {0.0}
    assert [each.layer for each in of(found, "norm", model="compressed")] == [
        "embedding",
        "encoder.layer.0",
        "encoder.layer.2",
    ]


class Silent(torch.nn.Module):
    """An attention that gives nothing, and no maps."""

    def forward(self, hidden_states, *others, **options):
        return torch.zeros_like(hidden_states), None


@pytest.mark.parametrize("kept", [None, ()])
def test_where_attention_is_gone_that_is_told_unless_it_is_known(bert, split, kept):
    emptied = copy.deepcopy(bert)
    emptied.bert.encoder.layer[1].attention.self = Silent()
    found = told(bert, emptied, split, kept={} if kept is None else {"encoder.layer.1": kept})
    notes = [each.note for each in of(found, "attention_js", layer="encoder.layer.1")]
    assert notes == (["the compressed model gives no attention away there"] if kept is None else [])
    assert len(of(found, "attention_js", layer="encoder.layer.2")) == 4  # what is told of others does not slip
    assert only(found, "sparsity", layer="encoder.layer.1").model == "original"


def test_a_model_that_gives_no_maps_away_is_told_of_in_one_finding(bert, split):
    silent = copy.deepcopy(bert)
    for layer in silent.bert.encoder.layer:
        layer.attention.self = Silent()
    found = told(silent, bert, split)
    assert only(found, "attention_js").note == "the original gives no attention maps away"
    assert not of(found, "sparsity") and of(found, "norm", model="original")


def test_where_tokens_are_not_the_same_that_is_told(bert, split):
    longer = [np.append(row, 1) for row in split.inputs["input_ids"]]
    other = replace(split, inputs={"input_ids": longer, "attention_mask": [np.ones_like(row) for row in longer]})
    layers = layers_of(bert)
    found = flow(bert, bert, split, other, layers, layers)
    assert "no row" in only(found, "attention_js").note and np.isnan(only(found, "attention_js").value)
    assert of(found, "effective_rank", model="compressed")


def test_moments_are_those_of_numpy():
    vectors = np.random.default_rng(0).normal(3, 2, (500, 7))
    moments = Moments.nothing(7)
    for some in np.array_split(vectors, 9):
        moments.add(some)
    assert np.allclose(moments.covariance, np.cov(vectors.T, bias=True), atol=1e-10)
    assert np.allclose(moments.mean, vectors.mean(0))


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_vectors_that_spread_alike_in_some_directions_have_that_rank(rank):
    rng = np.random.default_rng(rank)
    cloud = np.linalg.qr(rng.normal(size=(4000, rank)))[0]  # uncorrelated, of one variance
    cloud -= cloud.mean(0)
    vectors = np.linalg.qr(cloud)[0] @ np.linalg.qr(rng.normal(size=(20, rank)))[0].T * 50
    moments = Moments.nothing(20)
    moments.add(vectors)
    for figure in (effective_rank, participation_ratio):
        assert Dimension.of(moments, figure).value == pytest.approx(rank, rel=1e-6)


@pytest.mark.parametrize("figure", [effective_rank, participation_ratio])
def test_the_slope_of_a_rank_is_its_difference_quotient(figure):
    variances = np.array([3.0, 1.0, 0.5, 0.1])
    for index in range(4):
        step = np.eye(4)[index] * 1e-6
        quotient = (figure(variances + step)[0] - figure(variances - step)[0]) / 2e-6
        assert figure(variances)[1][index] == pytest.approx(quotient, rel=1e-4)


def test_geometry_is_that_of_the_real_tokens_and_its_interval_that_of_resampled_rows(bert, split):
    layers = layers_of(bert)
    found = geometry(watched(bert, split), batch_size=7, confidence=0.9, seed=0)
    streams, norms = [], []
    for row in range(len(split)):
        with torch.no_grad(), passing(bert, layers) as seen:
            bert(**split.batch(np.array([row])).inputs)
        streams.append({name: each[0].numpy() for name, each in seen.items()})
    for name in layers.depths:
        rows = [each[name] for each in streams]
        whole = np.concatenate(rows)
        value = effective_rank(np.linalg.eigvalsh(np.cov(whole.T, bias=True)).clip(0))[0]
        rank = only(found, "effective_rank", layer=name)
        assert rank.value == pytest.approx(value, rel=1e-3)
        assert only(found, "norm", layer=name).value == pytest.approx(np.linalg.norm(whole, axis=1).mean(), rel=1e-5)
        norms.append(only(found, "norm", layer=name).value)
    growth = [each.value for each in of(found, "norm_growth")]
    assert growth == pytest.approx([after / before for before, after in pairwise(norms)])
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(300):
        drawn = np.concatenate([rows[row] for row in rng.integers(0, len(rows), len(rows))])
        draws.append(effective_rank(np.linalg.eigvalsh(np.cov(drawn.T, bias=True)).clip(0))[0])
    spread = np.subtract(*np.quantile(draws, [0.95, 0.05]))
    assert rank.low < rank.value < rank.high
    assert 0.6 < (rank.high - rank.low) / spread < 1.6
    assert "too few" in rank.note  # 200 tokens in 32 dimensions


def test_planted_neurons_are_found_dead_saturated_and_constant(split):
    model = tiny_model("bert")
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        layer.intermediate.dense.bias[:6] = -1e4  # never speak
        layer.intermediate.dense.bias[6:9] += 4  # always speak, of what they see
        layer.intermediate.dense.weight[9:11] = 0
        layer.intermediate.dense.bias[9:11] = 3  # always say the same
    found = units_alive(watched(model, split), batch_size=16, confidence=0.9, seed=0)
    shares = {figure: only(found, figure, layer="encoder.layer.1") for figure in ("dead", "saturated", "constant")}
    assert shares["dead"].value == pytest.approx(6 / 24)
    assert shares["saturated"].value >= 5 / 24
    assert shares["constant"].value == pytest.approx(8 / 24)
    assert all(each.low <= each.value <= each.high for each in found)
    assert only(found, "dead", layer="encoder.layer.0").value == 0


def test_neurons_are_found_where_the_family_has_them_and_nowhere_else(bert):
    sites = feed_forward_sites(bert, layers_of(bert))
    assert sites["encoder.layer.2"] == "bert.encoder.layer.2.output.dense"
    unknown = copy.deepcopy(bert)
    unknown.config.model_type = "nobody-knows"
    split = tiny_examples("bert", rows=4)
    (found,) = units_alive(watched(unknown, split, layers_of(bert)), batch_size=4, confidence=0.9, seed=0)
    assert np.isnan(found.value) and "not known" in found.note


def test_the_position_of_norms_is_one_finding(bert, split):
    found = only(told(bert, bert, split), "norm_position")
    assert (found.value, found.note) == (0.0, "norms stand after each sublayer")
    unknown = Layers(names=layers_of(bert).names, modules=layers_of(bert).modules)
    found = only(flow(bert, bert, split, split, layers_of(bert), unknown), "norm_position")
    assert "nobody knows in the compressed model" in found.note


@pytest.mark.exhaustive
def test_progress_counts_every_row_once(bert, split):
    done: list[int] = []
    told(bert, bert, split, rows=10, batch_size=4, advance=done.append)
    assert sum(done) == 10 and len(done) > 3


def test_rows_are_the_same_for_both_models(bert, split):
    few = told(bert, copy.deepcopy(bert), split, rows=9)
    assert {each.n for each in of(few, "attention_js")} == {9}
    assert {each.value for each in of(few, "attention_js")} == {0.0}
