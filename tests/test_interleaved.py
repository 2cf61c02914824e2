"""Calls timed beside one another: in mirrored blocks, without favour, and in doubt where the machine is."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest

from compress_explain.timing.interleaved import CONTROL, Blocks, interleave, orders, warmed_up
from compress_explain.timing.machine import fingerprint, pinned
from compress_explain.timing.told import answer, by_block, difference, doubt, percentile, speedup, unpaired_speedup

SIDES = ("original", "compressed", CONTROL)


class Clock:
    """Time that passes only in calls; ``drift`` makes each call longer than the one before."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now, self.drift, self.calls = 0.0, drift, 0

    def __call__(self) -> float:
        return self.now

    def taking(self, milliseconds: float):
        def call() -> None:
            self.calls += 1
            self.now += 1e-3 * (milliseconds + self.drift * self.calls)

        return call


def timed(milliseconds, *, drift=0.0, **options):
    clock = Clock(drift)
    runners = {name: clock.taking(each) for name, each in zip(SIDES, milliseconds, strict=False)}
    turns = interleave(runners, Blocks(calls=2, **options), clock=clock)
    block, side, taken = (np.array(turns.columns()[name]) for name in ("block", "side", "milliseconds"))
    return turns, {name: by_block(block[side == name], taken[side == name]) for name in runners}


def test_blocks_are_mirrored_and_their_orders_drawn():
    turns, _ = timed((1, 2, 3), count=12)
    for block in range(12):
        sides = [side for each, side in zip(turns.block, turns.side, strict=True) if each == block][::2]
        assert sides == sides[::-1] and set(sides) == set(SIDES)
    assert set(Counter(orders(SIDES, 12, 1)).values()) == {2}
    assert orders(SIDES, 12, 1) != orders(SIDES, 12, 2)


def test_a_steady_drift_favours_nobody():
    """Each call is longer than the one before; in a plain order the last would come out slower by 2 calls' drift a block."""
    _, times = timed((10, 10, 10), drift=0.05, count=24)
    assert times["original"].mean() == pytest.approx(times["compressed"].mean(), rel=1e-9)
    assert speedup(times["original"], times["compressed"], 0.9).value == pytest.approx(1, abs=0.005)


def test_what_is_told_is_what_was_planted():
    _, times = timed((10, 8, 10))
    assert speedup(times["original"], times["compressed"], 0.9).value == pytest.approx(1.25)
    assert difference(times["original"], times["compressed"], 0.5, 0.9).value == pytest.approx(-2)
    assert percentile(times["compressed"], 0.95, 0.9).value == pytest.approx(8)
    assert unpaired_speedup(times["original"], times["compressed"], 0.9).low == pytest.approx(1.25)


def test_a_warm_up_ends_when_times_are_stable():
    clock = Clock()
    falling = iter([*range(100, 40, -4), *[40.0] * 100])

    def call() -> None:
        clock.now += 1e-3 * next(falling)

    taken = warmed_up(call, Blocks(), clock)
    assert taken[-1] == pytest.approx(40) and 18 < len(taken) < 40
    restless = Clock(drift=5)
    assert len(warmed_up(restless.taking(1), Blocks(most=30), restless)) == 30


def noisy(generator, runs, ratio, *, control=1.0, noise=0.03, blocks=24, calls=8):
    """Blocks that are slowed down as wholes, by a log-normal factor, with calls that differ within them."""
    together = np.exp(generator.normal(0, 0.2, (runs, blocks, 1)))
    return [
        10 * each * together * np.exp(generator.normal(0, noise, (runs, blocks, calls)))
        for each in (1.0, 1 / ratio, control)
    ]


def verdicts(ratio, **options):
    sides = noisy(np.random.default_rng(0), 60, ratio, **options)
    return Counter(
        answer(speedup(original, compressed, 0.9), speedup(original, again, 0.99))
        for original, compressed, again in zip(*sides, strict=True)
    )


def test_the_machine_is_not_taken_for_the_model():
    assert verdicts(1.0)["no difference"] >= 57 and not {"faster", "slower"} & set(verdicts(1.0))
    assert verdicts(1.2)["faster"] >= 57
    assert verdicts(1 / 1.15)["slower"] >= 57
    assert set(verdicts(1.2, control=1.1)) == {"inconclusive"}
    assert set(verdicts(1.2, noise=0.6)) == {"inconclusive"}


def test_intervals_over_blocks_hold_what_they_claim():
    """Blocks are slowed down as wholes: an interval over calls would be far too narrow."""
    sides = noisy(np.random.default_rng(1), 200, 1.1, noise=0.05, calls=4)
    covered = 0
    for original, compressed in zip(sides[0], sides[1], strict=True):
        found = speedup(original, compressed, 0.9)
        covered += found.low <= 1.1 <= found.high
    assert 170 <= covered <= 196


def test_a_doubt_names_the_figures():
    _, times = timed((10, 10, 12))
    assert "0.833 times" in doubt(speedup(times["original"], times[CONTROL], 0.99))


def test_a_process_is_kept_to_its_processors_and_let_go():
    before = os.sched_getaffinity(0)
    with pinned(1) as kept:
        assert kept and len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
    assert fingerprint()["cores"] == len(before)
