"""The course of a run: what is gone after every step, and up to where its expectations held."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from compress_explain.record.course import TINY, Stage, trust
from compress_explain.report.steps import _trust


def stage(step: str, gone: float, expected: float, observed: float | None, action: str = "remove") -> Stage:
    seen = None if observed is None else {"loss_change": observed, "n": 500}
    return Stage(
        step=step, author="neurons", action=action, counts={"neuron": 10}, flops_removed=gone, reverted=False,
        expected={"loss_change": expected, "n": 500}, observed=seen,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "observed", "held"),
    [
        (0.100, 0.125, True),  # a fifth too low
        (0.100, 0.140, False),
        (-0.020, 0.020, False),  # the wrong way
        (0.001, 0.0055, True),  # both tiny: off by less than 0.005 nats
        (0.001, 0.0065, False),
        (0.100, None, None),
        (float("nan"), 0.1, None),
    ],
)
def test_an_expectation_holds_within_a_quarter_or_half_a_hundredth_of_a_nat(expected, observed, held):
    assert stage("1-neurons-1", 0.1, expected, observed).held is held


def test_no_ratio_to_next_to_nothing():
    assert stage("1-neurons-1", 0.1, 0.02, TINY / 2).ratio is None
    assert stage("1-neurons-1", 0.1, 0.02, 0.04).ratio == pytest.approx(0.5)


def test_trust_ends_at_the_first_removal_that_was_foretold_badly():
    stages = [
        stage("1-neurons-1", 0.2, 0.010, 0.011),
        stage("1-neurons-2", 0.4, 0.050, 0.060),
        stage("1-neurons-3", 0.5, 0.010, 0.200),
        stage("1-neurons-4", 0.6, 0.100, 0.100),
        stage("reinstate-1", 0.55, 0.0, -0.4, action="restore"),  # restorations have no part in it
    ]
    found = trust(stages)
    assert (found.last_good, found.first_bad) == (stages[1], stages[2])
    assert (found.held, len(found.removals), found.good_again) == (3, 4, 1)
    assert found.facts()["flops_removed_while_it_held"] == 0.4
    sentence = _trust(SimpleNamespace(course=stages))
    assert "Up to 40% of the layer FLOPs removed" in sentence
    assert "neurons, round 3" in sentence and "expected +0.0100, observed +0.2000 nats" in sentence
    assert "Of the 1 removal step after it, 1 held again" in sentence


def test_trust_says_so_when_it_never_ended_never_began_or_is_unknown():
    good, bad, unknown = (stage("1-neurons-1", 0.3, *pair) for pair in ((0.1, 0.1), (0.1, 0.3), (0.1, None)))
    said = [_trust(SimpleNamespace(course=stages)) for stages in ([good], [bad], [unknown], [])]
    assert "up to 30% of the layer FLOPs removed" in said[0] and "does not show" in said[0]
    assert "from the first removal step on" in said[1]
    assert "cannot be said" in said[2]
    assert "No step removed anything" in said[3]
