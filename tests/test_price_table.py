"""A price table: means over slices, every edit with its size, nothing left behind, and back from disk as it was."""

from __future__ import annotations

import gc
import inspect
import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

from compress_explain import cli
from compress_explain.errors import InputError
from compress_explain.pricing import Prices, Refinement, price, read_menu, refine
from compress_explain.pricing import work as work_module
from compress_explain.pricing.exact import Trials, exact_sums
from compress_explain.pricing.impact import IMPACTS, impact_of
from compress_explain.pricing.linear import linearised
from compress_explain.pricing.menu import Candidate
from compress_explain.pricing.refine import SecondPhase
from compress_explain.pricing.slopes import Slopes
from tests.states import language_examples, random_state, sliced_examples, traces
from tests.tiny import tiny_examples

MIXED = "heads,neurons,linears:int8,linears:rank2,sublayers,layers"


def observed(masks, examples, prices, columns):
    """Exact means of some columns of a price table."""
    chosen = [Candidate(component=prices.components[i], kind=prices.kinds[i], edit=prices.edits[i]) for i in columns]
    return exact_sums(Trials(masks, chosen), examples, examples.batches(8)).means()


# Adding up


@pytest.mark.parametrize("labels", [2, 3, 20])
def test_slices_are_groupby_means_of_the_examples(labels):
    masks, examples = random_state("bert", labels), sliced_examples(labels=labels)
    prices = price(masks, examples, batch_size=5)
    (each,) = linearised(Slopes(masks, list(masks.anatomy.groups.values())), examples, examples.batches(24))
    back = np.argsort(each.batch.rows)
    impact = {name: value[back] for name, value in impact_of(each.decision, torch.cat(list(each.moves()), 1)).items()}
    third = np.arange(24) % 3
    assert prices.slices == ("all", "third=0", "third=1", "third=2", "even")
    assert prices.counts == (24, 8, 8, 8, 12)
    for name in IMPACTS:
        table = pd.DataFrame(impact[name].double().numpy())
        assert np.allclose(prices.values[name][0], table.mean(), atol=2e-6), name
        assert np.allclose(prices.values[name][1:4], table.groupby(third).mean(), atol=2e-6), name
        assert np.allclose(prices.values[name][4], table[::2].mean(), atol=2e-6), name
    loss = pd.DataFrame(impact["loss_change"].double().numpy())
    assert np.allclose(prices.standard_error[0], loss.sem(), atol=2e-6)
    assert np.allclose(prices.standard_error[1:4], loss.groupby(third).sem(), atol=2e-6)


@pytest.mark.parametrize(
    ("family", "text"), [("bert", MIXED), ("vit", "neurons"), ("gpt2", "heads,linears:int8"), ("t5", "heads,neurons")]
)
def test_the_batch_size_does_not_matter(family, text):
    masks, examples = random_state(family), tiny_examples(family, rows=9)
    menu = read_menu(masks.anatomy, text)
    one, many = (price(masks, examples, menu=menu, batch_size=size, flow=True) for size in (2, 9))
    for name in IMPACTS:
        assert np.allclose(one.values[name], many.values[name], atol=3e-6), name
    assert np.allclose(one.flow, many.flow, atol=1e-6, equal_nan=True)


def test_shards_of_rows_do_not_matter(monkeypatch):
    masks, examples = random_state("bert"), sliced_examples(rows=15)
    menu = read_menu(masks.anatomy, MIXED)
    whole = price(masks, examples, menu=menu, batch_size=4)
    monkeypatch.setattr(work_module, "_SHARD_ROWS", 8)
    parts = price(masks, examples, menu=menu, batch_size=4)
    assert parts.counts == whole.counts
    assert all(np.allclose(parts.values[name], whole.values[name], rtol=1e-12, atol=1e-14) for name in IMPACTS)


def test_kinds_choose_what_is_priced():
    masks, examples = random_state("bert", 2), tiny_examples("bert", labels=2)
    everything, heads = price(masks, examples), price(masks, examples, kinds=("head", "kv_group"))
    chosen = [index for index, kind in enumerate(everything.kinds) if kind == "head"]
    assert heads.components == tuple(everything.components[index] for index in chosen)
    assert np.allclose(heads.loss_change(), everything.loss_change()[chosen], atol=1e-7)
    with pytest.raises(InputError, match="choose from head, neuron"):
        price(masks, examples, kinds=("kv_group",))


