"""Figures that say whether a signal is there: exact where there is a reference, and never fooled by what is not there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from compress_explain.comparison.gates import check_gates
from compress_explain.errors import InputError
from compress_explain.evaluators.signals import Signals, debiased_cka, exclusive_catches, partial_spearman
from compress_explain.signals.probing.asked import Asked
from compress_explain.signals.probing.partial import resampled_partial_spearman
from compress_explain.signals.probing.parts import parts_of
from compress_explain.signals.probing.probes import area, fit_probe, resampled_area
from compress_explain.signals.probing.probing import Held, Probing, probe_all
from compress_explain.signals.probing.quality import GIVEN_CONFIDENCE, GIVEN_OUTPUT, quality_of
from compress_explain.signals.probing.reading_off import read_off
from compress_explain.signals.probing.resampling import Draws
from compress_explain.signals.similarity.cka import cka_interval, cka_map
from compress_explain.signals.stream.layers import beside, layers_of, passing
from compress_explain.signals.stream.nothing import without_knowledge
from compress_explain.signals.stream.states import States, read_states, where_read
from tests.softmax_world import drawn_from_itself, found_in_it
from tests.tiny import tiny_examples, tiny_model


def related(n=300, seed=0):
    rng = np.random.default_rng(seed)
    known = [rng.normal(size=n) for _ in range(3)]
    x = known[0] + rng.normal(size=n)
    return x, known[0] + known[1] + 0.3 * x + rng.normal(size=n), known


def test_the_partial_correlation_is_that_of_the_precision_matrix():
    x, y, known = related()
    ranks = np.column_stack([rankdata(each) for each in (x, y, *known)])
    precision = np.linalg.inv(np.corrcoef(ranks.T))
    wanted = -precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1])
    assert partial_spearman(x, y, known) == pytest.approx(wanted, abs=1e-12)
    assert partial_spearman(x, y, []) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_resampled_partial_correlations_are_those_of_the_resamples():
    x, y, known = related()
    x = np.round(x, 1)  # ties
    counts = np.random.default_rng(1).multinomial(300, np.full(300, 1 / 300), size=4)
    wanted = [
        partial_spearman(*(np.repeat(each, times) for each in (x, y)), [np.repeat(each, times) for each in known])
        for times in counts
    ]
    np.testing.assert_allclose(resampled_partial_spearman([x, y, *known], counts), wanted, atol=1e-12)


def test_independent_covariates_leave_the_correlation_and_the_score_itself_leaves_nothing():
    x, y, known = related(2000)
    alone = np.random.default_rng(2).normal(size=2000)
    assert partial_spearman(x, y, [alone]) == pytest.approx(partial_spearman(x, y, []), abs=0.01)
    assert np.isnan(partial_spearman(x, y, [np.exp(x)]))


def direct_cka(x, y):
    """The unbiased estimator as it is written down, with a row and a column an example."""
    n, ones = len(x), np.ones(len(x))

    def hsic(k, m):
        return (
            np.trace(k @ m)
            + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (ones @ k @ m @ ones)
        ) / (n * (n - 3))

    kernels = [each @ each.T * (1 - np.eye(n)) for each in (x, y)]
    return hsic(*kernels) / np.sqrt(hsic(kernels[0], kernels[0]) * hsic(kernels[1], kernels[1]))


@pytest.mark.parametrize("shape", [(60, 5), (60, 200)])
def test_cka_is_that_of_the_definition(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    y = x @ rng.normal(size=(shape[1], 7)) + rng.normal(size=(60, 7))
    assert debiased_cka(x, y) == pytest.approx(direct_cka(x, y), abs=1e-8)
    assert debiased_cka(x + 50, 3 * y) == pytest.approx(direct_cka(x, y), abs=1e-8)
    assert cka_map(x[:, None], y[:, None])[0, 0] == pytest.approx(debiased_cka(x, y), abs=1e-12)


def test_cka_of_unrelated_features_is_nothing_however_many_they_are():
    rng = np.random.default_rng(0)
    told = [debiased_cka(rng.normal(size=(80, 400)), rng.normal(size=(80, 400))) for _ in range(10)]
    assert abs(np.mean(told)) < 0.02  # the estimator that is not debiased says .83


def test_the_interval_of_cka_covers_what_more_examples_say():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(10, 10))

    def drawn(n):
        x = rng.normal(size=(n, 10))
        return x, x @ mixing + 2 * rng.normal(size=(n, 10))

    truth = debiased_cka(*drawn(40_000))
    held = [low <= truth <= high for low, high in (cka_interval(*drawn(150), 0.9, seed) for seed in range(100))]
    assert np.mean(held) >= 0.82


def test_exactly_as_many_are_flagged_however_many_are_tied():
    wrong = np.ones(50, dtype=bool)
    for rate in (0.05, 0.1, 0.2, 0.58):
        both, only_score, only_confidence, chance = exclusive_catches(np.zeros(50), np.ones(50), wrong, rate)
        assert both + only_score == both + only_confidence == int(rate * 50 + 1e-9)
        assert chance == pytest.approx(50 * (1 - int(rate * 50 + 1e-9) / 50) * int(rate * 50 + 1e-9) / 50)


def test_a_score_drawn_by_lot_catches_what_chance_says():
    rng = np.random.default_rng(0)
    told = []
    for _ in range(200):
        confidence = rng.random(400)
        told.append(exclusive_catches(rng.random(400), confidence, rng.random(400) > confidence, 0.2)[1::2])
    caught, expected = np.mean(told, 0)
    assert caught == pytest.approx(expected, rel=0.05)


def test_areas_are_those_of_scikit_learn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    answers = rng.integers(0, 3, 200)
    scores = np.round(rng.normal(size=(200, 3)) + np.eye(3)[answers], 1)
    each = [roc_auc_score(answers == index, scores[:, index]) for index in range(3)]
    assert area(scores, answers) == pytest.approx(np.mean(each), abs=1e-12)
    counts = rng.multinomial(200, np.full(200, 1 / 200), size=3)
    resampled = [area(np.repeat(scores, times, 0), np.repeat(answers, times)) for times in counts]
    np.testing.assert_allclose(resampled_area(scores, answers, counts), resampled, atol=1e-12)


def test_a_probe_does_not_mind_how_large_states_are():
    rng = np.random.default_rng(0)
    states, answers = rng.normal(size=(200, 8)), rng.integers(0, 2, 200)
    plain, larger = (fit_probe(each, answers, 0.03) for each in (states, 1000 * states + 5))
    assert plain.converged and larger.converged
    np.testing.assert_allclose(plain.scores(states), larger.scores(1000 * states + 5), atol=1e-3)


@pytest.mark.parametrize("to_learn", [0, 120])
def test_no_row_is_reported_by_a_probe_or_at_a_layer_that_has_seen_it(to_learn):
    rows = np.repeat(np.arange(100), 3)
    for part in parts_of(rows, to_learn, seed=0):
        held = [set(rows[each]) for each in (part.fit, part.choose, part.report)]
        assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    reported = np.concatenate([part.report for part in parts_of(rows, to_learn, seed=0)])
    assert sorted(reported) == list(range(to_learn, 300))


def noise(n, width, answers, seed=0, carried=0.0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 2, width))
    values[:, 1, 0] += carried * answers
    loss = rng.exponential(size=n)
    return States(
        depths=("embedding", "layer.0"), many=True, values=values.astype(np.float32), loss=loss, confidence=rng.random(n),
        entropy=rng.random(n), guesses=answers, wrong=rng.random(n) < 0.3, rows=np.arange(n),
    )  # fmt: skip


def test_what_is_not_there_is_not_read_off_and_what_is_there_is():
    answers = np.random.default_rng(1).integers(0, 2, 2000)
    states = noise(2000, 16, answers, carried=2.0)
    draws = Draws.of(parts_of(states.rows, 0, 0), states.rows, 100, 0)
    read = read_off(states, Asked(signal="x", answers=answers), draws, 0.03)
    assert abs(read.at(0).value - 0.5) < 0.03 < read.at(1).value - 0.85
    assert (read.best == 1).all()
    shuffled = read_off(states, Asked(signal="x", answers=answers), draws, 0.03, shuffled=0)
    assert abs(shuffled.at(1).value - 0.5) < 0.1


def test_shuffled_targets_have_no_correlation_with_the_loss():
    states = drawn_from_itself(8000, seed=0)
    draws = Draws.of(parts_of(states.rows, 5000, 0), states.rows, 50, 0)
    told = [
        quality_of(states, states, draws, 0.03, figures=(GIVEN_CONFIDENCE,), shuffled=seed)
        .readings[GIVEN_CONFIDENCE]
        .at(1)
        .value
        for seed in range(10)
    ]
    assert abs(np.mean(told)) <= 0.05


@pytest.mark.parametrize(("classes", "worlds"), [(50, 2), (5, 1)])
def test_where_nothing_is_hidden_only_the_naive_statistic_finds_something(classes, worlds):
    told = [found_in_it(seed, 8000, 5000, 100, 0.95, classes) for seed in range(worlds)]
    assert all(each[GIVEN_CONFIDENCE][1] > 0.05 for each in told)
    assert all(abs(each[GIVEN_OUTPUT][0]) < 0.07 for each in told)


@pytest.mark.exhaustive
@pytest.mark.parametrize("classes", [50, 5])
def test_where_nothing_is_hidden_the_strictest_interval_holds_nothing(classes):
    """Seven minutes."""
    told = [found_in_it(seed, 8000, 5000, 300, 0.95, classes) for seed in range(200)]
    holds = {figure: np.mean([each[figure][1] <= 0 <= each[figure][2] for each in told]) for figure in told[0]}
    print(holds)
    assert holds[GIVEN_OUTPUT] >= 0.93 > 0.05 > holds[GIVEN_CONFIDENCE]


def a_classifier(n: int, to_learn: int, seed: int) -> States:
    """A classifier with two classes: a coordinate before its last layer says, as its answer does not, which decisions are wrong.

    It is right about all rows that it was trained on, the first ``to_learn``.
    """
    rng = np.random.default_rng(seed)
    wrong = (rng.random(n) < 0.15) & (np.arange(n) >= to_learn)
    margin = np.abs(rng.normal(size=n)) * 2 + 0.1
    values = rng.normal(size=(n, 2, 8))
    values[:, 0, 0] += 2.0 * wrong
    values[:, 1, 0] = margin
    share = 1 / (1 + np.exp(-margin))
    return States(
        depths=("layer.0", "layer.1"), many=False, values=values.astype(np.float32), loss=-np.log(np.where(wrong, 1 - share, share)),
        confidence=margin, entropy=-share * np.log(share) - (1 - share) * np.log(1 - share), guesses=rng.integers(0, 2, n), wrong=wrong,
        rows=np.arange(n),
    )  # fmt: skip


def test_what_a_classifier_hides_of_its_wrong_decisions_is_found_though_it_is_right_about_all_that_it_was_trained_on():
    knows, random = a_classifier(2000, 800, 0), noise(2000, 8, np.zeros(2000, dtype=np.int64))
    blind = replace(knows, values=random.values)
    draws = Draws.of(parts_of(knows.rows, 800, 0), knows.rows, 100, 0)
    probing = Probing(draws=draws, strength=0.03, confidence=0.9, seed=0)
    held = Held(original=knows, compressed=blind, random=replace(random, depths=knows.depths))
    told = list(probe_all(held, (), probing))
    figures = {(each.figure, each.model, each.layer): each for each in told if each.part == "probe"}
    assert figures[GIVEN_OUTPUT, "original", "layer.0"].low > 0.1
    assert figures[GIVEN_OUTPUT, "compressed", "layer.0"].low < 0 < figures[GIVEN_OUTPUT, "compressed", "layer.0"].high
    retained = next(each for each in told if each.part == "retention" and each.other and each.figure == "retained")
    assert retained.layer == "layer.0" and retained.high < 0.5
    caught = {each.figure: each.value for each in told if each.model == "original" and each.other == "10%"}
    assert caught["exclusive"] > 3 * caught["chance"]


@pytest.mark.parametrize("family", ["bert", "vit", "gpt2"])
def test_the_stream_is_read_where_the_head_reads_it(family):
    """The head's own answer follows from the states that are kept."""
    model, examples = tiny_model(family), tiny_examples(family)
    layers = layers_of(model)
    where = where_read(model, layers, examples)
    states = read_states(model, layers, examples, where, batch_size=3)
    alone = [read_states(model, layers, examples.only(np.array([row])), where) for row in range(3)]
    np.testing.assert_allclose(states.values[:3], np.concatenate([each.values for each in alone]), atol=1e-5)
    assert states.depths == ("embedding", *layers.names)
    with torch.inference_mode(), passing(model, layers) as seen:
        model(**examples.batch(np.arange(2)).inputs)
    assert set(seen) == set(states.depths)


