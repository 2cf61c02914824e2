"""Which components carry a slice: the same figures as pricing the slice and its complement apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from compress_explain.errors import InputError
from compress_explain.pricing import price, read_menu
from compress_explain.pricing.bearing import bearing
from tests.states import language_examples, random_state, sliced_examples
from tests.tiny import tiny_examples


@pytest.fixture(scope="module")
def prices():
    """Of the even rows and, as a slice of their own, the odd ones."""
    masks, examples = random_state("bert"), sliced_examples(rows=40)
    examples = replace(examples, slices=examples.slices | {"odd": ~examples.slices["even"]})
    return price(masks, examples, menu=read_menu(masks.anatomy, "heads,neurons,linears:int8,layers"))


def test_what_lies_outside_a_slice_is_priced_as_its_complement(prices):
    """Means, standard errors and shares of the decision, although no slice of the rest was declared."""
    table = bearing(prices, "even")
    kept = [index for index, edit in enumerate(prices.edits) if edit == "remove" and prices.kinds[index] != "layer"]
    assert table["component"].tolist() == [prices.components[index] for index in kept]
    for column, name in (("inside", "even"), ("outside", "odd")):
        row = prices.slices.index(name)
        assert np.allclose(table[column], prices.values["loss_change"][row, kept], atol=1e-6)
        assert np.allclose(table[f"{column}_se"], prices.standard_error[row, kept], rtol=1e-3, atol=1e-6)
        for kind in ("head", "neuron"):
            mine = (table["kind"] == kind).to_numpy()
            moves = prices.values["logit_move"][row, kept][mine]
            assert np.allclose(table[f"share_{column}"][mine], moves / moves.sum(), atol=1e-6)


def test_the_probabilities_are_corrected_within_their_kind(prices):
    """Holm by hand: the k-th smallest of m times m - k + 1, never falling."""
    table = bearing(prices, "even")
    z = (table["inside"] - table["outside"]) / np.hypot(table["inside_se"], table["outside_se"])
    for kind in ("head", "neuron"):
        mine = (table["kind"] == kind).to_numpy()
        raw = 2 * norm.sf(np.abs(z[mine]))
        order = np.argsort(raw)
        stepped = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)))
        assert np.allclose(table["p"][mine].to_numpy()[order], stepped)


def test_without_a_difference_few_components_are_called_different():
    """Of a slice of rows drawn at random, 12 times: in three of them at most is any neuron called different."""
    masks, false = random_state("bert", remove=False), 0
    slices = {f"draw={seed}": np.random.default_rng(seed).random(200) < 0.4 for seed in range(12)}
    prices = price(masks, tiny_examples("bert", rows=200, slices=slices), kinds=("neuron",))
    for name in slices:
        false += int((bearing(prices, name)["p"] < 0.05).any())
    assert false <= 3


@pytest.mark.parametrize("name", ["all", "evne"])
def test_what_is_no_slice_is_refused(prices, name):
    with pytest.raises(InputError, match=f"slice: '{name}'"):
        bearing(prices, name)


def test_a_slice_that_leaves_nothing_to_compare_with_is_refused():
    masks = random_state("bert")
    rows = np.arange(10)
    examples = tiny_examples("bert", rows=10, slices={"one": rows < 1, "most": rows > 0, "none": rows < 0})
    prices = price(masks, examples, kinds=("head",))
    for name, count in (("one", 1), ("most", 9), ("none", 0)):
        with pytest.raises(InputError, match=f"slice: '{name}': holds {count} of 10"):
            bearing(prices, name)


def test_what_lies_outside_a_slice_of_tokens_is_told_up_to_the_noise_of_the_projections():
    """Within one standard error of what the complement is priced at, with an error of the right size."""
    masks, examples = random_state("gpt2", generates=True), language_examples(rows=60)
    prices = price(masks, examples, menu=read_menu(masks.anatomy, "heads"), projections=64)
    table, late = bearing(prices, "early"), prices.slices.index("late")
    kept = [index for index, edit in enumerate(prices.edits) if edit == "remove"]
    miss = np.abs(table["outside"] - prices.values["loss_change"][late, kept])
    assert (miss < table["outside_se"]).all()
    ratio = table["outside_se"] / prices.standard_error[late, kept]
    assert ratio.between(0.5, 2).all()