def test_every_component_has_its_size_and_direction():
    masks = random_state("llama", 2)
    prices = price(masks, tiny_examples("llama", labels=2))
    assert prices.components == tuple(name for group in masks.anatomy.groups.values() for name in group.components)
    back = [name for name, edit in zip(prices.components, prices.edits, strict=True) if edit == "restore"]
    assert back == masks.components and prices.restores.sum() == len(back)
    for index, component in enumerate(prices.components):
        group, _ = masks.anatomy.locate(component)
        sizes = (prices.kinds[index], prices.parameters[index], prices.flops[index], prices.bytes[index])
        assert sizes == (group.kind, group.parameters, group.flops, 4 * group.parameters)


@pytest.mark.parametrize("text", ["sublayers,layers", MIXED])
def test_sublayers_and_layers_are_priced_by_what_they_do(text):
    masks, examples = random_state("gpt2"), sliced_examples("gpt2")
    prices = price(masks, examples, menu=read_menu(masks.anatomy, text))
    wholes = [index for index, kind in enumerate(prices.kinds) if kind in ("sublayer", "layer")]
    assert {prices.methods[index] for index in wholes} == {"exact"} and len(wholes) == 9
    means = observed(masks, examples, prices, wholes)
    assert prices.counts == (24, 8, 8, 8, 12)
    assert all(np.allclose(prices.values[name][:, wholes], means[name], atol=3e-6) for name in IMPACTS)


def test_the_shares_of_the_decision_add_up_within_a_kind():
    masks, examples = random_state("bert", 2), sliced_examples(labels=2)
    prices = price(masks, examples)
    for kind in ("head", "neuron"):
        shares = prices.decision_shares(kind)
        assert np.allclose(shares.sum(1), 1)
        assert (shares[:, prices.kind_of != kind] == 0).all() and (shares[:, prices.kind_of == kind] > 0).any(1).all()


# The second phase


def one_slice_a_row(family, labels, rows=10):
    slices = {f"row={row}": np.arange(rows) == row for row in range(rows)}
    return tiny_examples(family, labels=labels, rows=rows, slices=slices)


CASES = [("bert", 2), ("bert", 20), ("gpt2", 3), ("llama", 2), ("t5", 3)]


@pytest.mark.parametrize(("family", "labels"), CASES)
def test_without_end_of_passes_every_refined_kind_is_exact(family, labels):
    """Heads, neurons and weight edits, removals and restorations, each row by itself."""
    masks, examples = random_state(family, labels), one_slice_a_row(family, labels, rows=4)
    menu = read_menu(masks.anatomy, "heads,neurons,linears:int8,linears:rank2")
    without_end = Refinement(heads=1e6, neurons=1e6, linears=1e6)
    prices = price(masks, examples, menu=menu, refinement=without_end)
    assert set(prices.methods) == {"two-phase"}
    columns = list(range(0, len(prices), 7))
    means = observed(masks, examples, prices, columns)
    for name in IMPACTS:
        if labels <= 16 or name in ("loss_change", "flips_to_right", "flips_to_wrong"):
            assert np.allclose(prices.values[name][:, columns], means[name], atol=1e-5), name


@pytest.mark.parametrize("nothing", [None, Refinement(heads=0, neurons=0, linears=0)])
def test_without_passes_a_price_is_the_plain_linearisation(nothing):
    masks, examples = random_state("bert"), one_slice_a_row("bert", 3)
    menu = read_menu(masks.anatomy, "heads,neurons,linears:int4,linears:rank2")
    prices = price(masks, examples, menu=menu, refinement=nothing)
    assert set(prices.methods) == {"linear"}
    slopes = Slopes(masks, menu.groups, menu.edits_of_linears)
    (each,) = linearised(slopes, examples, examples.batches(10))
    loss = torch.cat([impact["loss_change"] for impact in each.impacts()], 1)[np.argsort(each.batch.rows)]
    assert np.allclose(prices.values["loss_change"][1:], loss.numpy(), atol=2e-6)


