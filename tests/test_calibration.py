"""Calibration against netcal's figures, against identities, and against models whose calibration is known."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.special import softmax

from compress_explain.comparison.calibration import brier_parts, classwise_ece, ece, mce, reliability_diagram
from compress_explain.comparison.calibration_scores import calibration_scores
from compress_explain.comparison.fidelity import fidelity_scores
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import told_of
from compress_explain.comparison.temperature import fit_temperature, losses, recalibrated_losses
from compress_explain.evaluators import Calibration, Fidelity
from compress_explain.report.calibrated import calibrated as calibrated_section
from compress_explain.report.page import environment
from compress_explain.stats import debiased_ece

BIASED = ("ece_equal_mass", "ece_classwise", "brier_reliability")


def calibrated(n, classes=3, seed=0, temperature=1.0):
    """Logits, and labels drawn from just the probabilities that the logits have at ``temperature``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    drawn = softmax(logits / temperature, 1).cumsum(1) > rng.random((n, 1))
    return logits, drawn.argmax(1)


def pairs_of(original, compressed, labels, **facts):
    slices = {"all": np.ones(len(labels), bool)}
    return Pairs(
        split="test", digest="d", labels=labels, original=original, compressed=compressed, slices=slices, **facts
    )


def scores_of(pairs, **options):
    return {each.metric: each for each in calibration_scores(pairs, **options)}


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("bins", [5, 15])
def test_errors_are_netcals(classes, bins):
    netcal = pytest.importorskip("netcal.metrics")
    logits, labels = calibrated(700, classes, temperature=0.6)
    p = softmax(logits, 1)
    given = p[:, 1] if classes == 2 else p
    if classes > 2:
        assert ece(p, labels, bins) == pytest.approx(netcal.ECE(bins).measure(given, labels), abs=1e-9)
        assert mce(p, labels, bins) == pytest.approx(netcal.MCE(bins).measure(given, labels), abs=1e-9)
        equal_mass = netcal.ECE(bins, equal_intervals=False).measure(given, labels)
        assert ece(p, labels, bins, equal_mass=True) == pytest.approx(equal_mass, abs=1e-9)
    of_classes = [
        netcal.ECE(bins, equal_intervals=False).measure(p[:, k], (labels == k).astype(int)) for k in range(classes)
    ]
    assert classwise_ece(p, labels, bins) == pytest.approx(np.mean(of_classes), abs=1e-9)


