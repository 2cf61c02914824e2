"""Shares of the change add up, and undoing what is blamed for an answer does what is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from compress_explain import Gate, InputError, Reinstatement, Splits, Subject, compress
from compress_explain.comparison.decided import decide_all
from compress_explain.comparison.predictions import logits_of
from compress_explain.comparison.shapley import left_out, shapley
from compress_explain.editing.masks import Masks
from compress_explain.editing.undoing import restored, unfitted
from compress_explain.evaluators import Quality
from compress_explain.model.anatomy import read_anatomy
from compress_explain.pricing import AuditPlan
from compress_explain.running.options import Attribution
from compress_explain.strategies import Heads, Int8Dynamic, Neurons
from tests.small_job import loaded_small_job, tiny_tokenizer
from tests.trained import reviews, trained_model


def game(players: int, seed: int):
    """A value for every coalition, of two figures of three rows."""
    drawn: dict[frozenset[int], np.ndarray] = {}
    generator = np.random.default_rng(seed)

    def value(who: frozenset[int]) -> np.ndarray:
        if who not in drawn:
            drawn[who] = generator.normal(size=(2, 3))
        return drawn[who]

    return value


@pytest.mark.parametrize("players", [1, 2, 5])
def test_shapley_shares_add_up_and_are_the_mean_over_orders(players):
    value = game(players, seed=players)
    shares = shapley(value, players)
    assert np.allclose(shares.sum(0), value(frozenset(range(players))) - value(frozenset()))
    from itertools import permutations

    expected = np.zeros_like(shares)
    orders = list(permutations(range(players)))
    for order in orders:
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            expected[player] += (value(before | {player}) - value(before)) / len(orders)
    assert np.allclose(shares, expected)


def test_a_player_who_adds_nothing_has_no_share():
    def value(who: frozenset[int]) -> np.ndarray:
        return np.array(float(len(who - {2})) ** 2)

    assert shapley(value, 3).tolist() == [2.0, 2.0, 0.0]
    assert left_out(value, 3).tolist() == [3.0, 3.0, 0.0]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return loaded_small_job(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """So much is taken that answers go wrong, and nothing is refitted."""
    subject = Subject(
        model=trained_model(),
        processor=tiny_tokenizer(),
        task="text-classification",
        source="reviews",
        digest="trained",
    )
    splits = Splits(calibration=reviews(200, 2), validation=reviews(160, 3, "validation"), test=reviews(160, 4, "test"))
    return compress(
        subject, splits, strategies=[Heads(share=0.75, rounds=1, floor=0.0), Neurons(share=0.95, rounds=1, floor=0.0), Int8Dynamic()], evaluators=[Quality()],
        gates=[Gate(metric="nll", max_rise=9.0, rule="point")], compensation=None,
        reinstatement=Reinstatement(max_rounds=0), audit=AuditPlan(heads=0, neurons=0), attribution=Attribution(rows=160),
        out=tmp_path_factory.mktemp("run") / "out",
    )  # fmt: skip


def test_every_table_adds_up_to_the_whole_change(run):
    shares = pd.read_parquet(run.folder / "tables" / "attribution.parquet")
    assert set(shares["by"]) == {"step", "layer", "kind"}
    for _, table in shares.groupby(["by", "figure"]):
        lines, total = table[table["name"] != "total"], table[table["name"] == "total"]
        assert lines["change"].sum() == pytest.approx(float(total["change"].iloc[0]), abs=1e-5)
        assert ((table["low"] < table["high"]) & (table["n"] == 160)).all()
    steps = shares[(shares["by"] == "step") & (shares["figure"] == "nll")]["name"].tolist()
    assert steps[0] == "1-heads-1" and "3-int8dynamic-1" in steps and "deployed" in steps
    kinds = set(shares[shares["by"] == "kind"]["name"])
    assert {"head", "neuron", "linear quantized", "interaction"} <= kinds


def test_the_whole_change_is_that_of_the_deployed_file(run):
    from compress_explain import Pairs

    pairs = Pairs.load(run.folder / "predictions" / "deployed-validation.parquet")
    shares = pd.read_parquet(run.folder / "tables" / "attribution.parquet")
    total = shares[(shares["by"] == "step") & (shares["name"] == "total")].set_index("figure")["change"]
    assert total["accuracy"] == pytest.approx(pairs.compressed_right.mean() - pairs.original_right.mean())


def test_answers_that_went_wrong_are_traced_to_edits(run):
    blame, record = pd.read_parquet(run.folder / "tables" / "blame.parquet"), run.ledger.of_kind("blamed")[0].body
    assert record["explained"] == min(record["turned"], 48) == blame["row"].nunique() > 0
    assert (blame["margin"] < 0).all() and record["rank_correlation"] > 0.5
    assert {"decoder.layer.0.attention.head", "decoder.layer.0.ffn.neuron"} <= set(blame["group"])
    assert (blame["back"] == (blame["margin"] + blame["observed"] > 0)).all()
    page = (run.folder / "report.html").read_text()
    assert "Whose doing it was" in page and "Which edits turned answers" in page


def test_undoing_for_a_moment_leaves_everything_as_it_was(inputs):
    _, subject, splits = inputs
    anatomy = read_anatomy(subject.model, 12)
    rows = splits.validation.draw(16, 0)
    with Masks(subject.model, anatomy) as masks, torch.inference_mode():
        original = decide_all(logits_of(subject.model), rows).logits
        first, second = anatomy.groups["encoder.layer.0.attention.head"].components[:2]
        linear = next(iter(anatomy.linears))
        masks.remove([first, second])
        masks.quantize({linear: "int8"})
        before = decide_all(logits_of(subject.model), rows).logits
        with restored(masks, [first, second, linear]):
            assert np.array_equal(decide_all(logits_of(subject.model), rows).logits, original)
        with unfitted(masks), restored(masks, [second]):
            assert masks.components == [first]
        assert np.array_equal(decide_all(logits_of(subject.model), rows).logits, before)
        assert masks.quantized == {linear: "int8"}


def test_negative_amounts_are_refused():
    with pytest.raises(InputError, match="attribution.rows"):
        Attribution(rows=-1)


def test_nothing_is_attributed_when_nobody_asks(inputs, tmp_path):
    _, subject, splits = inputs
    run = compress(
        subject, splits, strategies=[Heads(share=0.9)], evaluators=[Quality()], gates=[Gate(metric="nll", max_rise=9.0)],
        compensation=None, audit=AuditPlan(heads=0, neurons=0), attribution=Attribution(rows=0, flips=0), out=tmp_path / "out",
    )  # fmt: skip
    assert not run.ledger.of_kind("attributed") and not run.ledger.of_kind("blamed")
    assert "Whose doing it was" not in (run.folder / "report.html").read_text()
