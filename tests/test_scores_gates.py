"""Scores equal scikit-learn's, and a gate passes only on what it has seen enough of."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    matthews_corrcoef,
    precision_recall_fscore_support,
    precision_score,
    recall_score,
    roc_auc_score,
)

from compress_explain.comparison.gates import Gate, check_gates, judge, overall
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import METRICS, Score, score
from compress_explain.errors import InputError
from compress_explain.evaluators import Quality, Slices
from compress_explain.stats import paired_accuracy_interval, rate_interval

OF_COUNTS = ("macro_f1", "macro_precision", "macro_recall", "balanced_accuracy", "mcc")
OF_RANKS = ("auroc", "average_precision")


def random_pairs(n=200, classes=2, seed=0, spread=0.7):
    """Logits that are right more often than not, and a compressed model that differs a little."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    original = rng.normal(0, 1, (n, classes)) + 1.5 * np.eye(classes)[labels]
    compressed = original + rng.normal(0, spread, (n, classes))
    slices = {"all": np.ones(n, bool), "first": np.arange(n) < n // 4, "nobody": np.zeros(n, bool)}
    return Pairs(split="test", digest="d", labels=labels, original=original, compressed=compressed, slices=slices)


def measured(pairs, metric, slice_name="all", confidence=0.90):
    return score(pairs, METRICS[metric], slice_name, confidence)


def reference(metric, labels, logits):
    """One model's figure by scikit-learn."""
    probabilities, classes = softmax(logits, 1), logits.shape[1]
    match metric:
        case "accuracy":
            return accuracy_score(labels, logits.argmax(1))
        case "macro_f1":
            return f1_score(labels, logits.argmax(1), average="macro")
        case "macro_precision":
            return precision_score(labels, logits.argmax(1), average="macro", zero_division=0.0)
        case "macro_recall":
            return recall_score(labels, logits.argmax(1), average="macro", zero_division=0.0)
        case "balanced_accuracy":
            return balanced_accuracy_score(labels, logits.argmax(1))
        case "mcc":
            return matthews_corrcoef(labels, logits.argmax(1))
        case "auroc":
            return roc_auc_score(labels, probabilities[:, 1])
        case "average_precision":
            return average_precision_score(labels, probabilities[:, 1])
        case "nll":
            return log_loss(labels, probabilities, labels=range(classes))
        case "brier":  # Brier's own definition, over all classes: between 0 and 2
            return np.mean(np.sum((probabilities - np.eye(classes)[labels]) ** 2, 1))


# Scores


@pytest.mark.parametrize("slice_name", ["all", "first"])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("metric", [*OF_COUNTS, "accuracy", "nll", "brier", *OF_RANKS])
def test_values_are_scikit_learns(metric, classes, slice_name):
    if metric in OF_RANKS and classes > 2:
        pytest.skip("of two classes only")
    pairs = random_pairs(classes=classes)
    got, rows = measured(pairs, metric, slice_name), pairs.slices[slice_name]
    original = reference(metric, pairs.labels[rows], pairs.original[rows])
    compressed = reference(metric, pairs.labels[rows], pairs.compressed[rows])
    assert got.original == pytest.approx(original, abs=1e-12)
    assert got.compressed == pytest.approx(compressed, abs=1e-12)
    assert got.difference == pytest.approx(compressed - original, abs=1e-12)
    assert got.low < got.difference < got.high
    assert got.compressed_low < got.compressed < got.compressed_high
    assert (got.n, got.slice, got.confidence) == (int(rows.sum()), slice_name, 0.90)


def test_flips_are_counted_in_both_directions():
    pairs = random_pairs()
    before, after = pairs.original.argmax(1) == pairs.labels, pairs.compressed.argmax(1) == pairs.labels
    lost, won = int(np.sum(before & ~after)), int(np.sum(~before & after))
    assert lost > 0 and won > 0 and lost != won
    negative, positive = measured(pairs, "negative_flips"), measured(pairs, "positive_flips")
    assert (negative.compressed, positive.compressed) == (lost / 200, won / 200)
    assert (negative.low, negative.high) == rate_interval(lost, 200, 0.90)
    assert (negative.direction, positive.direction) == ("lower", "higher")
    accuracy = measured(pairs, "accuracy")
    assert accuracy.difference == pytest.approx((won - lost) / 200)
    assert (accuracy.low, accuracy.high) == paired_accuracy_interval(lost, won, 200, 0.90)


@pytest.mark.parametrize("metric", list(METRICS))
def test_an_unchanged_model_is_within_an_interval_around_zero(metric):
    pairs = random_pairs()
    got = measured(replace(pairs, compressed=pairs.original.copy()), metric)
    assert got.difference == 0
    assert got.low <= 0 < got.high


@pytest.mark.parametrize("metric", list(METRICS))
def test_a_more_confident_interval_contains_the_less_confident_one(metric):
    pairs = random_pairs()
    wide, narrow = measured(pairs, metric, confidence=0.99), measured(pairs, metric, confidence=0.80)
    assert wide.low <= narrow.low < narrow.high <= wide.high


@pytest.mark.parametrize("metric", list(METRICS))
def test_scores_are_fixed_by_their_seed(metric):
    assert measured(random_pairs(), metric) == measured(random_pairs(), metric)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("metric", list(METRICS))
def test_one_prediction_that_is_not_a_number_makes_no_figure(metric, value):
    """An argmax over NaN would silently count as class 0."""
    pairs = random_pairs()
    pairs.compressed[17] = value
    got = measured(pairs, metric)
    assert math.isnan(got.compressed) and math.isnan(got.difference)
    gate = Gate(metric=metric, min=0.0) if got.direction == "higher" else Gate(metric=metric, max=1e9)
    assert overall(judge([gate], [got])) == "fail"


def test_evaluators_cover_all_rows_and_every_slice_that_has_rows():
    pairs = random_pairs()
    assert {(each.metric, each.slice) for each in Quality().evaluate(pairs)} == {(name, "all") for name in METRICS}
    sliced = ("accuracy", "macro_f1", "nll", "brier", "negative_flips", "positive_flips")
    assert {(each.metric, each.slice) for each in Slices().evaluate(pairs)} == {(name, "first") for name in sliced}


def test_rankings_are_of_two_classes_and_rows_of_both():
    of_three, of_one = random_pairs(classes=3), replace(random_pairs(), labels=np.zeros(200, dtype=np.int64))
    for pairs in (of_three, of_one):
        assert not {each.metric for each in Quality().evaluate(pairs)} & set(OF_RANKS)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_slice_of_one_label_tells_of_its_class(classes):
    pairs = random_pairs(classes=classes)
    slices = {f"label={k}": pairs.labels == k for k in range(classes)} | {"half": np.arange(200) < 100}
    found = {(each.metric, each.slice): each for each in Slices().evaluate(replace(pairs, slices=slices))}
    assert not any(metric in ("precision", "recall", "f1") for metric, name in found if name == "half")
    for k in range(classes):
        truth = precision_recall_fscore_support(pairs.labels, pairs.compressed.argmax(1), labels=[k])
        for metric, value in zip(("precision", "recall", "f1"), truth[:3], strict=True):
            got = found[metric, f"label={k}"]
            assert got.compressed == pytest.approx(value[0]) and got.low < got.difference < got.high
            assert got.n == truth[3][0]
    gate = Gate(metric="f1", slice="label=1", max_drop=1.0)
    assert [each.state for each in judge([gate], list(found.values()))] == ["pass"]


def test_counts_drawn_again_are_rows_drawn_again():
    """The interval of macro-F1 by cells is that of scikit-learn's figure of resampled rows, but for the stretch of a few percent."""
    pairs = random_pairs(n=300, classes=3)
    rng, guesses = np.random.default_rng(1), (pairs.original.argmax(1), pairs.compressed.argmax(1))
    draws = []
    for _ in range(200):
        rows = rng.integers(0, 300, 300)
        values = [f1_score(pairs.labels[rows], each[rows], average="macro") for each in guesses]
        draws.append(values[1] - values[0])
    got, (low, high) = measured(pairs, "macro_f1"), np.quantile(draws, [0.05, 0.95])
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.2 * (high - low))