@pytest.mark.parametrize(("family", "labels"), CASES)
def test_in_between_the_pairs_in_most_doubt_are_exact_and_all_others_linear(family, labels, monkeypatch):
    """Each row x head comes from exactly one of the two, but for what is corrected, for no more passes than were granted.

    Which: by doubt x move, as shares of the totals of the row's slices, here of all rows and of the row alone.
    """
    monkeypatch.setattr(refine, "bent", lambda logits, linear, known, exact, reach: known)
    masks, examples, passes = random_state(family, labels), one_slice_a_row(family, labels), 1.5
    heads, rows = next(kind for kind in masks.anatomy.kinds if kind != "neuron"), len(examples)
    mine = [index for index, kind in enumerate(price(masks, examples).kinds) if kind == heads]
    plain, some = price(masks, examples), price(masks, examples, refinement=Refinement(heads=passes))
    assert [some.methods[index] for index in mine] == ["two-phase"] * len(mine)
    others = [index for index in range(len(plain)) if index not in mine]
    assert np.array_equal(some.values["loss_change"][:, others], plain.values["loss_change"][:, others])
    linear, got = (each.values["loss_change"][1:, mine] for each in (plain, some))
    exact = observed(masks, examples, plain, mine)["loss_change"][1:]
    tell = np.abs(exact - linear) > 1e-4
    refined = np.abs(got - exact) < np.abs(got - linear)
    assert np.allclose(got, np.where(refined, exact, linear), atol=1e-5)
    assert (tell & refined).any() and (tell & ~refined).any()
    (each,) = linearised(Slopes(masks, list(masks.anatomy.of_kind(heads))), examples, examples.batches(rows))
    back = np.argsort(each.batch.rows)
    label = each.decision.logits.softmax(1).gather(1, each.decision.labels[:, None]).numpy()[back]
    move = plain.values["logit_move"][1:, mine]
    score = np.maximum(1 - label, 1 - label * np.exp(-linear)) * move  # doubt before or after the edit
    score = score / score.sum() + score / score.sum(1, keepdims=True)
    layers = list(masks.anatomy.layers)
    names = [masks.anatomy.locate(plain.components[index])[0].layer for index in mine]
    cost = np.tile([1 - layers.index(name) / len(layers) for name in names], (rows, 1))
    assert cost[refined & tell].sum() <= passes * rows + 1e-6
    assert score[refined & tell].min() >= score[~refined & tell].max() - 1e-5


def test_exactness_that_is_bought_is_nearer_to_the_truth():
    masks, examples = random_state("bert", remove=False), one_slice_a_row("bert", 3, rows=16)
    errors = []
    for passes in (0.0, 1.0, 3.0, 1e6):
        prices = price(masks, examples, kinds=("head",), refinement=Refinement(heads=passes))
        exact = observed(masks, examples, prices, range(len(prices)))["loss_change"]
        errors.append(np.abs(prices.values["loss_change"][0] - exact[0]).mean())
    assert errors[0] > errors[1] > errors[2] > errors[3] and errors[3] < 1e-5
    assert errors[2] < errors[0] / 2


