"""What intervals and gates promise, simulated: coverage, and how often a gate passes what lies on its margin."""

from __future__ import annotations

import numpy as np
import pytest

from compress_explain.comparison.gates import Gate, judge
from compress_explain.comparison.scores import Score
from compress_explain.stats import paired_accuracy_interval, paired_bootstrap

RUNS = 2000
SIZES, DISCORDANCES = (60, 200, 872, 3000), (0.0, 0.01, 0.03, 0.06)
ENOUGH = 12  # discordant pairs expected, from which counts are fine enough for two points; fewer may cover more


def counts(n, p_lost, p_won, seed=0):
    """Kinds of outcomes of ``RUNS`` comparisons: (lost, won), and how often each occurs."""
    cells = [p_lost, p_won, 1 - p_lost - p_won]
    draws = np.random.default_rng([seed, n]).multinomial(n, cells, size=RUNS)[:, :2]
    return np.unique(draws, axis=0, return_counts=True)


def coverage_of_counts(interval, n, discordance, confidence):
    kinds, times = counts(n, discordance / 2, discordance / 2)
    intervals = [interval(int(lost), int(won), n, confidence) for lost, won in kinds]
    assert all(high > low for low, high in intervals)
    return sum(t for (low, high), t in zip(intervals, times, strict=True) if low <= 0 <= high) / RUNS


def bootstrap_of_counts(lost, won, n, confidence):
    compressed = np.ones(n)
    compressed[:lost] = 0.0
    original = np.ones(n)
    original[lost : lost + won] = 0.0
    return paired_bootstrap(original, compressed, confidence)


def meant(covered, confidence, expected):
    """Never two points below; not two points above either once counts are fine enough."""
    assert covered >= confidence - 0.02
    if expected >= ENOUGH:
        assert covered <= confidence + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.90, 0.95])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    "interval", [paired_accuracy_interval, pytest.param(bootstrap_of_counts, marks=pytest.mark.exhaustive)]
)
def test_intervals_of_accuracy_cover(interval, n, confidence):
    for discordance in DISCORDANCES:
        covered = coverage_of_counts(interval, n, discordance, confidence)
        print(f"{interval.__name__} {confidence} n={n} discordance={discordance}: {covered:.3f}")
        meant(covered, confidence, n * discordance)


@pytest.mark.parametrize(
    "n", [pytest.param(n, marks=pytest.mark.slow if n < 200 else pytest.mark.exhaustive) for n in SIZES]
)
def test_the_bootstrap_of_a_loss_covers(n):
    """Every row's loss moves a little, and that of discordant rows a lot, either way."""
    for discordance in DISCORDANCES:
        rng = np.random.default_rng([1, n])
        covered = dict.fromkeys((0.90, 0.95), 0)
        for run in range(RUNS):
            jumps = np.where(rng.random(n) < discordance, rng.choice([-1, 1], n) * rng.lognormal(0.3, 0.5, n), 0.0)
            original = rng.exponential(0.3, n)
            for confidence in covered:
                low, high = paired_bootstrap(
                    original, original + jumps + rng.normal(0, 0.1, n), confidence, resamples=400, seed=run
                )
                assert high > low
                covered[confidence] += low <= 0 <= high
        for confidence, times in covered.items():
            print(f"loss {confidence} n={n} discordance={discordance}: {times / RUNS:.3f}")
            meant(times / RUNS, confidence, n if discordance == 0 else n * discordance)


@pytest.mark.slow
@pytest.mark.parametrize(("confidence", "nominal"), [(0.90, 0.05), (0.95, 0.025)])
@pytest.mark.parametrize("n", SIZES)
def test_a_gate_rarely_passes_a_model_on_its_margin(n, confidence, nominal):
    """The true difference is minus the margin: a non-inferiority gate passes in at most nominal + 2 points."""
    for discordance in (0.01, 0.03, 0.06):
        margin = discordance / 2
        kinds, times = counts(n, (discordance + margin) / 2, (discordance - margin) / 2)
        gate = Gate(metric="accuracy", max_drop=margin)
        passed = 0
        for (lost, won), often in zip(kinds.tolist(), times.tolist(), strict=True):
            low, high = paired_accuracy_interval(lost, won, n, confidence)
            difference = (won - lost) / n
            score = Score(
                metric="accuracy", slice="all", original=0.9, compressed=0.9 + difference, difference=difference,
                low=low, high=high, compressed_low=0.0, compressed_high=1.0, n=n, unit="share", direction="higher",
                confidence=confidence,
            )  # fmt: skip
            passed += often * (judge([gate], [score])[0].state == "pass")
        print(f"gate {confidence} n={n} discordance={discordance} margin={margin:.3f}: passes {passed / RUNS:.4f}")
        assert passed / RUNS <= nominal + 0.02


@pytest.mark.parametrize("n", [5, 60, 3000])
@pytest.mark.parametrize("confidence", [0.90, 0.95])
def test_no_flips_are_never_certainty(n, confidence):
    for low, high in (paired_accuracy_interval(0, 0, n, confidence), bootstrap_of_counts(0, 0, n, confidence)):
        assert low < 0 < high
