"""Where a model's time goes: every part in its layer, and what was made cheaper found to be so."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from compress_explain.comparison.contest import Contest, Side
from compress_explain.comparison.gates import Gate, judge
from compress_explain.comparison.predictions import logits_of, pair
from compress_explain.deployment.export import export_onnx
from compress_explain.deployment.int8 import Int8Dynamic
from compress_explain.deployment.layer_times import OUTSIDE, REST, by_layer, layer_table, onnx_times, torch_times
from compress_explain.errors import InputError
from compress_explain.evaluators.layer_times import LayerTimes
from compress_explain.model.anatomy import read_anatomy
from compress_explain.plugins.catalog import EVALUATORS
from compress_explain.plugins.evaluator import check_evaluator
from compress_explain.record.protocol import described
from compress_explain.report.layer_times import layer_times_section
from compress_explain.report.page import environment
from tests.tiny import tiny_examples, tiny_model

CALLS = 5


@pytest.fixture(scope="module")
def bert():
    return tiny_model("bert", labels=2), tiny_examples("bert", labels=2)


@pytest.fixture(scope="module")
def file(bert, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(*bert, path)
    return path


@pytest.mark.slow
def test_every_linear_of_a_file_is_found_in_its_layer(bert, file):
    model, examples = bert
    anatomy = read_anatomy(model, 9)
    inputs = next(examples.batches(4)).inputs
    times = onnx_times(file, anatomy, inputs, calls=CALLS)
    assert {part for _, part in times} - {REST} == set(anatomy.linears)
    assert all(layer == part.rsplit(".", 2)[0] for layer, part in times if part != REST)
    assert {layer for layer, part in times if part == REST} >= {OUTSIDE, *anatomy.layers}
    assert all(milliseconds >= 0 for milliseconds in times.values()) and sum(times.values()) > 0


@pytest.mark.slow
def test_quantized_linears_keep_their_names(bert, file, tmp_path):
    model, examples = bert
    anatomy = read_anatomy(model, 9)
    Int8Dynamic().quantize(file, tmp_path / "int8.onnx", calibration=examples)
    times = onnx_times(tmp_path / "int8.onnx", anatomy, next(examples.batches(4)).inputs, calls=CALLS)
    assert {part for _, part in times} - {REST} == set(anatomy.linears)


def test_a_layer_that_dawdles_is_found(bert):
    """One linear is made to wait for 50 ms before it computes."""
    model, examples = tiny_model("bert", labels=2), bert[1]
    anatomy, inputs = read_anatomy(model, 9), next(examples.batches(4)).inputs
    before = torch_times(model, anatomy, inputs, calls=CALLS)
    name = next(each for each in anatomy.linears if each.startswith("encoder.layer.1.ffn.up"))
    linear = model.get_submodule(anatomy.linears[name].module)
    plain = linear.forward

    def dawdling(x):
        time.sleep(0.05)
        return plain(x)

    linear.forward = dawdling
    table = layer_table(before, torch_times(model, anatomy, inputs, calls=CALLS))
    longer = table["compressed"] - table["original"]
    assert table.loc[longer.idxmax(), "part"] == name
    layers = by_layer(table).set_index("layer")
    assert (layers["compressed"] - layers["original"]).idxmax() == "encoder.layer.1"


def test_what_is_marked_is_unmarked_again(bert):
    model, examples = bert
    torch_times(model, read_anatomy(model, 9), next(examples.batches(2)).inputs, calls=1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.get_num_threads() == 1


def test_what_is_gone_takes_nothing():
    table = layer_table({("layer.0", "a"): 2.0, ("layer.1", "b"): 1.0}, {("layer.0", "a"): 1.0})
    expected = pd.DataFrame(
        {"layer": ["layer.0", "layer.1"], "original": [2.0, 1.0], "compressed": [1.0, 0.0], "left": [0.5, 0.0]}
    )
    pd.testing.assert_frame_equal(by_layer(table), expected)


def contest_of(model, other, examples):
    logits = np.zeros((len(examples), 2), dtype=np.float32)
    sides = [
        Side(name=name, forward=logits_of(each), examples=examples, processor=None, module=each)
        for name, each in (("original", model), ("compressed", other))
    ]
    return Contest(original=sides[0], compressed=sides[1], pairs=pair(examples, logits, logits))


def test_both_models_by_turns_and_a_doubt_that_no_gate_passes(bert):
    model, examples = bert
    evaluator = LayerTimes(rounds=2, calls=2)
    check_evaluator(evaluator)
    table = evaluator.measure(contest_of(model, model, examples), lambda rows: None)
    assert set(table["round"]) == {0, 1}
    scores = evaluator.scores(table)
    assert [score.metric for score in scores] == list(evaluator.metrics) and all(score.doubt for score in scores)
    (verdict,) = judge([Gate(metric="layer_times.linears", max=1e9)], scores)
    assert verdict.state == "inconclusive"
    section = layer_times_section(table)
    page = environment().get_template("section_layer_times.html").render(layer_times=section)
    assert "encoder.layer.1" in page and section.rounds == 2


def test_what_cannot_be_timed_says_why(bert):
    model, examples = bert
    contest = contest_of(model, model, examples)
    without = replace(contest, original=replace(contest.original, module=None))
    table = LayerTimes().measure(without, lambda rows: None)
    assert "not at hand in torch" in table["why"].iloc[0]
    assert LayerTimes().scores(table) == [] and layer_times_section(table) is None and layer_times_section(None) is None


def test_too_few_rounds_are_refused():
    with pytest.raises(InputError):
        LayerTimes(rounds=1)


@pytest.mark.parametrize("name", list(EVALUATORS))
def test_an_evaluator_is_built_again_from_what_a_run_remembers(name):
    """Records call a part by its class in small letters, ``layertimes``; it is announced as ``layer_times``."""
    evaluator = EVALUATORS.build(name, {})
    options = json.loads(json.dumps(described(evaluator)))
    assert EVALUATORS.build(options.pop("name"), options) == evaluator