def test_layers_that_are_gone_keep_the_names_of_the_others():
    original = layers_of(tiny_model("bert"))
    assert beside(original, original).names == original.names
    fewer = type(original)(names=original.names[:-1], modules=original.modules[:-1], norm=None)
    assert beside(original, fewer, removed=[original.names[0]]).names == original.names[1:]


def test_a_model_without_knowledge_is_another_and_the_same_each_time():
    model = tiny_model("bert")
    one, again = (without_knowledge(model, 0).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"parts": ["prubes"]}, "probes"),
        ({"strength": 0}, "above 0"),
        ({"confidence": 1.0}, "(0, 1)"),
        ({"resamples": 3}, "50"),
    ],
)
def test_what_cannot_be_is_refused(given, told):
    with pytest.raises(InputError, match="signals") as refused:
        Signals(**given)
    assert told in str(refused.value)


def test_gates_on_attributes_need_a_slice_of_that_name():
    from compress_explain.comparison.gates import Gate

    metrics = Signals().metrics_for("text-classification")
    check_gates([Gate(metric="signals.attribute.negation.retention", min=0.9)], metrics, ["negation"])
    with pytest.raises(InputError, match="negation"):
        check_gates([Gate(metric="signals.attribute.negatoin.retention", min=0.9)], metrics, ["negation"])
    assert Signals().metrics_for("question-answering") == ()
