"""Budgets in parameters and in bytes are met as those in FLOPs are, and ranked by what they count."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from compress_explain.choosing.meters import Bytes, Flops, Parameters, Storage, taken
from compress_explain.editing.masks import Masks
from compress_explain.editing.surgery import materialize
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.embedding import TOKENS
from compress_explain.plugins.strategy import Paced, Situation, rounds_of
from compress_explain.pricing import price
from compress_explain.strategies import Heads, Neurons, Structured
from compress_explain.weight_edits import weight_edit
from tests.tiny import tiny_examples, tiny_model, uneven_removal

INT8 = Storage(edit=weight_edit("int8-dynamic"), table_bits=8)


@pytest.fixture(scope="module")
def masks():
    model = tiny_model("bert", labels=2)
    return Masks(model, read_anatomy(model, 9))


@pytest.fixture(scope="module")
def prices(masks):
    return price(masks, tiny_examples("bert", labels=2), batch_size=64)


def situation(masks, prices, **others):
    return Situation(anatomy=masks.anatomy, prices=prices, removed=masks.removed, round=0, **others)


def removed_by(masks, plan):
    return masks.removed_after([edit.component for edit in plan], [])


@pytest.mark.parametrize("storage", [Storage(), INT8])
@pytest.mark.parametrize(("unit", "kept"), [("parameters_kept", 0.9), ("bytes_kept", 0.92), ("bytes_kept", 0.35)])
def test_what_is_to_be_kept_is_kept_and_hardly_more(masks, prices, unit, kept, storage):
    strategy, now = Neurons(**{unit: kept}, rounds=1, floor=0.0), situation(masks, prices, storage=storage)
    meter = strategy.budget.meter(now)
    before = taken(meter, masks.removed, masks.anatomy)
    if kept == 0.35 and storage == Storage():
        with pytest.raises(InputError, match=r"budget: .* bytes.*out of reach"):
            strategy.plan(now)
        return
    after = taken(meter, removed_by(masks, strategy.plan(now)), masks.anatomy)
    largest = max(meter.of(group.name, 1) for group in masks.anatomy.of_kind("neuron"))
    assert kept * meter.original - largest < max(after, kept * meter.original) <= max(before, kept * meter.original)
    assert after <= kept * meter.original + largest


def test_parameters_are_those_of_the_smaller_model():
    model = tiny_model("bert", labels=2)
    anatomy = read_anatomy(model, 9)
    removed = uneven_removal(anatomy)
    smaller = materialize(model, anatomy, removed)
    assert taken(Parameters(anatomy), removed, anatomy) == smaller.num_parameters()
    assert taken(Bytes(anatomy, Storage()), removed, anatomy) == 4 * smaller.num_parameters()
    assert taken(Flops(anatomy), removed, anatomy) == anatomy.flops - anatomy.saved(removed)[1]


def test_bytes_are_those_that_the_weight_edit_stores(masks):
    anatomy = masks.anatomy
    linears = anatomy.linears.values()
    stored = sum(INT8.edit.bytes_of(each.outputs, each.inputs) for each in linears)
    numbers = sum(each.outputs * each.inputs for each in linears)
    table = anatomy.embedding.count * anatomy.embedding.parameters
    expected = stored + table + 4 * (anatomy.parameters - numbers - table)
    assert taken(Bytes(anatomy, INT8), masks.removed, anatomy) == pytest.approx(expected)


def test_tokens_that_are_gone_count(masks):
    anatomy = masks.anatomy
    gone = {**masks.removed, TOKENS: torch.arange(anatomy.embedding.count) < 20}
    row = anatomy.embedding.parameters
    for meter, each in ((Parameters(anatomy), row), (Bytes(anatomy, Storage()), 4 * row), (Bytes(anatomy, INT8), row)):
        assert taken(meter, masks.removed, anatomy) - taken(meter, gone, anatomy) == pytest.approx(20 * each)


def test_the_order_is_that_of_kl_for_each_unit_that_is_bought(masks, prices):
    """Where all cost alike, whatever saves most of what is counted goes first."""
    alike = dataclasses.replace(prices, values={name: np.ones_like(each) for name, each in prices.values.items()})
    for options in ({"flops_kept": 0.7}, {"parameters_kept": 0.8}, {"bytes_kept": 0.8}):
        strategy, now = Structured(**options, bite=1.0), situation(masks, alike, rounds=1)
        plan, meter = strategy.plan(now), strategy.budget.meter(now)
        most = max(masks.anatomy.groups.values(), key=lambda group: meter.of(group.name, 1))
        assert plan[0].kind == most.kind
        assert f"per {meter.unit};" in plan[0].reason


def test_what_is_dear_goes_later_than_its_size_alone_would_have_it(masks, prices):
    """A head is worth many neurons, and yet goes after them when it costs still more for each unit."""
    costs = np.where(prices.kind_of == "head", 1e3, 1.0)[None]
    dear = dataclasses.replace(prices, values={**prices.values, "soft_kl": costs})
    plan = Structured(parameters_kept=0.95, bite=1.0).plan(situation(masks, dear, rounds=1))
    assert {edit.kind for edit in plan} == {"neuron"}


def test_rounds_follow_from_what_can_go_of_the_model(masks, prices):
    """Half of the parameters may be a tenth of those at sites: far more rounds than half of the FLOPs takes."""
    now = situation(masks, prices)
    assert isinstance(Structured(parameters_kept=0.5), Paced) and not isinstance(Heads(share=0.5), Paced)
    assert rounds_of(Structured(flops_kept=0.5), now) == Structured(flops_kept=0.5).rounds == 7
    assert rounds_of(Structured(parameters_kept=0.7), now) > rounds_of(Structured(flops_kept=0.7), now)
    assert rounds_of(Heads(share=0.5, rounds=3), now) == 3


@pytest.mark.parametrize("strategy", [Heads, Neurons])
def test_bad_budgets_are_refused(strategy):
    for options, said in (
        ({"parameters_kept": 0.5, "bytes_kept": 0.5}, "exactly one target"),
        ({"share": 0.5, "bytes_kept": 0.5}, "exactly one target"),
        ({"parameters_kept": 0.0}, "parameters_kept"),
        ({"bytes_kept": 1.2}, "bytes_kept"),
    ):
        with pytest.raises(InputError, match=said):
            strategy(**options)
    with pytest.raises(InputError, match="exactly one target"):
        Structured(flops_kept=0.5, bytes_kept=0.5)


def test_a_budget_out_of_reach_is_refused_with_what_could_be_reached(masks, prices):
    with pytest.raises(InputError, match=r"budget: .*out of reach: [\d,]+ of [\d,]+ stay.*vocabulary"):
        Heads(parameters_kept=0.1).plan(situation(masks, prices))
    with pytest.raises(InputError, match="left to a target, and there is none"):
        Structured().plan(situation(masks, prices))