def test_delongs_interval_is_about_that_of_rows_drawn_again():
    pairs = random_pairs(n=300)
    rng, draws = np.random.default_rng(1), []
    for _ in range(200):
        rows = rng.integers(0, 300, 300)
        values = [
            roc_auc_score(pairs.labels[rows], each[rows, 1] - each[rows, 0])
            for each in (pairs.original, pairs.compressed)
        ]
        draws.append(values[1] - values[0])
    got, (low, high) = measured(pairs, "auroc"), np.quantile(draws, [0.05, 0.95])
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.2 * (high - low))


def test_pairs_come_back_from_disk_with_the_same_scores(tmp_path):
    pairs = replace(random_pairs(), original=random_pairs().original.astype(np.float32))
    pairs = replace(pairs, compressed=pairs.compressed.astype(np.float32))
    pairs.save(tmp_path / "pairs.parquet")
    loaded = Pairs.load(tmp_path / "pairs.parquet")
    assert (loaded.split, loaded.digest) == ("test", "d")
    assert np.array_equal(loaded.original, pairs.original) and np.array_equal(loaded.compressed, pairs.compressed)
    assert Quality().evaluate(loaded) == Quality().evaluate(pairs)
    assert Slices().evaluate(loaded) == Slices().evaluate(pairs)


