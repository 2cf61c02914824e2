"""Intervals against independent computations, and against what they promise: coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, bootstrap, norm

from compress_explain.stats import (
    bootstrap_rows,
    mean_interval,
    paired_accuracy_interval,
    paired_bootstrap,
    rate_interval,
    unseen_rate_bound,
)


def tango_by_numerical_likelihood(lost, won, n, confidence):
    """Tango's interval without his algebra: the trinomial likelihood is maximised by search.

    Under p(won) - p(lost) = d the only free parameter is p(lost). The score statistic divides
    won - lost - n d by its standard deviation at the maximum.
    """

    def restricted(d):
        def minus_log_likelihood(p):
            cells = ((lost, p), (won, p + d), (n - lost - won, 1 - 2 * p - d))
            return -sum(count * math.log(max(share, 1e-300)) for count, share in cells if count)

        bounds = (max(0.0, -d), (1 - d) / 2)
        p = minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
        # the search stops short of a maximum at the edge of what is possible
        return min((p, *bounds), key=minus_log_likelihood)

    def statistic(d):
        p = restricted(d)
        variance = n * (2 * p + d - d * d)  # of won - lost: n (p_won + p_lost - d^2)
        return (won - lost - n * d) / math.sqrt(max(variance, 1e-300))

    z = norm.ppf((1 + confidence) / 2)
    estimate = (won - lost) / n
    return (
        brentq(lambda d: statistic(d) - z, -0.9999, estimate - 1e-9),
        brentq(lambda d: statistic(d) + z, estimate + 1e-9, 0.9999),
    )


@pytest.mark.parametrize("confidence", [0.90, 0.95, 0.99])
@pytest.mark.parametrize(
    ("lost", "won", "n"), [(12, 8, 872), (12, 2, 50), (5, 5, 60), (1, 0, 200), (0, 3, 40), (30, 10, 100), (7, 43, 50)]
)
def test_the_paired_interval_is_tangos_by_an_independent_maximisation(lost, won, n, confidence):
    expected = tango_by_numerical_likelihood(lost, won, n, confidence)
    assert paired_accuracy_interval(lost, won, n, confidence) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("lost", "won", "n"), [(12, 8, 872), (0, 3, 40), (25, 0, 25), (1, 0, 1), (0, 0, 60)])
def test_swapping_the_models_mirrors_the_interval(lost, won, n):
    low, high = paired_accuracy_interval(lost, won, n)
    mirrored = paired_accuracy_interval(won, lost, n)
    assert mirrored == pytest.approx((-high, -low), abs=1e-9)
    assert -1 <= low <= (won - lost) / n <= high <= 1


def test_more_confidence_or_fewer_examples_widen_the_interval():
    def width(*arguments):
        low, high = paired_accuracy_interval(*arguments)
        return high - low

    assert width(6, 4, 200, 0.99) > width(6, 4, 200, 0.95) > width(6, 4, 200, 0.80)
    assert width(6, 4, 200) > width(60, 40, 2000)


def test_no_discordance_is_not_certainty():
    """1 - 0.05^(1/60) = 0.0487; a rate that high shows nothing in 60 draws with probability 0.05."""
    low, high = paired_accuracy_interval(0, 0, 60, 0.90)
    assert (low, high) == pytest.approx((-0.0487, 0.0487), abs=5e-5)
    assert binom.pmf(0, 60, high) == pytest.approx(0.05)


@pytest.mark.parametrize(("lost", "won", "n"), [(-1, 0, 10), (6, 5, 10), (0, 0, 0)])
def test_counts_that_do_not_fit_are_refused(lost, won, n):
    with pytest.raises(ValueError, match="do not fit"):
        paired_accuracy_interval(lost, won, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 90.0, math.nan])
def test_a_confidence_is_a_share(confidence):
    for call in (
        lambda: paired_accuracy_interval(1, 2, 10, confidence),
        lambda: rate_interval(1, 10, confidence),
        lambda: unseen_rate_bound(10, confidence),
        lambda: paired_bootstrap(np.zeros(3), np.ones(3), confidence),
    ):
        with pytest.raises(ValueError, match="confidence must lie in"):
            call()


@pytest.mark.parametrize(("count", "n"), [(0, 60), (1, 60), (17, 40), (40, 40), (1, 1)])
def test_rate_bounds_are_where_the_tail_probability_is_half_of_alpha(count, n):
    low, high = rate_interval(count, n, 0.90)
    assert low == 0 if count == 0 else binom.sf(count - 1, n, low) == pytest.approx(0.05)
    assert high == 1 if count == n else binom.cdf(count, n, high) == pytest.approx(0.05)


def test_the_bootstrap_agrees_with_scipys():
    """Two independent draws of 20,000 resamples: equal to about a hundredth of the width."""
    rng = np.random.default_rng(1)
    original, compressed = rng.normal(0, 1, 150), rng.normal(0.3, 1.5, 150)
    ours = paired_bootstrap(original, compressed, 0.90, resamples=20_000, seed=4)
    theirs = bootstrap(
        (compressed - original,), np.mean, confidence_level=0.90, n_resamples=20_000, method="percentile", rng=5
    ).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.02 * (theirs.high - theirs.low))


def test_the_bootstrap_is_fixed_by_its_seed():
    values = np.random.default_rng(0).normal(size=50)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3) != mean_interval(values, seed=4)
    rows = np.concatenate(list(bootstrap_rows(7, 11, seed=0)))
    assert rows.shape == (11, 7) and rows.min() >= 0 and rows.max() < 7


def test_equal_models_are_not_claimed_to_be_equal_for_certain():
    values = np.linspace(0, 2, 60)
    low, high = paired_bootstrap(values, values.copy(), 0.90)
    assert high == pytest.approx(2 * unseen_rate_bound(60, 0.90)) and low == -high


def test_a_value_that_is_not_a_number_is_not_averaged_away():
    values = np.zeros(20)
    values[3] = math.nan
    assert all(math.isnan(bound) for bound in paired_bootstrap(np.zeros(20), values))


@pytest.mark.parametrize("discordance", [0.01, 0.03, 0.06])
@pytest.mark.parametrize("n", [60, 200, 872])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_paired_interval_covers_what_it_promises(n, discordance, shift):
    """2,000 simulated comparisons at 90%: at least 88% of the intervals hold the true difference.

    ``shift`` moves that share of the discordance to one side; a score interval's coverage then
    waves around what it promises, by 2.5 points at 4 discordant pairs. Where discordant pairs are
    few the interval may be conservative, up to covering always.
    """
    p_lost, p_won = discordance * (1 + shift) / 2, discordance * (1 - shift) / 2
    draws = np.random.default_rng(n).multinomial(n, [p_lost, p_won, 1 - p_lost - p_won], size=2000)
    kinds, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    intervals = [paired_accuracy_interval(int(lost), int(won), n, 0.90) for lost, won in kinds]
    truth = p_won - p_lost
    covered = sum(count for (low, high), count in zip(intervals, counts, strict=True) if low <= truth <= high)
    assert covered / 2000 >= (0.87 if shift else 0.88)
    if n * discordance > 20:
        assert covered / 2000 <= 0.92
