"""An audit: which edits are drawn, what was expected of each beside what it does, and how well the two agree."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import linregress, norm, pearsonr, spearmanr

from compress_explain.errors import InputError
from compress_explain.pricing import Audit, AuditPlan, Refinement, Sample, audit, price, read_menu
from compress_explain.pricing.exact import Trials, exact_sums
from compress_explain.pricing.impact import IMPACTS
from compress_explain.pricing.linear import linearised
from compress_explain.pricing.menu import Candidate
from compress_explain.pricing.plain import plain_loss_change
from compress_explain.pricing.slopes import Slopes
from tests.states import language_examples, random_state, sliced_examples, traces
from tests.tiny import tiny_examples

MIXED = "heads,neurons,linears:int8,linears:rank2,sublayers,layers"


@pytest.fixture(scope="module")
def priced():
    """A thinned BERT with a price of every kind of edit, and its audit of some of them."""
    masks, examples = random_state("bert"), sliced_examples()
    prices = price(masks, examples, menu=read_menu(masks.anatomy, MIXED), refinement=Refinement(heads=1.0))
    sample = Sample(heads=8, neurons=10, linears=8, seed=1)
    return masks, examples, prices, audit(masks, examples, prices, sample, batch_size=24)


# The sample


def test_a_sample_takes_so_many_of_each_kind_and_all_where_nothing_is_said(priced):
    masks, _, prices, _ = priced
    chosen = Sample(heads=5, neurons=7, linears=0, layers=2).of(prices)
    kinds = [each.kind for each in chosen]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"head": 5, "neuron": 7, "sublayer": 6, "layer": 2}
    assert len(set(chosen)) == len(chosen)
    table = {(c, e): place for place, (c, e) in enumerate(zip(prices.components, prices.edits, strict=True))}
    for kind in set(kinds):
        places = [table[each.component, each.edit] for each in chosen if each.kind == kind]
        assert places == sorted(places), "as in the table"
        assert {prices.kinds[place] for place in places} == {kind}
    assert len(Sample(neurons=None).of(prices)) == len(prices)
    assert len(Sample(neurons=10**6).of(prices)) == len(prices)


def test_the_draw_is_that_of_its_seed(priced):
    _, _, prices, _ = priced
    draws = [Sample(neurons=9, seed=seed).of(prices) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    counted = np.zeros(len(prices))
    for seed in range(60):
        drawn = {
            each.component
            for each in Sample(heads=0, neurons=18, linears=0, sublayers=0, layers=0, seed=seed).of(prices)
        }
        counted += [component in drawn for component in prices.components]
    neurons = counted[prices.kind_of == "neuron"]  # 18 of 72 in each of 60 draws
    assert neurons.mean() == 15 and neurons.std() == pytest.approx((60 * 0.25 * 0.75) ** 0.5, rel=0.35)


def test_groups_of_keys_and_values_count_as_heads():
    masks = random_state("llama")
    prices = price(masks, tiny_examples("llama", rows=4))
    assert [each.kind for each in Sample(heads=2, neurons=0).of(prices)] == ["kv_group"] * 2


def test_to_audit_nothing_is_refused(priced):
    _, _, prices, _ = priced
    with pytest.raises(InputError, match="audit: .*nothing was chosen"):
        Sample(heads=0, neurons=0, linears=0, sublayers=0, layers=0).of(prices)


@pytest.mark.parametrize("options", [{"heads": -1}, {"neurons": -2}, {"rows": 1}])
def test_a_plan_of_an_audit_is_checked_when_it_is_made(options):
    with pytest.raises(InputError, match=rf"audit\.{next(iter(options))}"):
        AuditPlan(**options)
    assert AuditPlan(heads=0, neurons=0).empty and not AuditPlan().empty


# The table


def test_the_price_stands_beside_what_was_observed(priced):
    """Expected columns as in the price table, exact ones as single trials give them, for each slice."""
    masks, examples, prices, done = priced
    expected = prices.to_frame().set_index(["component", "edit", "slice"])
    chosen = Sample(heads=8, neurons=10, linears=8, seed=1).of(prices)
    sums = exact_sums(Trials(masks, chosen), examples, examples.batches(24), reuse=False)
    means, error = sums.means(), sums.standard_error()
    assert len(done.frame) == len(chosen) * len(prices.slices)
    frame = done.frame.set_index(["component", "edit", "slice"])
    assert frame[expected.columns].equals(expected.loc[frame.index])
    for column, each in enumerate(chosen):
        for place, name in enumerate(prices.slices):
            row = frame.loc[(each.component, each.edit, name)]
            assert [row[f"exact_{impact}"] for impact in IMPACTS] == [
                means[impact][place, column] for impact in IMPACTS
            ]
            assert row["exact_loss_change_se"] == error[place, column]


def test_what_is_priced_exactly_is_found_to_be_exact(priced):
    _, _, _, done = priced
    exact = done.frame[done.frame["method"] == "exact"]
    assert set(exact["kind"]) == {"sublayer", "layer"}
    for impact in IMPACTS:
        assert np.allclose(exact[f"expected_{impact}"], exact[f"exact_{impact}"], atol=1e-5)
    others = done.frame[done.frame["method"] != "exact"]
    assert (np.abs(others["expected_loss_change"] - others["exact_loss_change"]) > 1e-3).any()


def test_an_audit_comes_back_from_disk_as_it_was(priced, tmp_path):
    done = priced[3]
    facts = {"model": "m", "sample": {"heads": None}}
    Audit(frame=done.frame, facts=facts).save(tmp_path / "audit.parquet")
    loaded = Audit.load(tmp_path / "audit.parquet")
    pd.testing.assert_frame_equal(loaded.frame, done.frame, check_exact=True)
    assert loaded.facts == facts


def test_prices_of_other_examples_are_refused(priced):
    masks, _, prices, _ = priced
    for other in (sliced_examples(rows=23), tiny_examples("bert", rows=24)):
        with pytest.raises(InputError, match="prices: .*not of these"):
            audit(masks, other, prices, Sample(neurons=3))


@pytest.mark.parametrize("attached", [False, True])
def test_an_audit_leaves_the_model_as_it_was_and_tells_its_progress(attached):
    """Of a thinned model, whose components are switched under inference and differentiated afterwards."""
    masks, examples = random_state("gpt2"), tiny_examples("gpt2", rows=5)
    prices = price(masks, examples, menu=read_menu(masks.anatomy, "heads,layers"))
    assert prices.restores.any()
    if attached:
        masks.attach()
    before, told = traces(masks), []
    audit(masks, examples, prices, Sample(), advance=told.append)
    assert traces(masks) == before and sum(told) == 5 * len(prices)
    price(masks, examples, kinds=("head",))


def test_an_audit_of_a_language_model():
    masks, examples = random_state("qwen3", generates=True), language_examples(rows=8)
    prices = price(masks, examples, menu=read_menu(masks.anatomy, "heads,linears:int8,layers"))
    done = audit(masks, examples, prices, Sample(heads=6, linears=6))
    assert done.frame["linear_loss_change"].isna().all() and done.frame["exact_loss_change"].notna().all()
    assert set(done.frame["slice"]) == {"all", "even", "early", "late"}
    assert done.quality().set_index(["what", "slice"]).loc[("kv_group", "late"), "n"] == examples.counts["late"]


# Agreement


def made_up(kinds, edits=30, seed=0):
    """An audit with one slice beside ``all``, of numbers that agree more or less."""
    rng, rows = np.random.default_rng(seed), []
    for kind, edit in kinds:
        x = rng.normal(0, 1, edits)
        for name, n in (("all", 100), ("some", 40)):
            y = 0.6 * x + rng.normal(0, 0.5, edits)
            rows += [
                {"component": f"{kind}.{i}", "kind": kind, "edit": edit, "slice": name, "n": n, "method": "linear",
                 "expected_loss_change": x[i], "linear_loss_change": 2 * x[i] + i, "exact_loss_change": y[i],
                 "exact_loss_change_se": 0.1}
                for i in range(edits)
            ]  # fmt: skip
    return Audit(frame=pd.DataFrame(rows))


def test_the_quality_of_a_price_is_what_scipy_says():
    done = made_up([("head", "remove"), ("linear", "int8"), ("linear", "rank2")])
    quality = done.quality().set_index(["what", "slice"])
    assert [what for what, name in quality.index if name == "all"] == ["head", "linear int8", "linear rank2"]
    for (what, name), row in quality.iterrows():
        part = done.labelled[(done.labelled["what"] == what) & (done.labelled["slice"] == name)]
        x, y = part["expected_loss_change"], part["exact_loss_change"]
        assert row["spearman"] == pytest.approx(spearmanr(x, y).statistic)
        assert row["pearson"] == pytest.approx(pearsonr(x, y).statistic)
        assert row["slope"] == pytest.approx(linregress(x, y).slope)
        assert row["error"] == pytest.approx(np.mean(np.abs(x - y)))
        assert row["same_sign"] == np.mean((x > 0) == (y > 0))
        assert (row["edits"], row["n"]) == (30, 100 if name == "all" else 40)
    other = done.quality("linear_loss_change").set_index(["what", "slice"])
    part = done.frame[(done.frame["kind"] == "head") & (done.frame["slice"] == "all")]
    expected = spearmanr(part["linear_loss_change"], part["exact_loss_change"]).statistic
    assert other.loc[("head", "all"), "spearman"] == pytest.approx(expected)
    assert [row["what"] for row in done.summary()] == ["head", "linear int8", "linear rank2"]


def test_the_interval_of_a_rank_correlation_covers_it():
    """Of normal pairs with a known rank correlation, 95 of 100 intervals hold it."""
    r, hits = 0.8, 0
    truth = 6 / np.pi * np.arcsin(r / 2)
    rng = np.random.default_rng(0)
    for _ in range(400):
        x = rng.normal(size=40)
        frame = pd.DataFrame({"component": np.arange(40).astype(str), "kind": "head", "edit": "remove", "slice": "all", "n": 9,
                              "expected_loss_change": x,
                              "exact_loss_change": r * x + (1 - r**2) ** 0.5 * rng.normal(size=40)})  # fmt: skip
        (row,) = Audit(frame=frame).quality().to_dict("records")
        hits += row["low"] <= truth <= row["high"]
    assert abs(hits / 400 - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 400)
    half = norm.ppf(0.975) * np.sqrt((1 + row["spearman"] ** 2 / 2) / 37)
    assert np.arctanh(row["high"]) == pytest.approx(np.arctanh(row["spearman"]) + half, abs=1e-4)


def test_where_there_is_nothing_to_correlate_there_is_no_number():
    few = made_up([("layer", "remove")], edits=2)
    level = made_up([("head", "remove")], edits=6)
    level = Audit(frame=level.frame.assign(expected_loss_change=0.5))
    gaps = made_up([("head", "remove")], edits=6)
    gaps = Audit(frame=gaps.frame.assign(expected_loss_change=np.nan))
    for done, edits in ((few, 2), (level, 6), (gaps, 6)):
        row = done.quality().iloc[0]
        assert row["edits"] == edits and row[["spearman", "low", "high", "pearson", "slope"]].isna().all()
        assert done.summary()[0]["spearman"] is None and done.summary()[0]["edits"] == edits
    four = made_up([("head", "remove")], edits=4).quality().iloc[0]
    assert np.isfinite(four["spearman"]) and np.isnan(four["low"])


def test_the_worst_come_first():
    done = made_up([("head", "remove"), ("neuron", "remove")])
    for name in ("all", "some"):
        worst = done.worst(7, name)
        part = done.frame[done.frame["slice"] == name]
        miss = (part["exact_loss_change"] - part["expected_loss_change"]).abs().sort_values(ascending=False)
        assert worst["miss"].abs().tolist() == miss[:7].tolist()
        assert worst["component"].tolist() == part.loc[miss.index[:7], "component"].tolist()
        assert np.allclose(worst["miss"], worst["exact_loss_change"] - worst["expected_loss_change"])
    assert len(done.worst(1000)) == 60


# The bare linearisation


@pytest.mark.parametrize("labels", [2, 3, 20])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_bare_linearisation_of_heads_neurons_and_weight_edits_is_the_linear_price(family, labels):
    masks, examples = random_state(family, labels), sliced_examples(family, labels)
    prices = price(masks, examples, menu=read_menu(masks.anatomy, "heads,neurons,linears:int8,linears:rank2"))
    chosen = Sample(neurons=20).of(prices)[::-1]
    plain = plain_loss_change(masks, examples, chosen, 24).set_index(["component", "edit", "slice"])
    frame = prices.to_frame().set_index(["component", "edit", "slice"]).loc[plain.index]
    assert np.allclose(plain["linear_loss_change"], frame["expected_loss_change"], atol=2e-6)
    assert len(plain) == 5 * len(chosen)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "vit"])
def test_the_bare_linearisation_of_a_sublayer_is_that_of_a_multiplier_on_its_output(family):
    """Minus the derivative of every logit, turned into loss as ever; of a layer, the sum over its sublayers."""
    masks, examples = random_state(family), tiny_examples(family, rows=6)
    menu = read_menu(masks.anatomy, "sublayers,layers")
    plain = plain_loss_change(masks, examples, menu.wholes, 6).set_index("component")["linear_loss_change"]
    (batch,) = examples.batches(6)
    labels = torch.from_numpy(examples.labels[batch.rows])
    multipliers, hooks = {}, []
    for sublayer in masks.anatomy.sublayers.values():
        multiplier = multipliers[sublayer.name] = torch.ones(6, requires_grad=True)
        site = masks.model.get_submodule(masks.anatomy.groups[sublayer.groups[0]].site)
        hooks.append(site.register_forward_hook(lambda _, inputs, output, by=multiplier: output * by[:, None, None]))
    with masks:
        logits = masks.model(**batch.inputs).logits
    slopes = [torch.autograd.grad(one.sum(), list(multipliers.values()), retain_graph=True) for one in logits.unbind(1)]
    for hook in hooks:
        hook.remove()
    moves = {name: -torch.stack([slope[place] for slope in slopes], 1) for place, name in enumerate(multipliers)}
    for layer in masks.anatomy.layers.values():
        moves[layer.name] = sum(moves[name] for name in layer.sublayers)
    loss = torch.nn.functional.cross_entropy
    for name, move in moves.items():
        expected = float((loss(logits + move, labels) - loss(logits, labels)).detach())
        assert plain[name] == pytest.approx(expected, rel=1e-4, abs=1e-5), name
    assert plain.abs().max() > 0.01


def test_the_bare_linearisation_of_a_language_model_is_left_out():
    masks, examples = random_state("gpt2", generates=True), language_examples(rows=4)
    chosen = [Candidate(component="decoder.layer.0", kind="layer", edit="remove")]
    plain = plain_loss_change(masks, examples, chosen, 4)
    assert plain["linear_loss_change"].isna().all() and plain["slice"].tolist() == ["all", "even", "early", "late"]


def test_the_linear_price_is_kept_beside_a_better_one(priced):
    """Where a second phase priced heads, ``linear_loss_change`` is still what the first one said."""
    masks, examples, prices, done = priced
    (each,) = linearised(Slopes(masks, list(masks.anatomy.of_kind("head"))), examples, examples.batches(24))
    loss = torch.cat([impact["loss_change"] for impact in each.impacts()], 1).mean(0)
    names = [component for group in masks.anatomy.of_kind("head") for component in group.components]
    linear = dict(zip(names, loss.tolist(), strict=True))
    heads = done.frame[(done.frame["kind"] == "head") & (done.frame["slice"] == "all")].set_index("component")
    assert np.allclose(heads["linear_loss_change"], [linear[name] for name in heads.index], atol=2e-6)
    closer = (heads["expected_loss_change"] - heads["exact_loss_change"]).abs().mean()
    assert closer < (heads["linear_loss_change"] - heads["exact_loss_change"]).abs().mean()