# Gates


def figure(difference=0.0, low=-0.01, high=0.01, *, metric="accuracy", slice_name="all", value=0.9, n=100):
    """A score whose own value has the interval of its difference, shifted to ``value``."""
    return Score(
        metric=metric, slice=slice_name, original=value - difference, compressed=value, difference=difference,
        low=low, high=high, compressed_low=value + low - difference, compressed_high=value + high - difference,
        n=n, unit="share", direction="higher", confidence=0.9,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "difference", "low", "high", "state"),
    [
        ({"max_drop": 0.02}, -0.01, -0.02, 0.00, "pass"),
        ({"max_drop": 0.02}, -0.01, -0.021, 0.00, "inconclusive"),
        ({"max_drop": 0.02}, -0.03, -0.06, -0.01, "inconclusive"),
        ({"max_drop": 0.02}, -0.03, -0.04, -0.021, "fail"),
        ({"max_drop": 0.0}, 0.02, 0.00, 0.04, "pass"),
        ({"max_rise": 0.02}, 0.01, 0.00, 0.02, "pass"),
        ({"max_rise": 0.02}, 0.01, 0.00, 0.03, "inconclusive"),
        ({"max_rise": 0.02}, 0.04, 0.03, 0.05, "fail"),
        ({"min": 0.85}, 0.00, -0.04, 0.04, "pass"),
        ({"min": 0.88}, 0.00, -0.04, 0.04, "inconclusive"),
        ({"min": 0.95}, 0.00, -0.04, 0.04, "fail"),
        ({"max": 0.95}, 0.00, -0.04, 0.04, "pass"),
        ({"max": 0.92}, 0.00, -0.04, 0.04, "inconclusive"),
        ({"max": 0.85}, 0.00, -0.04, 0.04, "fail"),
    ],
)
def test_the_whole_interval_must_clear_the_limit(limit, difference, low, high, state):
    (verdict,) = judge([Gate(metric="accuracy", **limit)], [figure(difference, low, high)])
    assert verdict.state == state
    assert (verdict.slack >= 0) == (state == "pass")
    assert (verdict.n_needed is not None) == (state == "inconclusive")


@pytest.mark.parametrize(("difference", "state"), [(-0.02, "pass"), (-0.0201, "fail")])
def test_under_the_point_rule_the_estimate_alone_decides(difference, state):
    (verdict,) = judge([Gate(metric="accuracy", max_drop=0.02, rule="point")], [figure(difference, -0.5, 0.5)])
    assert verdict.state == state
    assert verdict.slack == pytest.approx(0.02 + difference)


@pytest.mark.parametrize("rule", ["non-inferiority", "point"])
def test_a_drop_of_exactly_what_is_allowed_is_allowed(rule):
    gate = Gate(metric="accuracy", max_drop=0.01, rule=rule)
    lost = 0.90 - 0.91
    assert lost < -0.01  # by rounding alone
    [verdict] = judge([gate], [figure(lost, low=lost, high=0.0)])
    assert (verdict.state, verdict.slack) == ("pass", 0.0)