def test_errors_are_those_of_a_plain_loop():
    logits, labels = calibrated(400, temperature=0.6)
    p = softmax(logits, 1)
    top, right = p.max(1), p.argmax(1) == labels
    total, largest, debiased = 0.0, 0.0, 0.0
    for k in range(10):
        here = (top >= k / 10) & (top < (k + 1) / 10)
        if here.any():
            gap = abs(top[here].mean() - right[here].mean())
            total, largest = total + here.mean() * gap, max(largest, gap)
    edges = np.quantile(top, np.linspace(0, 1, 11))
    for low, high in zip(edges, [*edges[1:-1], 2.0], strict=False):
        here = (top >= low) & (top < high)
        a = right[here].mean()
        debiased += here.mean() * ((top[here].mean() - a) ** 2 - a * (1 - a) / (here.sum() - 1))
    assert ece(p, labels, 10) == pytest.approx(total, abs=1e-12)
    assert mce(p, labels, 10) == pytest.approx(largest, abs=1e-12)
    assert debiased_ece(p, labels, 10) == pytest.approx(np.sign(debiased) * abs(debiased) ** 0.5, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_parts_of_brier_add_up(classes):
    logits, labels = calibrated(500, classes, temperature=0.5)
    parts = brier_parts(softmax(logits, 1), labels)
    together = (
        parts.reliability - parts.resolution + parts.uncertainty + parts.within_variance - parts.within_covariance
    )
    assert together == pytest.approx(parts.brier, abs=1e-12)
    scores = scores_of(pairs_of(logits, logits, labels))
    assert scores["brier_reliability"].original == pytest.approx(parts.reliability, abs=1e-12)
    assert scores["brier_resolution"].original == pytest.approx(parts.whole_resolution, abs=1e-12)


def test_the_diagram_holds_every_row_within_its_band():
    logits, labels = calibrated(600)
    diagram = reliability_diagram(softmax(logits, 1), labels)
    assert sum(each.n for each in diagram) == 600
    assert all(each.low <= each.accuracy <= each.high for each in diagram)
    assert [each.confidence for each in diagram] == sorted(each.confidence for each in diagram)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_and_given_back(temperature):
    logits, labels = calibrated(20_000, temperature=temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)
    best = losses(logits, labels, fit_temperature(logits, labels)).mean()
    assert all(losses(logits, labels, other).mean() > best for other in (0.9 * temperature, 1.1 * temperature))
    half = np.arange(20_000) < 10_000
    assert recalibrated_losses(logits, labels, half).mean() == pytest.approx(best, abs=1e-3)


def test_a_temperature_that_does_not_exist_carries_no_verdict():
    labels = np.arange(200) % 2
    scores = scores_of(pairs_of(np.eye(2)[labels] * 3, np.eye(2)[labels] * 4, labels))
    assert "all right" in scores["temperature"].doubt


def test_an_overconfident_model_is_told_from_a_calibrated_one():
    logits, labels = calibrated(2000)
    scores = scores_of(pairs_of(logits, 2 * logits, labels))
    assert scores["ece"].low > 0 and scores["ece"].compressed_low > 0
    assert scores["temperature"].compressed == pytest.approx(2 * scores["temperature"].original, rel=1e-6)
    assert scores["nll_recalibrated"].difference == pytest.approx(0, abs=1e-9)
    assert scores["brier_reliability"].low > 0


def test_equal_models_are_not_equal_for_certain():
    logits, labels = calibrated(300)
    scores = [
        *calibration_scores(pairs_of(logits, logits.copy(), labels)),
        *fidelity_scores(pairs_of(logits, logits.copy(), labels)),
    ]
    assert all(each.low <= 0 <= each.high and each.high > each.low for each in scores)


def test_every_interval_holds_its_estimate_and_is_fixed_by_the_seed():
    logits, labels = calibrated(400)
    pairs = pairs_of(logits, logits + np.random.default_rng(1).normal(0, 0.5, logits.shape), labels)
    for evaluator in (Calibration(), Fidelity()):
        scores = evaluator.evaluate(pairs)
        assert [each.metric for each in scores] and {each.metric for each in scores} == set(evaluator.metrics)
        assert all(each.low <= each.difference <= each.high for each in scores)
        assert all(each.compressed_low <= each.compressed <= each.compressed_high for each in scores)
        assert scores == evaluator.evaluate(pairs)


def test_rows_that_belong_together_are_drawn_together():
    """Every row ten times over is no more evidence than once."""
    logits, labels = calibrated(150)
    compressed = logits + np.random.default_rng(1).normal(0, 1, logits.shape)
    once = scores_of(pairs_of(logits, compressed, labels), bins=5)
    ten = [np.repeat(each, 10, axis=0) for each in (logits, compressed, labels)]
    rows = np.repeat(np.arange(150), 10)
    many = scores_of(pairs_of(*ten, rows=rows, places=np.tile(np.arange(10), 150), task="token-classification"), bins=5)
    assert many["temperature"].n == 150

    def width(score):
        return score.high - score.low

    assert width(many["temperature"]) == pytest.approx(width(once["temperature"]), rel=0.1)


def test_a_task_tells_what_can_be_told_of_it():
    logits, labels = calibrated(100)
    assert told_of("text-generation", [*Calibration().metrics, "churn"]) == {"churn"}
    assert told_of("text-classification", Calibration().metrics) == set(Calibration().metrics)
    assert calibration_scores(replace(pairs_of(logits, logits, labels), task="text-generation")) == []


def test_fidelity_by_hand():
    original, compressed = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    scores = {each.metric: each for each in fidelity_scores(pairs_of(original, compressed, np.array([1, 0])))}
    middle = np.array([0.375, 0.625])
    js = 0.5 * np.sum([0.5, 0.5] * np.log([0.5, 0.5] / middle)) + 0.5 * np.sum(
        [0.25, 0.75] * np.log([0.25, 0.75] / middle)
    )
    assert scores["churn"].compressed == 0.5
    assert scores["kl"].compressed == pytest.approx(0.5 * np.log(2 / np.sqrt(3)), abs=1e-7)
    assert scores["js"].compressed == pytest.approx(js / 2)
    assert scores["probability_loyalty"].compressed == pytest.approx((2 - np.sqrt(js / np.log(2))) / 2)


@pytest.mark.parametrize(
    "n", [pytest.param(300, marks=pytest.mark.slow), pytest.param(1500, marks=pytest.mark.exhaustive)]
)
def test_the_interval_of_a_calibrated_models_error_holds_none(n):
    """Confidence 0.90 on 200 models: own interval and difference hold 0 in at least 93% and 88% of them."""
    own, apart, unbiased = [], [], []
    for seed in range(200):
        logits, labels = calibrated(n, seed=seed)
        other = logits + np.random.default_rng(seed).normal(0, 0.05, logits.shape)
        score = scores_of(pairs_of(other, logits, labels), seed=seed)["ece"]
        own.append(score.compressed_low <= 0 <= score.compressed_high)
        apart.append(score.low <= 0 <= score.high)
        unbiased.append(score.compressed * abs(score.compressed))
    print(
        f"n = {n}: own interval holds 0 in {np.mean(own):.3f}, the difference's in {np.mean(apart):.3f}, squared {np.mean(unbiased):+.6f}"
    )
    assert np.mean(own) >= 0.93 and np.mean(apart) >= 0.88
    assert abs(np.mean(unbiased)) < 3 * np.std(unbiased) / np.sqrt(200)


def test_the_section_says_what_the_figures_say():
    logits, labels = calibrated(400)
    pairs = pairs_of(logits, 2 * logits, labels)
    scores = {(each.metric, each.slice): asdict(each) for each in calibration_scores(pairs)}
    section = calibrated_section(pairs, scores, {0: "<b>"})
    assert section is not None and section.gaps[1] > section.gaps[0] and section.given_back[1] > section.given_back[0]
    assert sum(sum(cell[1] for cell in row.cells) for row in section.confusion) == 400
    html = environment().get_template("section_calibration.html").render(calibration=section)
    assert "<b>Temp" in html and "&lt;b&gt;" in html and "nan" not in html
    assert calibrated_section(pairs, {}, {}) is None
