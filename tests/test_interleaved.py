"""Interleaved timing takes turns, is not fooled by a machine that slows down, and doubts itself where it must."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from compress_explain.comparison.contest import Contest, Side
from compress_explain.comparison.gates import Gate, judge
from compress_explain.comparison.predictions import logits_of, pair, predict
from compress_explain.errors import InputError
from compress_explain.evaluators import ColdStart, Latency
from compress_explain.hardware.interleaved import COMPRESSED, CONTROL, ORIGINAL, Patience, interleave, orders, warm_up
from compress_explain.hardware.paired_times import PairedTimes
from tests.tiny import tiny_examples, tiny_model


class Machine:
    """A clock that runners move: each call takes its time, more and more, and a draw of noise."""

    def __init__(self, drift=0.0, noise=0.0, seed=0):
        self.now, self.calls, self.drift, self.noise = 0.0, [], drift, noise
        self.rng = np.random.default_rng(seed)

    def __call__(self):
        return self.now

    def runner(self, name, seconds):
        def call():
            self.calls.append(name)
            slower = 1 + self.drift * len(self.calls)
            self.now += seconds * slower * float(np.exp(self.noise * self.rng.standard_normal()))

        return call


def timed_calls(machine, compressed, again=0.01, blocks=60, seed=0):
    sides = {ORIGINAL: machine.runner("A", 0.01), COMPRESSED: machine.runner("B", compressed), CONTROL: machine.runner("C", again)}  # fmt: skip
    return interleave(sides, Patience(blocks=blocks, seconds=1e9), seed=seed, clock=machine)


def measured(*given, **named):
    calls = timed_calls(*given, **named)
    return PairedTimes.of([c.block for c in calls], [c.side for c in calls], [c.milliseconds for c in calls])


def tiny_contest():
    model, smaller, examples = tiny_model("bert"), tiny_model("bert", seed=1), tiny_examples("bert")
    sides = [
        Side(name=name, forward=logits_of(each), examples=examples, processor=None, module=each)
        for name, each in (("original", model), ("compressed", smaller))
    ]
    pairs = pair(examples, predict(model, examples), predict(smaller, examples))
    return Contest(original=sides[0], compressed=sides[1], pairs=pairs)


def test_two_runners_take_turns_as_abba_or_baab_as_often():
    counts = Counter("".join(order) for order in orders(["A", "B"], 40, seed=3))
    assert counts == {"ABBA": 20, "BAAB": 20}
    three = list(orders(["A", "B", "C"], 60, seed=3))
    assert all(order == order[::-1] for order in three) and set(Counter(three).values()) == {10}
    assert three != list(orders(["A", "B", "C"], 60, seed=4))


def test_a_machine_that_slows_down_fools_nobody():
    times = measured(Machine(drift=0.002), compressed=0.01)
    assert times.speedup.value == pytest.approx(1, abs=0.002) and times.word == "no difference"
    assert measured(Machine(drift=0.002), compressed=0.005).speedup.value == pytest.approx(2, rel=0.01)


def test_what_is_faster_is_called_so_and_nothing_else_is():
    words = {share: Counter() for share in (0.8, 1.0, 1.2)}
    for seed in range(15):
        for share, counts in words.items():
            counts[measured(Machine(noise=0.05, seed=seed), compressed=0.01 * share, seed=seed).word] += 1
    assert words[0.8]["faster"] >= 14 and words[1.2]["slower"] >= 14
    assert words[0.8]["slower"] + words[1.2]["faster"] + words[1.0]["faster"] + words[1.0]["slower"] == 0


def test_the_interval_of_a_speedup_covers_it_as_often_as_it_says():
    covered = 0
    for seed in range(60):
        of = measured(Machine(noise=0.1, seed=seed), compressed=0.008, blocks=30).speedup
        covered += of.low <= 1.25 <= of.high
    assert covered / 60 >= 0.80


def test_a_machine_on_which_the_original_differs_from_itself_gives_no_verdict():
    times = measured(Machine(noise=0.01), compressed=0.007, again=0.011)
    assert times.word == "inconclusive"
    assert times.doubt.startswith("the machine was too noisy: the original against itself gave 0.9")
    assert "too noisy" in measured(Machine(noise=0.8), compressed=0.0099, blocks=12).doubt


def test_warming_up_ends_when_calls_are_steady():
    taken = iter([9, 8, 7, 6, 5, *[1] * 100])
    clock = Machine()

    def call():
        clock.now += next(taken)

    assert warm_up(call, Patience(), clock) == 13
    restless = Machine(drift=1)
    assert warm_up(restless.runner("A", 1), Patience(most=30), restless) == 30


def table(compressed, again=0.01, blocks=40):
    frame = pd.DataFrame([vars(call) for call in timed_calls(Machine(noise=0.01), compressed, again, blocks)])
    return pd.concat([frame.assign(point=f"{batch}xmedian", batch=batch, tokens=9) for batch in (1, 16)])


def test_scores_are_named_before_and_gates_judge_them():
    evaluator = Latency()
    scores = {score.metric: score for score in evaluator.scores(table(0.005))}
    assert set(scores) <= set(evaluator.metrics) and "latency.p99" not in scores
    assert scores["latency.speedup"].compressed == pytest.approx(2, rel=0.02)
    assert scores["latency.p50"].difference == pytest.approx(-5, rel=0.02)
    assert scores["throughput"].compressed == pytest.approx(16 / 0.005, rel=0.02)
    gates = [Gate(metric="latency.speedup", min=1.5), Gate(metric="latency.16xmedian.p50", max_rise=0), Gate(metric="latency.p95", max=3)]  # fmt: skip
    assert [verdict.state for verdict in judge(gates, scores.values())] == ["pass", "pass", "fail"]
    doubted = judge(gates, evaluator.scores(table(0.005, again=0.011)))
    assert {verdict.state for verdict in doubted} == {"inconclusive"} and "too noisy" in doubted[0].message
    assert "latency.p99" in {score.metric for score in evaluator.scores(table(0.005, blocks=500))}
    assert evaluator.scores(table(0.005)) == evaluator.scores(table(0.005))


def test_both_models_are_timed_at_every_size():
    evaluator = Latency(batches=[1, 2], tokens=[4, 9], blocks=12)
    found = evaluator.measure(tiny_contest(), lambda rows: None)
    assert list(found["point"].unique()) == ["1x4", "1x9", "2x4", "2x9"]
    assert set(found["side"]) == {ORIGINAL, COMPRESSED, CONTROL} and len(found) == 4 * 12 * 6
    assert {score.metric for score in evaluator.scores(found)} >= {"latency.2x9.p95", "throughput"}


def test_options_that_measure_nothing_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        Latency(batches=(0,))
    with pytest.raises(InputError, match="fewer than 12"):
        Patience(blocks=3)
    with pytest.raises(InputError, match="at least 2"):
        ColdStart(rounds=1)
    assert Latency(batches=[1], tokens=[128]).metrics[5] == "latency.1x128.p50"


def test_a_cold_start_is_told_with_its_parts():
    taken = {"imported": (1.0, 0.5), "loaded": (0.4, 0.2), "answered": (0.2, 0.1), "memory": (9.0, 9.0)}
    lines = [
        {"round": number, "figure": name, "original": before + 0.01 * number, "compressed": after, "why": ""}
        for number in range(4)
        for name, (before, after) in taken.items()
    ]
    scores = {score.metric: score for score in ColdStart().scores(pd.DataFrame(lines))}
    assert tuple(scores) == ColdStart().metrics
    assert scores["cold_start"].compressed == pytest.approx(0.8) and scores["cold_start"].high < 0
    assert scores["cold_start.load"].compressed == pytest.approx(0.2)
    assert ColdStart().scores(pd.DataFrame(columns=["round", "figure", "original", "compressed", "why"])) == []


@pytest.mark.slow
def test_models_are_started_in_processes_of_their_own():
    found = ColdStart(rounds=2).measure(tiny_contest(), lambda rows: None)
    assert len(found) == 8 and (found[["original", "compressed"]] > 0).all().all()
