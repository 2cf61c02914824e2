"""Where a model's time goes: every part in its layer, and what was made cheaper found to be so."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from compress_explain.deployment.export import export_onnx
from compress_explain.deployment.int8 import Int8Dynamic
from compress_explain.deployment.layer_times import BEFORE, REST, by_layer, layer_table, onnx_times, torch_times
from compress_explain.model.anatomy import read_anatomy
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
    assert {layer for layer, part in times if part == REST} >= {BEFORE, *anatomy.layers}
    assert all(milliseconds >= 0 for milliseconds in times.values()) and sum(times.values()) > 0


@pytest.mark.slow
def test_quantized_linears_keep_their_names(bert, file, tmp_path):
    model, examples = bert
    anatomy = read_anatomy(model, 9)
    Int8Dynamic().quantize(file, tmp_path / "int8.onnx", calibration=examples)
    times = onnx_times(tmp_path / "int8.onnx", anatomy, next(examples.batches(4)).inputs, calls=CALLS)
    assert {part for _, part in times} - {REST} == set(anatomy.linears)


def test_a_layer_that_dawdles_is_found(bert):
    """One linear is made to compute its product 400 times over."""
    model, examples = tiny_model("bert", labels=2), bert[1]
    anatomy, inputs = read_anatomy(model, 9), next(examples.batches(4)).inputs
    before = torch_times(model, anatomy, inputs, calls=CALLS)
    name = next(each for each in anatomy.linears if each.startswith("encoder.layer.1.ffn.up"))
    linear = model.get_submodule(anatomy.linears[name].module)
    plain = linear.forward

    def dawdling(x):
        for _ in range(400):
            result = plain(x)
        return result

    linear.forward = dawdling
    table = layer_table(before, torch_times(model, anatomy, inputs, calls=CALLS))
    longer = table["compressed"] - table["original"]
    assert table.loc[longer.idxmax(), "part"] == name
    layers = by_layer(table).set_index("layer")
    assert layers.loc["encoder.layer.1", "left"] > layers.loc["encoder.layer.0", "left"]


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
