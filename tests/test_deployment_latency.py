"""Runners are measured side by side, and the roofline is the multiply-adds of what is left at a measured rate."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest
import torch

from compress_explain.comparison.predictions import predict
from compress_explain.deployment import (
    CompiledRunner,
    Latency,
    Rates,
    Runner,
    compile_package,
    measure,
    measure_rates,
    run_examples,
    text_inputs,
)
from compress_explain.editing.surgery import materialize
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from tests.tiny import tiny_examples, tiny_inputs, tiny_model, uneven_removal


class Sleeper:
    """A runner that takes so many seconds, and says so."""

    def __init__(self, seconds, calls):
        self.seconds, self.calls = seconds, calls

    def __call__(self, inputs):
        self.calls.append(self.seconds)
        time.sleep(self.seconds)
        return np.zeros((len(inputs["input_ids"]), 2), dtype=np.float32)


def test_runners_take_turns_and_the_slower_one_is_told_to_be_slower():
    calls = []
    runners = {"slow": Sleeper(0.02, calls), "fast": Sleeper(0.002, calls)}
    assert all(isinstance(runner, Runner) for runner in runners.values())
    taken = measure(runners, text_inputs(1, 4, vocabulary=60), rounds=4, warm_up=1)
    assert calls == [0.02, 0.002] + [0.02, 0.002, 0.002, 0.02] * 2
    assert len(taken["slow"].milliseconds) == 4
    assert taken["slow"].median >= 20 and taken["fast"].median >= 2
    assert taken["fast"].times_faster(taken["slow"]) > 2
    low, high = taken["fast"].interval
    assert taken["fast"].fastest <= low <= taken["fast"].median <= high
    with pytest.raises(InputError, match="at least one round"):
        measure(runners, {}, rounds=0)


def test_the_interval_of_a_median_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        low, high = Latency(milliseconds=tuple(rng.exponential(1.0, 25).tolist())).interval
        covered += low <= np.log(2) <= high
    assert covered / 400 >= 0.93


def test_the_roofline_counts_the_linears_that_are_left():
    model = tiny_model("bert")
    anatomy = read_anatomy(model, 9)
    rates = Rates(float32=1e6, bfloat16=2e6, int8=4e6)
    whole = rates.milliseconds(anatomy, batch=2)
    multiply_adds = 2 * 9 * 3 * (4 * 32 * 32 + 2 * 32 * 24)  # batch, tokens, layers
    assert whole == {
        "float32": pytest.approx(multiply_adds / 1e3),
        "bfloat16": pytest.approx(multiply_adds / 2e3),
        "int8": pytest.approx(multiply_adds / 4e3),
    }
    removed = uneven_removal(anatomy)
    left = rates.milliseconds(read_anatomy(materialize(model, anatomy, removed), 9), batch=2)
    assert left["int8"] < 0.8 * whole["int8"]


def test_rates_are_of_this_machine():
    rates = measure_rates(rows=64, inputs=256, outputs=256, rounds=3)
    assert all(1e7 < rate < 1e14 for rate in (rates.float32, rates.bfloat16, rates.int8))


def test_random_texts_have_the_size_that_was_asked_for():
    inputs = text_inputs(3, 7, vocabulary=60)
    assert {tuple(value.shape) for value in inputs.values()} == {(3, 7)}
    assert int(inputs["input_ids"].max()) < 60 and bool(inputs["attention_mask"].all())


def test_nothing_is_compiled_without_a_compiler_or_to_another_ending(tmp_path, monkeypatch):
    model, examples = tiny_model("bert"), tiny_examples("bert")
    with pytest.raises(InputError, match=r"write model\.pt2"):
        compile_package(model, examples, tmp_path / "model.so")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="install one"):
        compile_package(model, examples, tmp_path / "model.pt2")
    with pytest.raises(InputError, match="compile it on the kind of machine"):
        CompiledRunner(path=tmp_path / "model.pt2")(tiny_inputs("bert"))


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_package_computes_what_the_cut_model_computes_at_other_sizes_too(family, tmp_path):
    model = tiny_model(family)
    anatomy = read_anatomy(model, 9)
    model = materialize(model, anatomy, uneven_removal(anatomy))
    examples = tiny_examples(family)
    expected = predict(model, examples)
    for dtype, tolerance in (("float32", 1e-4), ("bfloat16", 0.2)):
        package = compile_package(model, examples, tmp_path / f"{dtype}.pt2", dtype=dtype)
        logits = run_examples(CompiledRunner(path=package, dtype=dtype), examples, 7)
        np.testing.assert_allclose(logits, expected, atol=tolerance, rtol=0)
    assert model.dtype == torch.float32 and model.config._attn_implementation == "sdpa"
