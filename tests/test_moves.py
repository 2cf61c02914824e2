"""Moves tell what edits do together, and the structured strategy listens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from compress_explain.editing.masks import Masks
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.plugins.strategy import Situation
from compress_explain.pricing import price
from compress_explain.pricing.moves import Sketch
from compress_explain.strategies import Structured
from tests.tiny import tiny_examples, tiny_model


def priced(labels=2, moves=1024, **options):
    examples = tiny_examples("bert", labels=labels)
    model = tiny_model("bert", labels=labels)
    masks = Masks(model, read_anatomy(model, 9))
    return masks, price(masks, examples, kinds=("head", "neuron"), moves=moves, batch_size=7, **options)


@pytest.mark.parametrize("labels", [2, 3, 24])
def test_half_the_squared_length_of_a_move_is_its_softened_divergence(labels):
    _, prices = priced(labels)
    assert np.allclose(np.square(prices.moves).sum(0) / 2, prices.values["soft_kl"][0], rtol=1e-3, atol=1e-9)


def test_moves_are_only_kept_when_they_are_asked_for_and_not_in_files(tmp_path):
    _, without = priced(moves=0)
    assert without.moves is None
    _, prices = priced()
    prices.save(tmp_path / "prices.parquet")
    assert type(prices).load(tmp_path / "prices.parquet").moves is None


def test_more_rows_than_numbers_leave_inner_products_what_they_are_on_average():
    """Over 400 draws the mean of an inner product in 24 numbers lies within four standard errors of the true one."""
    rng = np.random.default_rng(0)
    rows, moves = np.arange(300), torch.from_numpy(rng.normal(size=(300, 4, 3)))
    exact = torch.einsum("rac,rbc->ab", moves, moves)
    drawn = []
    for seed in range(400):
        totals, sketch = torch.zeros(24, 4, dtype=torch.float64), Sketch(numbers=24, rows=300, seed=seed)
        for part in np.array_split(rows, 5):
            sketch.add(totals, part, moves[part])
        drawn.append(totals.T @ totals)
    mean, error = torch.stack(drawn).mean(0), torch.stack(drawn).std(0) / 20
    assert ((mean - exact).abs() <= 4 * error).all()


def test_the_sketch_does_not_depend_on_how_rows_come():
    moves, rows = torch.randn(50, 2, 1, generator=torch.Generator().manual_seed(1)), np.arange(50)
    sketch = Sketch(numbers=16, rows=50)
    at_once, bit_by_bit = torch.zeros(16, 2), torch.zeros(16, 2)
    sketch.add(at_once, rows, moves)
    for part in (rows[30:], rows[:30]):
        sketch.add(bit_by_bit, part, moves[part])
    torch.testing.assert_close(at_once, bit_by_bit)


def planned(masks, prices):
    situation = Situation(anatomy=masks.anatomy, prices=prices, removed=masks.removed, round=0)
    plan = Structured(flops_kept=0.97, step=0.05, bite=1.0).plan(situation)
    return [edit.component for edit in plan]


def test_of_two_that_do_the_same_the_second_costs_more():
    """All neurons of the first layer cost alike; those of one half all move the same row, the others each its own."""
    masks, prices = priced()
    mine = [index for index, name in enumerate(prices.components) if "layer.0.ffn" in name]
    same, own = mine[: len(mine) // 2], mine[len(mine) // 2 :]
    moves = np.zeros((len(mine), len(prices)), dtype=np.float32)
    moves[0, same] = 1.0
    moves[np.arange(1, 1 + len(own)), own] = 1.0
    costs = np.full_like(prices.values["soft_kl"], 10.0)
    costs[:, mine] = 0.5
    alike = dataclasses.replace(prices, moves=moves, values={**prices.values, "soft_kl": costs})
    chosen = planned(masks, alike)
    assert len(chosen) > 6
    alone = planned(masks, dataclasses.replace(alike, moves=None))
    names = {prices.components[index] for index in own}
    assert sum(name in names for name in chosen) > sum(name in names for name in alone)
    assert sum(name not in names for name in chosen) <= 2


def test_without_moves_each_is_taken_for_itself():
    masks, prices = priced(moves=0)
    cost = dict(zip(prices.components, prices.values["soft_kl"][0] / prices.flops, strict=True))
    chosen = [cost[name] for name in planned(masks, prices)]
    assert chosen == sorted(chosen)


@pytest.mark.parametrize(
    ("options", "rounds"), [({"flops_kept": 0.25}, 13), ({"flops_kept": 0.4, "step": 0.5}, 1), ({"flops_kept": 1.0}, 1)]
)
def test_rounds_follow_from_how_much_is_to_go(options, rounds):
    assert Structured(**options).rounds == rounds


@pytest.mark.parametrize(
    "options",
    [{"flops_kept": 0.0}, {"flops_kept": 1.2}, {"flops_kept": 0.5, "step": 1.0}, {"flops_kept": 0.5, "bite": 0.0}],
)
def test_bad_values_are_refused(options):
    with pytest.raises(InputError, match=rf"structured\.{list(options)[-1]}"):
        Structured(**options)
