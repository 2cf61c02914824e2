"""An exported file computes what the model computes, at any size, and calls the linears by component."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compress_explain.comparison.predictions import predict
from compress_explain.deployment import OnnxRunner, Runner, TorchRunner, check, export_onnx, run_examples
from compress_explain.deployment.names import embedding_nodes, linear_nodes, name_linears, weights_of
from compress_explain.editing.surgery import materialize
from compress_explain.errors import ArtifactError, InputError
from compress_explain.model.anatomy import read_anatomy
from tests.tiny import EXPORTED, NOT_EXPORTED, tiny_examples, tiny_inputs, tiny_model, tiny_tokens, uneven_removal

FAST = ("bert", "vit")
CASES = [pytest.param("bert", False, id="bert-original")] + [
    pytest.param(family, True, id=f"{family}-cut", marks=() if family in FAST else pytest.mark.exhaustive)
    for family in EXPORTED
]


@functools.cache
def exported(family, cut):
    """A tiny model, cut unevenly or not, its anatomy, and its file: made once for all tests."""
    model = tiny_model(family)
    anatomy = read_anatomy(model, tiny_tokens(family))
    if cut:
        model = materialize(model, anatomy, uneven_removal(anatomy))
    path = Path(tempfile.mkdtemp()) / f"{family}.onnx"
    return model, anatomy, export_onnx(model, tiny_examples(family), path)


@pytest.mark.parametrize(("family", "cut"), CASES)
def test_the_file_computes_what_the_model_computes_at_sizes_it_was_not_exported_with(family, cut):
    model, _, file = exported(family, cut)
    runner = OnnxRunner(path=file.path)
    for batch, tokens in ((1, 7), (5, 12), (7, 3)):  # exported with 2 rows of 9 tokens
        inputs = tiny_inputs(family, batch, tokens)
        with torch.inference_mode():
            expected = model(**inputs).logits.numpy()
        np.testing.assert_allclose(runner(inputs), expected, atol=1e-4, rtol=0)
    assert check(file.path, model, tiny_examples(family)) <= 1e-4


@pytest.mark.parametrize(("family", "cut"), CASES)
def test_each_linear_is_found_once_by_its_component_with_the_weight_that_it_has(family, cut):
    model, anatomy, file = exported(family, cut)
    weights = weights_of(onnx.load(file.path))
    assert weights.keys() == anatomy.linears.keys()
    for component, linear in anatomy.linears.items():
        weight = model.get_submodule(linear.module).weight.detach().numpy()
        transposed = type(model.get_submodule(linear.module)).__name__ != "Conv1D"
        np.testing.assert_array_equal(weights[component], weight.T if transposed else weight)


@pytest.mark.parametrize(("family", "cut"), CASES)
def test_rows_run_as_predict_runs_them(family, cut):
    model, _, file = exported(family, cut)
    examples = tiny_examples(family, rows=11)
    expected = predict(model, examples, 4)
    seen = []
    logits = run_examples(OnnxRunner(path=file.path), examples, 4, seen.append)
    assert logits.dtype == expected.dtype and seen == [4, 4, 3]
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", list(NOT_EXPORTED))
def test_what_cannot_be_exported_is_refused_with_the_reason(family, tmp_path):
    with pytest.raises((ArtifactError, InputError), match=NOT_EXPORTED[family]):
        export_onnx(tiny_model(family), tiny_examples(family), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", pytest.param("llama", marks=pytest.mark.exhaustive)])
def test_language_models_give_logits_of_every_position(family, tmp_path):
    model = tiny_model(family, generates=True)
    file = export_onnx(model, tiny_examples(family), tmp_path / "model.onnx")
    inputs = tiny_inputs(family, 3, 6)
    with torch.inference_mode():
        expected = model(**inputs).logits
    actual = torch.from_numpy(OnnxRunner(path=file.path)(inputs))
    assert actual.shape == expected.shape
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(actual[real], expected[real], atol=1e-4, rtol=0)
    assert model.config.use_cache or family == "gpt2"  # as it was before


def test_one_self_contained_file_with_the_names_of_the_models_arguments():
    model, _, file = exported("bert", True)
    document = onnx.load(file.path, load_external_data=False)
    onnx.checker.check_model(document)
    assert [path.name for path in file.path.parent.iterdir()] == [file.path.name]
    assert [value.name for value in document.graph.input] == list(file.inputs) == ["input_ids", "attention_mask"]
    assert [value.name for value in document.graph.output] == ["logits"]
    assert {entry.domain: entry.version for entry in document.opset_import}[""] == file.opset
    assert file.bytes == file.path.stat().st_size
    assert len(embedding_nodes(document)) == 3
    assert b"/" + Path(__file__).parent.name.encode() not in file.path.read_bytes()  # no path of this machine
    assert model.config._attn_implementation == "sdpa" and not model.training


def test_equal_models_give_equal_files_and_large_ones_keep_their_weights_beside_them(tmp_path):
    model, _, file = exported("bert", True)
    other = export_onnx(model, tiny_examples("bert"), tmp_path / "again" / "bert.onnx")
    assert other.digest == file.digest
    split = export_onnx(model, tiny_examples("bert"), tmp_path / "split" / "bert.onnx", single_file=10_000)
    assert sorted(path.name for path in split.path.parent.iterdir()) == ["bert.onnx", "bert.onnx.data"]
    places = {
        entry.value
        for tensor in onnx.load(split.path, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert places == {"bert.onnx.data"}
    (split.path.parent.rename(tmp_path / "moved"))
    assert check(tmp_path / "moved" / "bert.onnx", model, tiny_examples("bert")) <= 1e-4


def test_a_file_of_another_model_is_found_out():
    model, _, file = exported("bert", True)
    with pytest.raises(ArtifactError, match=r"differ from the model's by up to .* Remedy"):
        check(file.path, tiny_model("bert", seed=1), tiny_examples("bert"))
    nudged = tiny_model("bert")
    anatomy = read_anatomy(nudged, 9)
    nudged = materialize(nudged, anatomy, uneven_removal(anatomy))
    with torch.no_grad():
        nudged.classifier.bias += 1e-3
    with pytest.raises(ArtifactError, match="differ"):
        check(file.path, nudged, tiny_examples("bert"))


def test_a_linear_that_is_not_in_the_graph_is_named():
    _, _, file = exported("bert", True)
    document = onnx.load(file.path)
    with pytest.raises(ArtifactError, match=r"encoder\.layer\.7\.ffn\.up: no node .* Remedy"):
        name_linears(document, {"encoder.layer.7.ffn.up": "bert.encoder.layer.7.intermediate.dense"})
    assert len(linear_nodes(onnx.load(file.path))) == 18


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(InputError, match="only float32 weights"):
        export_onnx(tiny_model("bert").bfloat16(), tiny_examples("bert"), tmp_path / "model.onnx")
    with pytest.raises(InputError, match="two graphs"):
        export_onnx(tiny_model("t5", generates=True), tiny_examples("t5"), tmp_path / "model.onnx")


def test_a_runner_teaches_what_is_wrong_with_its_file_or_inputs(tmp_path):
    _, _, file = exported("bert", True)
    with pytest.raises(InputError, match="wants it.*Remedy: give input_ids, attention_mask"):
        OnnxRunner(path=file.path)({"input_ids": torch.ones(1, 3, dtype=torch.long)})
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match="cannot load it"):
        OnnxRunner(path=tmp_path / "broken.onnx")(tiny_inputs("bert"))


def test_runners_conform_and_a_torch_runner_predicts_as_predict_does():
    model, _, file = exported("bert", True)
    runner = TorchRunner(model=model)
    assert isinstance(runner, Runner) and isinstance(OnnxRunner(path=file.path), Runner)
    examples = tiny_examples("bert")
    np.testing.assert_array_equal(run_examples(runner, examples, 8), predict(model, examples, 8))
    rounded = run_examples(TorchRunner(model=model, dtype="bfloat16"), examples, 8)
    assert 0 < np.abs(rounded - predict(model, examples, 8)).max() < 0.2
    assert model.dtype == torch.float32
