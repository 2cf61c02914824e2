"""Language models: the first order is exact, the second one right on average, and a slice of tokens is just that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compress_explain.pricing import price, read_menu
from compress_explain.pricing import work as work_module
from compress_explain.pricing.exact import Trials, exact_sums
from compress_explain.pricing.menu import Candidate
from compress_explain.pricing.slopes import Slopes
from compress_explain.pricing.sums import Sums
from compress_explain.pricing.tokens import add_gauss_newton
from tests.states import CAUSAL, language_examples, random_state
from tests.tiny import tiny_examples


def row_slices(examples):
    rows = {f"row={row}": np.arange(len(examples)) == row for row in range(len(examples))}
    return replace(examples, slices={"all": np.ones(len(examples), dtype=bool)} | rows, token_slices={})


def estimated(masks, examples, batches, *, projections=2, seed=0, menu=None):
    menu = menu or read_menu(masks.anatomy, "heads,neurons")
    sums = Sums.zeros(len(examples.slice_names), menu.linearisable)
    slopes = Slopes(masks, menu.groups, menu.edits_of_linears)
    rows = sum(add_gauss_newton(sums, slopes, examples, batches, projections=projections, seed=seed))
    assert rows == sum(len(batch.rows) for batch in batches)
    return sums


def scaled_input(site, group, component, factor):
    """A hook that multiplies one component's share of its consumer's input."""

    def scale(module, inputs):
        value = inputs[0].clone()
        columns = slice(component * group.width, (component + 1) * group.width)
        value[..., columns] = value[..., columns] * factor
        return (value, *inputs[1:])

    return site.register_forward_pre_hook(scale)


def logits_with(masks, group, component, factor, inputs):
    hook = scaled_input(masks.model.get_submodule(group.site), group, component, factor)
    try:
        with torch.no_grad():
            return masks.model(**inputs).logits
    finally:
        hook.remove()


def losses(logits, targets):
    return nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")


# First order


@pytest.mark.parametrize("family", CAUSAL)
def test_the_first_order_is_the_derivative_of_the_loss_on_the_tokens_of_each_slice(family):
    """What is left when half the squares are taken off; by central differences on hand-masked tokens, in double precision."""
    masks = random_state(family, remove=False, dtype=torch.float64, generates=True)
    examples = language_examples(rows=6)
    (batch,) = examples.batches(6)
    sums = estimated(masks, examples, [batch])
    first = sums.totals["loss_change"] - sums.totals["kl"]
    targets, valid = examples.targets(batch)
    position = torch.arange(targets.shape[1])
    even = torch.from_numpy(batch.rows % 2 == 0)[:, None]
    by_hand = [valid, valid & even, valid & (position < 2), valid & (position >= 2)]
    assert examples.slice_names == ("all", "even", "early", "late")
    steps = {"gpt2": 1e-4, "opt": 2e-3}  # the others round more to single precision: norms, attention weights
    step, start = steps.get(family, 1e-2), 0
    for group in masks.anatomy.groups.values():
        for component in (0, group.count - 1):
            ends = [
                losses(logits_with(masks, group, component, 1 + side * step, batch.inputs), targets) for side in (1, -1)
            ]
            slope = (ends[0] - ends[1]) / (2 * step)
            for index, tokens in enumerate(by_hand):
                expected = -float((slope * tokens).sum())
                assert float(first[index, start + component]) == pytest.approx(expected, rel=2e-3, abs=5e-4)
        start += group.count
    assert sums.units.tolist() == [float(tokens.sum()) for tokens in by_hand]


def test_a_slice_of_all_tokens_is_the_whole():
    """Same signs, same squares: to the last bit or two."""
    masks, examples = random_state("llama", generates=True), language_examples(rows=8)
    every = [np.ones(len(row) - 1, dtype=bool) for row in examples.inputs["input_ids"]]
    examples = replace(examples, token_slices={"every": every})
    sums = estimated(masks, examples, list(examples.batches(8)))
    for name in ("loss_change", "kl", "logit_move", "loss_squared", "loss_by_units"):
        torch.testing.assert_close(sums.totals[name][2], sums.totals[name][0], rtol=1e-5, atol=1e-5)
    assert sums.units[2] == sums.units[0] and sums.rows[2] == sums.rows[0]


def test_a_restoration_has_the_opposite_slope():
    """In double precision and to first order: switching on what is off adds what was taken away."""
    masks = random_state("gpt2", dtype=torch.float64, generates=True)
    examples = language_examples(rows=5)
    (batch,) = examples.batches(5)
    sums = estimated(masks, examples, [batch])
    targets, valid = examples.targets(batch)
    group = next(group for name, group in masks.anatomy.groups.items() if masks.removed[name].any())
    component = int(masks.removed[group.name].nonzero()[0])
    start = list(masks.anatomy.groups).index(group.name)
    column = sum(each.count for each in list(masks.anatomy.groups.values())[:start]) + component
    masks.restore([group.components[component]])
    with masks:
        ends = [losses(logits_with(masks, group, component, factor, batch.inputs), targets) for factor in (1e-4, 0.0)]
    expected = float(((ends[0] - ends[1]) / 1e-4 * valid).sum())
    got = float(sums.totals["loss_change"][0, column] - sums.totals["kl"][0, column])
    assert got == pytest.approx(expected, rel=1e-2, abs=1e-4)


# Second order


def test_the_squares_average_to_the_curvature():
    """dz' H dz, with dz by central differences and H by autograd, token by token; each row is a slice.

    The mean of 300 squares of a nearly normal variable has a relative error of sqrt(2 / 300) = 8%.
    """
    masks = random_state("gpt2", remove=False, dtype=torch.float64, generates=True)
    examples, projections = row_slices(language_examples(rows=6)), 300
    (batch,) = examples.batches(6)
    sums = estimated(masks, examples, [batch], projections=projections)
    targets, valid = examples.targets(batch)
    with torch.no_grad():
        logits = masks.model(**batch.inputs).logits
    flat, wanted = logits.flatten(0, 1), targets.flatten()
    hessian = torch.func.vmap(torch.func.hessian(nn.functional.cross_entropy))(flat, wanted)  # (tokens, v, v)
    ratios, start = [], 0
    for group in masks.anatomy.groups.values():
        for component in (1, 2):
            ends = [logits_with(masks, group, component, 1 + side * 1e-4, batch.inputs) for side in (1, -1)]
            dz = ((ends[0] - ends[1]) / 2e-4).flatten(0, 1)
            curvature = torch.einsum("tv,tvw,tw->t", dz, hessian, dz).view_as(targets)
            expected = (curvature * valid).sum(1) / 2
            got = torch.stack([sums.totals["kl"][1 + int(row), start + component] for row in batch.rows])
            ratios.append(got / expected)
        start += group.count
    ratios = torch.stack(ratios)  # (edits, rows)
    error = (2 / projections) ** 0.5
    assert float((ratios - 1).abs().max()) < 5 * error
    assert float((ratios - 1).square().mean()) < 2 * error**2
    assert float((ratios.mean(0) - 1).abs().mean()) < 2 * error


@pytest.mark.parametrize("size", [0.3, 0.1])
def test_where_the_logits_are_linear_the_estimate_is_what_happens(size):
    """Neurons of the last layer of a GPT-2 without its last norm, their consumer scaled down: third order is all that is missing."""
    masks = random_state("gpt2", remove=False, dtype=torch.float64, generates=True)
    masks.model.transformer.ln_f = nn.Identity()
    group = masks.anatomy.groups["decoder.layer.2.ffn.neuron"]
    with torch.no_grad():
        masks.model.get_submodule(group.site).weight.mul_(size)
    examples = language_examples(rows=5)
    menu = replace(read_menu(masks.anatomy, "neurons"), groups=(group,))
    means = estimated(masks, examples, list(examples.batches(5)), projections=400, menu=menu).means()
    chosen = [Candidate(component=component, kind="neuron", edit="remove") for component in group.components]
    exact = exact_sums(Trials(masks, chosen), examples, examples.batches(5)).means()
    first = means["loss_change"] - means["kl"]
    misses = [np.abs(each - exact["loss_change"]).mean() for each in (means["loss_change"], first)]
    assert misses[0] < size * misses[1] and misses[1] == pytest.approx(np.abs(exact["kl"]).mean(), rel=0.5)
    assert means["kl"].sum() / exact["kl"].sum() == pytest.approx(1, abs=0.1 + size / 2)


# Independence


def test_who_computes_what_when_does_not_matter(monkeypatch):
    """Shards of rows, and batches in another order, give the same numbers up to the order of a sum; another seed does not."""
    masks, examples = random_state("qwen3", generates=True), language_examples(rows=24)
    whole = price(masks, examples, batch_size=4, seed=3)
    again, other = (price(masks, examples, batch_size=4, seed=seed) for seed in (3, 4))
    monkeypatch.setattr(work_module, "_SHARD_ROWS", 4)
    parts = price(masks, examples, batch_size=4, seed=3)
    batches = list(examples.batches(4))
    backwards = estimated(masks, examples, batches[::-1], projections=4, seed=3).means()
    for name in ("loss_change", "kl", "logit_move"):
        assert np.array_equal(again.values[name], whole.values[name])
        assert np.allclose(parts.values[name], whole.values[name], rtol=1e-10, atol=1e-12)
        assert np.allclose(backwards[name], whole.values[name], rtol=1e-10, atol=1e-12)
        assert not np.allclose(other.values[name], whole.values[name], rtol=1e-3)
    assert whole.methods == ("gauss-newton-4",) * len(whole)


def test_every_row_has_signs_of_its_own():
    """Of eight equal rows in two batches no two estimates agree: their errors must not add up."""
    masks, one = random_state("gpt2", generates=True), language_examples(rows=8, longest=6)
    equal = {name: [values[3]] * 8 for name, values in one.inputs.items()}
    examples = row_slices(replace(one, inputs=equal))
    sums = estimated(masks, examples, list(examples.batches(4)), projections=2)
    squares = sums.totals["kl"][1:, 0]
    assert len(set(squares.tolist())) == 8 and float(squares.std() / squares.mean()) > 0.3
    first = (sums.totals["loss_change"] - sums.totals["kl"])[1:, 0]
    assert float(first.std() / first.abs().mean()) < 1e-4


def test_more_projections_begin_with_the_same_ones():
    """The first signs are the same whatever the number: only then does a larger number refine a smaller."""
    masks, examples = random_state("gpt2", generates=True), language_examples(rows=5)
    batches = list(examples.batches(5))
    one, two, three = (estimated(masks, examples, batches, projections=n).totals["kl"] for n in (1, 2, 3))
    assert (
        not torch.allclose(one, two, rtol=0.01)
        and (2 * two - one > -1e-6).all()
        and (3 * three - 2 * two > -1e-6).all()
    )


# Errors


def test_the_standard_error_is_the_spread_between_samples():
    """Of 16 disjoint samples of 24 documents, pooled over all edits; and half of it on four times as many."""
    masks, examples = random_state("gpt2", generates=True), language_examples(rows=384, longest=12)
    examples = replace(examples, token_slices={})
    menu = read_menu(masks.anatomy, "heads,linears:rank2")
    names = [f"sample={k}" for k in range(16)] + [f"four={k}" for k in range(4)]
    which = np.arange(384) % 16
    flags = [which == k for k in range(16)] + [which % 4 == k for k in range(4)]
    every = np.ones(384, dtype=bool)
    examples = replace(examples, slices={"all": every, **dict(zip(names, flags, strict=True))})
    prices = price(masks, examples, menu=menu, batch_size=64)
    means, error = prices.values["loss_change"], prices.standard_error
    spread = means[1:17].std(0, ddof=1)
    claimed = np.sqrt((error[1:17] ** 2).mean(0))
    assert 0.8 < np.median(spread / claimed) < 1.25
    assert np.median(error[17:].mean(0) / error[1:17].mean(0)) == pytest.approx(0.5, abs=0.08)
    miss = np.abs(means[1:17] - means[0]) / error[1:17]
    assert 0.88 < (miss < 1.96).mean() < 0.99


# The table


def test_a_language_model_has_counts_of_tokens_and_gaps_where_nothing_follows():
    """Flips and Brier do not follow from projections; of sublayers and layers they are observed."""
    masks, examples = random_state("llama", generates=True), language_examples()
    prices = price(masks, examples, menu=read_menu(masks.anatomy, "heads,linears:int8,layers"), batch_size=5)
    tokens = sum(len(row) - 1 for row in examples.inputs["input_ids"])
    assert prices.counts == tuple(examples.counts.values()) and prices.counts[0] == tokens
    whole = prices.kind_of == "layer"
    for name, values in prices.values.items():
        gaps = name in ("soft_kl", "flips_to_wrong", "flips_to_right", "brier_change")
        assert np.isnan(values[:, ~whole]).all() == gaps and not np.isnan(values[:, whole]).any()
    assert [method for method, is_whole in zip(prices.methods, whole, strict=True) if is_whole] == ["exact"] * 3
    assert (prices.values["kl"][0] > 0).all() and np.isfinite(prices.flow[prices.kind_of == "kv_group"]).all()


@pytest.mark.parametrize("labels", [2, 5])
def test_a_classifier_can_be_priced_by_projections_too(labels):
    """One decision a row: its first order is that of the linearised moves, its squares on average theirs."""
    masks, examples = random_state("bert", labels), tiny_examples("bert", labels=labels, rows=12)
    linear, estimate = price(masks, examples), price(masks, examples, projections=300)
    assert set(estimate.methods) == {"gauss-newton-300"}
    small = linear.values["kl"][0] < 1e-3
    ratio = estimate.values["kl"][0][small].sum() / linear.values["kl"][0][small].sum()
    assert small.sum() > 5 and ratio == pytest.approx(1, abs=0.2)
    assert np.corrcoef(estimate.loss_change(), linear.loss_change())[0, 1] > 0.95