@pytest.mark.parametrize("name", ["heads", "neurons", "linears"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_what_is_no_number_of_passes_is_refused(name, value):
    with pytest.raises(InputError, match=f"exact {name}"):
        Refinement(**{name: value})


# Other formats of numbers


@pytest.mark.parametrize(("family", "generates"), [("bert", False), ("qwen3", False), ("gpt2", True)])
def test_a_model_in_bfloat16_is_priced_and_observed_in_single_precision(family, generates):
    """Beside the same rounded weights in float32; of each impact the largest error is some percent of the largest value."""
    examples = language_examples() if generates else tiny_examples(family, rows=12)
    low = random_state(family, dtype=torch.bfloat16, generates=generates)
    wide = random_state(family, dtype=torch.bfloat16, generates=generates)
    wide.model.float()
    tables, means = [], []
    for masks in (wide, low):
        menu = read_menu(masks.anatomy, MIXED)
        tables.append(price(masks, examples, menu=menu, flow=True, refinement=Refinement(heads=1.0)))
        means.append(observed(masks, examples, tables[-1], range(0, len(tables[-1]), 5)))
    share = 0.1 if generates else 0.05  # a random projection is squared, and its rounding with it
    for name in ("loss_change", "kl", "logit_move"):
        assert_close(tables[1].values[name], tables[0].values[name], share)
        assert_close(means[1][name], means[0][name], 0.05)
    grouped = np.isfinite(tables[0].flow)
    assert_close(tables[1].flow[grouped], tables[0].flow[grouped], 0.05)
    assert low.model.dtype == torch.bfloat16


def assert_close(low, wide, share):
    assert np.isfinite(low).all() and np.abs(low - wide).max() < share * np.abs(wide).max()
    assert np.corrcoef(low.ravel(), wide.ravel())[0, 1] > 0.99


# Afterwards


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("failing", [False, True])
def test_pricing_leaves_the_model_and_the_masks_as_they_were(attached, failing):
    """Also when it is stopped in the middle of the first batch, or in the second phase."""
    masks, examples = random_state("bert", 2), tiny_examples("bert", labels=2, rows=4)
    masks.model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    if attached:
        masks.attach()
    calls = []
    fuse = masks.model.classifier.register_forward_hook(
        lambda *_: calls.append(1) or _blow(failing and len(calls) == 3)
    )
    before = traces(masks)
    for batch_size in (2, 4):  # the third pass is a first phase's or a second phase's
        calls.clear()
        menu, refinement = read_menu(masks.anatomy, MIXED), Refinement(heads=1.0)
        if failing:
            with pytest.raises(ZeroDivisionError):
                price(masks, examples, menu=menu, batch_size=batch_size, refinement=refinement)
        else:
            price(masks, examples, menu=menu, batch_size=batch_size, refinement=refinement)
        assert traces(masks) == before
    fuse.remove()


def _blow(now):
    return 1 // (not now) and None


@pytest.mark.parametrize("generates", [False, True], ids=["classifier", "language"])
def test_memory_does_not_grow_with_the_number_of_examples(generates, monkeypatch):
    """The most tensor elements alive after any batch: the same for 16 times as many batches and shards."""
    monkeypatch.setattr(work_module, "_SHARD_ROWS", 8)
    peaks = {rows: _most_alive(rows, generates) for rows in (16, 256)}
    assert 0 < peaks[256] <= peaks[16] * 1.25


def test_the_second_phase_lets_go_of_every_batch(monkeypatch):
    """What it keeps of a batch is large; it must go at once, not when Python next looks for cycles."""
    monkeypatch.setattr(work_module, "_SHARD_ROWS", 8)
    gc.collect()
    gc.disable()
    try:
        peaks = {rows: _most_alive(rows, False, Refinement(heads=1.0)) for rows in (16, 32)}
    finally:
        gc.enable()
    assert 0 < peaks[32] <= peaks[16] * 1.2


def _most_alive(rows, generates, refinement=None):
    """In a batch of the second shard or of the last one."""
    masks = random_state("gpt2", generates=generates)
    examples = language_examples(rows=rows) if generates else tiny_examples("gpt2", rows=rows)
    cut = {name: [row[:2] for row in each] for name, each in examples.inputs.items()}
    examples = replace(examples, inputs=cut, token_slices={})
    before, seen = _live_elements(), []

    def look(_):
        seen.append(_live_elements() if len(seen) in (1, rows // 8 - 1) else 0)

    price(masks, examples, kinds=("head",), batch_size=8, refinement=refinement, advance=look)
    assert len(seen) == rows // 8
    return max(seen) - before


def _live_elements():
    tensors = {id(each): each.numel() for each in gc.get_objects() if issubclass(type(each), torch.Tensor)}
    return sum(tensors.values())


# On disk


def test_prices_come_back_from_disk_to_the_last_bit(tmp_path):
    """All kinds of edits at once, restorations among them, with flow (and its gaps) and facts."""
    masks, examples = random_state("bert"), sliced_examples()
    menu = read_menu(masks.anatomy, MIXED)
    prices = price(masks, examples, menu=menu, flow=True, refinement=Refinement(heads=1.0))
    prices = replace(prices, facts={"model": "m", "rules": [{"name": "é"}], "rows": None, "share": 0.1})
    prices.save(tmp_path / "prices.parquet")
    loaded = Prices.load(tmp_path / "prices.parquet")
    for field in ("components", "kinds", "edits", "slices", "counts", "methods", "facts"):
        assert getattr(loaded, field) == getattr(prices, field), field
    for field in ("restores", "parameters", "flops", "bytes", "standard_error", "flow"):
        assert np.array_equal(getattr(loaded, field), getattr(prices, field), equal_nan=field == "flow"), field
    assert all(np.array_equal(loaded.values[name], prices.values[name]) for name in IMPACTS)
    assert {"remove", "restore", "int8", "rank2"} == set(loaded.edits) and np.isnan(loaded.flow).any()


def test_the_prices_of_a_language_model_come_back_with_their_gaps(tmp_path):
    masks, examples = random_state("gpt2", generates=True), language_examples()
    prices = price(masks, examples, menu=read_menu(masks.anatomy, "heads,layers"))
    prices.save(tmp_path / "prices.parquet")
    loaded = Prices.load(tmp_path / "prices.parquet")
    assert loaded.slices == ("all", "even", "early", "late") and loaded.counts == prices.counts
    for name in IMPACTS:
        assert np.array_equal(loaded.values[name], prices.values[name], equal_nan=True), name
    assert np.isnan(loaded.values["flips_to_wrong"]).any() and not np.isnan(loaded.values["loss_change"]).any()


COLUMNS = [
    "component", "kind", "edit", "slice", "n", "parameters_saved", "flops_saved", "bytes_saved",
    "expected_loss_change_se", "expected_loss_change", "expected_kl", "expected_soft_kl", "expected_flips_to_wrong",
    "expected_flips_to_right", "expected_brier_change", "expected_logit_move", "gradient_flow", "method",
]  # fmt: skip


def test_the_table_is_long_and_its_columns_are_the_documented_ones(tmp_path):
    """One row an edit x slice; what a restoration costs is negative; the file is an ordinary Parquet table."""
    masks, examples = random_state("bert"), sliced_examples()
    prices = price(masks, examples, menu=read_menu(masks.anatomy, MIXED))
    frame = prices.to_frame()
    assert list(frame.columns) == COLUMNS and len(frame) == 5 * len(prices)
    assert frame["slice"].unique().tolist() == list(prices.slices)
    assert frame.groupby("slice", sort=False)["n"].first().tolist() == list(prices.counts)
    assert not frame.duplicated(["component", "edit", "slice"]).any()
    restored = frame["edit"] == "restore"
    assert (frame[restored]["parameters_saved"] < 0).all() and (frame[~restored]["bytes_saved"] > 0).all()
    prices.save(tmp_path / "prices.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "prices.parquet"), frame)
    json.dumps(frame.iloc[0].to_dict(), default=str)


def test_what_depends_on_the_whole_batch_is_left_to_the_first_phase():
    """Tried on some rows only, int8-dynamic would see another range of activations."""
    masks = random_state("bert", 2, remove=False)
    examples = sliced_examples(labels=2)
    menu = read_menu(masks.anatomy, "linears:int8-dynamic,linears:int4")
    plain = price(masks, examples, menu=menu)
    refined = price(masks, examples, menu=menu, refinement=Refinement(linears=5.0))
    dynamic = np.array([edit == "int8-dynamic" for edit in plain.edits])
    assert np.array_equal(plain.values["loss_change"][:, dynamic], refined.values["loss_change"][:, dynamic])
    assert not np.allclose(
        plain.values["loss_change"][:, ~dynamic], refined.values["loss_change"][:, ~dynamic], atol=1e-9
    )


def test_the_command_line_grants_what_a_refinement_does():
    asked = inspect.signature(cli.price).parameters
    assert {name: asked[f"exact_{name}"].default for name in ("heads", "neurons", "linears")} == asdict(Refinement())


def test_exactness_is_bought_within_what_was_granted(monkeypatch):
    """Tokens that are run again, the pass that keeps what is reused included, against the passes that were granted."""
    masks, examples = random_state("bert", 2), sliced_examples("bert", 2)
    chosen = {}
    real = SecondPhase._choose
    monkeypatch.setattr(SecondPhase, "_choose", lambda self, *given: chosen.setdefault("pairs", real(self, *given)))
    price(masks, examples, kinds=("head",), refinement=Refinement(heads=1.5, linears=0))
    layers = list(masks.anatomy.layers)
    groups = list(masks.anatomy.of_kind("head"))
    rows = torch.cat(list(chosen["pairs"].values()), 1).any(1).float()
    lengths = torch.tensor(-np.sort(-examples.lengths)).float()
    spent = float((rows * lengths).sum())
    for index, flags in chosen["pairs"].items():
        depth = next(place for place, layer in enumerate(layers) if groups[index].name.startswith(layer + "."))
        spent += float((flags.sum(1) * lengths).sum()) * (1 - depth / len(layers))
    assert 1.2 * lengths.sum() < spent <= 1.5 * lengths.sum()
