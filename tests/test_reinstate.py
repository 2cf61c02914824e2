"""What is put back lifts the gate that failed, pushes no other out, and stays within its allowance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compress_explain.comparison.gates import Gate, Verdict, judge
from compress_explain.comparison.predictions import pair, predict
from compress_explain.comparison.scores import Score
from compress_explain.editing.masks import Masks
from compress_explain.errors import InputError
from compress_explain.evaluators import Quality, Slices
from compress_explain.model.anatomy import read_anatomy
from compress_explain.running.reinstate import Reinstatement, can_be_helped, choose_restorations, noise
from tests.trained import reviews, trained_model

CALIBRATION, VALIDATION = reviews(400, seed=4), reviews(600, seed=2, name="validation")
GATES = (
    Gate(metric="accuracy", max_drop=0.04),
    Gate(metric="accuracy", slice="negated", max_drop=0.06),
    Gate(metric="nll", slice="plain", max_rise=0.15),
    Gate(metric="negative_flips", max=0.05),
)


class Bench:
    """A trained model with three neurons in four masked at random, and its verdicts on validation."""

    def __init__(self) -> None:
        model = trained_model()
        self.masks = Masks(model, read_anatomy(model, 12))
        self.original = predict(model, VALIDATION, 128)
        everything = [name for group in self.masks.anatomy.of_kind("neuron") for name in group.components]
        order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(3))
        self.masks.remove(everything[index] for index in order[:36])

    def verdicts(self, gates=GATES) -> list[Verdict]:
        with self.masks:
            logits = predict(self.masks.model, VALIDATION, 128)
        pairs = pair(VALIDATION, self.original, logits)
        return judge(gates, [*Quality().evaluate(pairs), *Slices().evaluate(pairs)])

    def choose(self, verdicts, *, flops, most=None, reserve=0.25):
        return choose_restorations(
            self.masks, CALIBRATION, verdicts, flops=flops, most=most or flops, reserve=reserve, batch_size=64
        )

    @property
    def removed_flops(self) -> int:
        return self.masks.anatomy.saved(self.masks.removed)[1]


@pytest.fixture
def bench():
    return Bench()


def test_restorations_lift_the_failing_gate_and_push_no_other_out(bench):
    before = bench.verdicts()
    failing = [each.gate for each in before if each.state == "fail"]
    assert failing, "the bench must start with a failure"
    edits = bench.choose(before, flops=bench.removed_flops / 4)
    assert edits
    bench.masks.restore(edit.component for edit in edits)
    after = bench.verdicts()
    tightest = min(before, key=lambda each: each.slack / noise(each)).gate
    slack = {each.gate: (each.slack, now.slack) for each, now in zip(before, after, strict=True)}
    assert slack[tightest][1] > slack[tightest][0]
    assert all(now.state == "pass" for each, now in zip(before, after, strict=True) if each.state == "pass")


def test_a_component_larger_than_a_round_comes_back_alone(bench):
    """Otherwise a head that every gate needs could never return when rounds are small."""
    one = next(bench.masks.anatomy.of_kind("neuron")).flops
    assert bench.choose(bench.verdicts(), flops=one / 2) == ()
    assert len(bench.choose(bench.verdicts(), flops=one / 2, most=one)) == 1
    assert len(bench.choose(bench.verdicts(), flops=2 * one, most=10 * one)) == 2


def test_a_few_rounds_make_every_gate_hold_with_most_still_removed(bench):
    start = bench.removed_flops
    for _ in range(8):
        verdicts = bench.verdicts()
        if all(each.state == "pass" for each in verdicts):
            break
        edits = bench.choose(verdicts, flops=0.1 * start)
        bench.masks.restore(edit.component for edit in edits)
    assert [each.state for each in bench.verdicts()] == ["pass"] * len(GATES)
    assert bench.removed_flops > 0.5 * start


def test_chosen_restorations_help_more_than_random_ones(bench):
    """Worst slack in units of its noise, against the mean of eight random choices of the same size."""
    before = bench.verdicts()
    edits = bench.choose(before, flops=bench.removed_flops / 8)
    removed = bench.masks.components

    def worst_with(components):
        bench.masks.restore(components)
        tightness = min(each.slack / noise(each) for each in bench.verdicts())
        bench.masks.remove(components)
        return tightness

    generator = torch.Generator().manual_seed(0)
    random = [
        worst_with([removed[index] for index in torch.randperm(len(removed), generator=generator)[: len(edits)]])
        for _ in range(8)
    ]
    assert worst_with([edit.component for edit in edits]) > sum(random) / len(random)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3])
def test_the_allowance_is_respected(bench, share):
    allowance = share * bench.removed_flops
    edits = bench.choose(bench.verdicts(), flops=allowance, reserve=10.0)
    assert -sum(edit.flops_saved for edit in edits) <= allowance
    smallest = min(group.flops for group in bench.masks.anatomy.of_kind("neuron"))
    assert bool(edits) == (allowance >= smallest)


def test_restorations_are_of_what_is_removed_and_say_whom_they_help(bench):
    verdicts = bench.verdicts()
    edits = bench.choose(verdicts, flops=bench.removed_flops / 4)
    named = [edit.component for edit in edits]
    assert len(set(named)) == len(named)
    assert set(named) <= set(bench.masks.components)
    known = {f"{each.gate.metric} on {each.slice}" for each in verdicts}
    for place, edit in enumerate(edits, start=1):
        group, _ = bench.masks.anatomy.locate(edit.component)
        assert (edit.action, edit.parameters_saved, edit.flops_saved) == ("restore", -group.parameters, -group.flops)
        assert edit.reason.startswith(f"{place}")
        assert any(f"slack for {each}, which had" in edit.reason for each in known)


def test_choosing_changes_nothing(bench):
    removed = bench.masks.components
    verdicts = bench.verdicts()
    assert bench.choose(verdicts, flops=1e9) == bench.choose(verdicts, flops=1e9)
    assert bench.masks.components == removed
    assert bench.verdicts() == verdicts


def test_with_nothing_removed_nothing_is_restored(bench):
    verdicts = bench.verdicts()
    bench.masks.restore(bench.masks.components)
    assert bench.choose(verdicts, flops=1e9) == ()


def test_gates_without_a_figure_or_rows_to_price_on_do_not_stop_the_others(bench):
    verdicts = bench.verdicts()
    unknown = judge([Gate(metric="accuracy", slice="nowhere", max_drop=0.1)], [])
    elsewhere = [replace(each, slice="nowhere") for each in verdicts[:1]]
    assert bench.choose([*verdicts, *unknown, *elsewhere], flops=1e5) == bench.choose(verdicts, flops=1e5)
    assert bench.choose(unknown, flops=1e9) == ()


@pytest.mark.parametrize("limit", [{"max_drop": 0.01}, {"min": 0.9}])
def test_a_strangers_metric_that_must_not_fall_is_helped_by_being_right(bench, limit):
    """Restorations for an unknown metric, higher being better, are those that raise the label's probability."""
    gate = Gate(metric="their_metric", **limit)
    verdict = replace(bench.verdicts()[0], gate=gate)
    edits = bench.choose([verdict], flops=bench.removed_flops / 8)
    assert edits
    before = accuracy(bench)
    bench.masks.restore(edit.component for edit in edits)
    assert accuracy(bench) > before