@pytest.mark.parametrize("field", ["difference", "low", "high", "compressed", "compressed_low", "compressed_high"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", ["non-inferiority", "point"])
def test_what_is_not_finite_never_passes(field, value, rule):
    limit = {"min": -1e9} if field.startswith("compressed") else {"max_drop": 1e9}
    (verdict,) = judge([Gate(metric="accuracy", rule=rule, **limit)], [replace(figure(), **{field: value})])
    assert verdict.state == "fail"
    assert "not a finite number" in verdict.message
    assert verdict.slack == -math.inf


@pytest.mark.parametrize("slice_name", ["all", "long", "*"])
def test_a_score_that_is_missing_never_passes(slice_name):
    verdicts = judge([Gate(metric="accuracy", slice=slice_name, max_drop=1.0)], [])
    assert [verdict.state for verdict in verdicts] == ["fail"]
    assert "no such score" in verdicts[0].message
    assert overall(verdicts) == "fail"


def test_a_star_reaches_every_slice_and_not_the_whole():
    scores = [
        figure(),
        figure(slice_name="short"),
        figure(slice_name="long", low=-0.5),
        figure(slice_name="rare", metric="nll"),
    ]
    verdicts = judge([Gate(metric="accuracy", slice="*", max_drop=0.02)], scores)
    assert {verdict.slice: verdict.state for verdict in verdicts} == {
        "short": "pass",
        "long": "inconclusive",
        "rare": "fail",  # it has rows, but nobody computed its accuracy
    }


def test_the_worst_state_is_the_overall_one():
    good, wide, bad = figure(), figure(low=-0.5), figure(-0.5, -0.6, -0.4)
    gate = Gate(metric="accuracy", max_drop=0.02)
    states = {name: judge([gate], [each]) for name, each in (("good", good), ("wide", wide), ("bad", bad))}
    assert overall(states["good"]) == "pass"
    assert overall(states["good"] + states["wide"]) == "inconclusive"
    assert overall(states["wide"] + states["bad"] + states["good"]) == "fail"


@pytest.mark.parametrize(
    ("difference", "low", "high", "needed"),
    [
        (-0.01, -0.03, 0.01, 400),  # half-width .02, distance .01: four times the rows, to pass
        (-0.03, -0.05, -0.01, 400),  # the same to fail
        (-0.01, -0.02 - 1e-6, 0.00, 101),  # all but settled
        (-0.03, -0.035, -0.01, 400),  # lopsided: what has to shrink is the side towards the limit
        (-0.01, -0.03, 0.05, 400),
    ],
)
def test_examples_needed_grow_with_the_square_of_width_over_distance(difference, low, high, needed):
    (verdict,) = judge([Gate(metric="accuracy", max_drop=0.02)], [figure(difference, low, high, n=100)])
    assert verdict.state == "inconclusive"
    assert verdict.n_needed == pytest.approx(needed, abs=1)
    settled = "pass" if difference > -0.02 else "fail"
    assert f"about {verdict.n_needed:,} would settle it as a {settled}" in verdict.message


def test_that_many_examples_do_settle_it():
    """With the same rates on the announced number of rows the paired interval clears the limit, about."""
    lost, won, n = 5, 4, 150
    gate = Gate(metric="accuracy", max_drop=0.02)

    def verdict(times):
        low, high = paired_accuracy_interval(round(lost * times), round(won * times), round(n * times), 0.90)
        return judge([gate], [figure((won - lost) / n, low, high, n=round(n * times))])[0]

    first = verdict(1)
    assert first.state == "inconclusive"
    assert verdict(0.7 * first.n_needed / n).state == "inconclusive"
    assert verdict(1.3 * first.n_needed / n).state == "pass"


def test_an_estimate_on_the_limit_cannot_be_settled():
    (verdict,) = judge([Gate(metric="accuracy", max_drop=0.5)], [figure(-0.5, -0.6, -0.4)])
    assert (verdict.state, verdict.n_needed) == ("inconclusive", None)
    assert "the estimate lies on the limit" in verdict.message


@pytest.mark.parametrize("limits", [{}, {"max_drop": 0.1, "min": 0.5}, {"max_rise": 0.1, "max_drop": 0.1}])
def test_a_gate_has_exactly_one_limit(limits):
    with pytest.raises(InputError, match="exactly one limit"):
        Gate(metric="accuracy", **limits)


@pytest.mark.parametrize("limit", [{"max_drop": -0.1}, {"max_rise": -0.1}, {"min": math.nan}, {"max": math.inf}])
def test_a_limit_is_finite_and_a_margin_not_negative(limit):
    with pytest.raises(InputError, match="finite"):
        Gate(metric="accuracy", **limit)


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ([Gate(metric="acuracy", min=0.5)], "did you mean 'accuracy'"),
        ([Gate(metric="accuracy", slice="shrt", min=0.5)], "did you mean 'short'"),
        ([Gate(metric="accuracy", min=0.9), Gate(metric="accuracy", max=0.8)], "min lies above max"),
        ([Gate(metric="accuracy", max=0.8), Gate(metric="accuracy", min=0.9)], "min lies above max"),
        ([Gate(metric="accuracy", min=0.9), Gate(metric="accuracy", min=0.8)], "min is given twice"),
    ],
)
def test_gates_that_nothing_could_satisfy_are_refused(gates, message):
    with pytest.raises(InputError, match=message):
        check_gates(gates, METRICS, ["short", "long"])


def test_gates_that_complement_each_other_are_accepted():
    gates = [
        Gate(metric="accuracy", min=0.8),
        Gate(metric="accuracy", max_drop=0.01),
        Gate(metric="accuracy", slice="short", min=0.9),
        Gate(metric="accuracy", slice="*", max_drop=0.05),
    ]
    check_gates(gates, METRICS, ["short"])


def test_a_star_without_slices_is_refused():
    with pytest.raises(InputError, match="no slices are declared"):
        check_gates([Gate(metric="accuracy", slice="*", max_drop=0.1)], METRICS, [])