def accuracy(bench):
    with bench.masks:
        return float((predict(bench.masks.model, VALIDATION, 128).argmax(1) == VALIDATION.labels).mean())


# Whether restoring could help at all


def verdict_of(gate, difference, low, high):
    score = Score(
        metric=gate.metric, slice="all", original=0.9, compressed=0.9 + difference, difference=difference, low=low,
        high=high, compressed_low=0.9 + low, compressed_high=0.9 + high, n=100, unit="share", direction="higher",
        confidence=0.9,
    )  # fmt: skip
    return judge([gate], [score])[0]


@pytest.mark.parametrize(
    ("margin", "difference", "low", "high", "reserve", "helped"),
    [
        (0.02, -0.05, -0.06, -0.04, 0.0, True),  # fails: yes
        (0.02, -0.05, -0.06, -0.04, 0.5, True),
        (0.02, 0.00, -0.01, 0.01, 0.0, False),  # passes, and no reserve is asked for
        (0.02, 0.00, -0.01, 0.01, 0.5, False),  # passes by 0.01, a whole half-width
        (0.02, -0.009, -0.019, 0.001, 0.5, True),  # passes by 0.001, a tenth of a half-width
        (0.012, -0.001, -0.011, 0.009, 0.5, False),  # not even the original's own value would leave that reserve
        (0.02, -0.015, -0.025, -0.005, 0.0, True),  # inconclusive, and narrow enough to pass at no difference
        (0.02, 0.00, -0.04, 0.04, 0.0, False),  # inconclusive, and too wide at any difference
    ],
)
def test_restoring_is_tried_where_components_not_examples_are_wanting(margin, difference, low, high, reserve, helped):
    verdict = verdict_of(Gate(metric="accuracy", max_drop=margin), difference, low, high)
    assert can_be_helped(verdict, reserve) is helped


def test_what_has_no_figure_cannot_be_helped():
    (verdict,) = judge([Gate(metric="accuracy", max_drop=0.1)], [])
    assert not can_be_helped(verdict, 0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_rounds", -1), ("max_share", 0.0), ("max_share", 1.1), ("step", 0.0), ("trims", 21), ("reserve", -0.1)],
)
def test_limits_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, match=rf"reinstatement\.{name}"):
        Reinstatement(**{name: value})
