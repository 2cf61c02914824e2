"""A scheme stores the linears that it was told to, leaves the others, and says truly what became of each."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import onnx
import pytest

from compress_explain.comparison.predictions import predict
from compress_explain.deployment import (
    BFloat16,
    Float16,
    Int8Dynamic,
    Int8Static,
    OnnxRunner,
    Scheme,
    WeightOnly,
    export_onnx,
    run_examples,
    smoothed,
)
from compress_explain.deployment.facts import sqnr
from compress_explain.deployment.names import WEIGHT, weights_of
from compress_explain.errors import ArtifactError, InputError
from compress_explain.plugins.conformance import is_frozen_dataclass
from compress_explain.record.ledger import file_digest
from compress_explain.weight_edits import Blocks, Int8
from tests.test_deployment import exported
from tests.tiny import tiny_examples, tiny_model

KEEP = "encoder.layer.1.ffn.down"
SCHEMES = {
    "dynamic": Int8Dynamic(),
    "dynamic, one scale": Int8Dynamic(per_channel=False),
    "static": Int8Static(),
    "static, entropy": Int8Static(ranges="entropy"),
    "static, percentile": Int8Static(ranges="percentile", percentile=99.9),
    "4 bits": WeightOnly(block=16),
    "8 bits": WeightOnly(bits=8, block=16),
    "4 bits, int8": WeightOnly(block=16, compute="int8"),
    "hqq": WeightOnly(block=16, method="hqq"),
    "gptq": WeightOnly(block=16, method="gptq"),
    "float16": Float16(),
    "bfloat16": BFloat16(),
}
BITS = {"int8-": 8, "int4-": 4, "fp16": 16, "bf16": 16}
LEAST = {16: 50, 8: 30, 4: 12}  # dB: a bit is 6, and these weights are noise in small blocks


def quantized(scheme, tmp_path, keep=(KEEP,), family="bert"):
    _, _, file = exported(family, True)
    target = tmp_path / "quantized.onnx"
    return target, scheme.quantize(file.path, target, keep=keep, calibration=tiny_examples(family))


@pytest.mark.parametrize("name", SCHEMES)
def test_each_linear_is_stored_as_the_facts_say_and_the_kept_one_as_it_was(name, tmp_path):
    scheme = SCHEMES[name]
    assert isinstance(scheme, Scheme) and is_frozen_dataclass(scheme)
    model, anatomy, file = exported("bert", True)
    target, facts = quantized(scheme, tmp_path)
    source, written = onnx.load(file.path), onnx.load(target)
    assert facts.keys() == anatomy.linears.keys()
    kept = facts.pop(KEEP)
    assert (kept.scheme, kept.bits, kept.digest, kept.sqnr) == ("float32", 32, "", float("inf"))
    np.testing.assert_array_equal(weights_of(written)[KEEP], weights_of(source)[KEEP])
    bits = next(bits for start, bits in BITS.items() if scheme.name.startswith(start))
    assert {each.bits for each in facts.values()} == {bits}
    assert all(LEAST[bits] < each.sqnr < 90 for each in facts.values())
    assert len({each.digest for each in facts.values()}) == (1 if bits == 16 else len(facts))
    floats = {tensor.name for tensor in written.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    assert not floats & {component + WEIGHT for component in facts}
    original = run_examples(OnnxRunner(path=file.path), tiny_examples("bert"), 8)
    logits = run_examples(OnnxRunner(path=target), tiny_examples("bert"), 8)
    assert 0 < np.abs(logits - original).max() < {16: 0.05, 8: 0.5, 4: 6}[bits]


@pytest.mark.parametrize("name", SCHEMES)
def test_the_same_input_gives_the_same_file(name, tmp_path):
    (tmp_path / "again").mkdir()
    digests = {file_digest(quantized(SCHEMES[name], folder)[0]) for folder in (tmp_path, tmp_path / "again")}
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["dynamic", "static", "4 bits", "gptq", "float16"])
def test_with_every_linear_kept_nothing_changes(name, tmp_path):
    _, anatomy, file = exported("bert", True)
    scheme = replace(SCHEMES[name], embeddings=False) if name == "float16" else SCHEMES[name]
    target, facts = quantized(scheme, tmp_path, keep=tuple(anatomy.linears))
    assert {each.scheme for each in facts.values()} == {"float32"}
    examples = tiny_examples("bert")
    same = run_examples(OnnxRunner(path=file.path), examples), run_examples(OnnxRunner(path=target), examples)
    np.testing.assert_array_equal(*same)


def test_weights_are_rounded_as_the_priced_edits_round_them(tmp_path):
    """What a price was told the runtime does is what it does: one definition of int8 and of int4."""
    model, anatomy, _ = exported("bert", True)
    for scheme, edit in ((Int8Dynamic(), Int8()), (WeightOnly(block=16), Blocks(bits=4, group=16))):
        _, facts = quantized(scheme, tmp_path)
        for component, linear in anatomy.linears.items():
            module = model.get_submodule(linear.module)
            if component != KEEP:
                edited = edit.prepare(module.weight.detach(), None).weight.numpy()
                assert facts[component].sqnr == pytest.approx(sqnr(module.weight.detach().numpy(), edited), abs=0.05)


def test_scales_of_an_output_are_closer_than_one_scale(tmp_path):
    _, fine = quantized(Int8Dynamic(), tmp_path)
    _, coarse = quantized(Int8Dynamic(per_channel=False), tmp_path)
    assert all(fine[name].sqnr > coarse[name].sqnr for name in fine if name != KEEP)
    _, seven = quantized(Int8Dynamic(reduce_range=True), tmp_path)
    assert all(fine[name].sqnr > seven[name].sqnr + 3 for name in fine if name != KEEP)


def test_embeddings_in_fewer_bits_are_fewer_bytes_and_nearly_the_same_rows(tmp_path):
    _, _, file = exported("bert", True)
    sizes, logits = {}, {}
    for bits in (32, 8, 4):
        target, _ = quantized(Int8Dynamic(embeddings=bits), tmp_path)
        sizes[bits] = sum(len(tensor.raw_data) for tensor in onnx.load(target).graph.initializer)
        logits[bits] = run_examples(OnnxRunner(path=target), tiny_examples("bert"))
    assert sizes[4] < sizes[8] < sizes[32]
    assert 0 < np.abs(logits[8] - logits[32]).max() < 0.5
    assert 0 < np.abs(logits[4] - logits[32]).max() < 4


def test_static_ranges_make_rows_independent_of_the_rows_beside_them(tmp_path):
    examples = tiny_examples("bert")
    static, _ = quantized(Int8Static(), tmp_path)
    runner = OnnxRunner(path=static)
    np.testing.assert_allclose(run_examples(runner, examples, 1), run_examples(runner, examples, 24), atol=1e-4)
    dynamic, _ = quantized(Int8Dynamic(), tmp_path)
    runner = OnnxRunner(path=dynamic)
    assert np.abs(run_examples(runner, examples, 1) - run_examples(runner, examples, 24)).max() > 1e-4


def test_other_families_are_quantized_too(tmp_path):
    for family in ("gpt2", "vit"):  # Conv1D; a pre-norm encoder
        _, anatomy, _ = exported(family, True)
        keep = list(anatomy.linears)[:1]
        for scheme in (Int8Dynamic(), Int8Static(), WeightOnly(block=16)):
            _, facts = quantized(scheme, tmp_path, keep=keep, family=family)
            assert [name for name, each in facts.items() if each.bits == 32] == keep


def test_unknown_linears_and_missing_examples_are_refused_before_anything_is_written(tmp_path):
    _, _, file = exported("bert", True)
    target = tmp_path / "out.onnx"
    with pytest.raises(InputError, match=r"did you mean 'encoder.layer.1.ffn.down'"):
        Int8Dynamic().quantize(file.path, target, keep=["encoder.layer.1.ffn.dwn"])
    for scheme in (Int8Static(), WeightOnly(method="gptq")):
        with pytest.raises(InputError, match="give calibration rows"):
            scheme.quantize(file.path, target)
    with pytest.raises(InputError, match="export the model"):
        Int8Dynamic().quantize(tmp_path / "none.onnx", target)
    quantized_file, _ = quantized(Int8Dynamic(), tmp_path, keep=())
    with pytest.raises(InputError, match="quantize the float32 file"):
        Int8Dynamic().quantize(quantized_file, target)
    assert not target.exists()


def test_configurations_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="choose one of: 16"):
        WeightOnly(block=33)
    with pytest.raises(InputError, match="4 bits only"):
        WeightOnly(bits=8, method="hqq")
    with pytest.raises(InputError, match="percentile"):
        Int8Static(percentile=0.0)
    with pytest.raises(FrozenInstanceError):
        Int8Dynamic().per_channel = False  # type: ignore[misc]


def test_a_weight_beyond_the_range_of_float16_is_refused(tmp_path):
    _, _, file = exported("bert", True)
    document = onnx.load(file.path)
    tensor = next(each for each in document.graph.initializer if each.name == KEEP + WEIGHT)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0] = 1e6
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(document, tmp_path / "large.onnx")
    with pytest.raises(ArtifactError, match="beyond the range of float16"):
        Float16().quantize(tmp_path / "large.onnx", tmp_path / "out.onnx")
    assert Float16().quantize(tmp_path / "large.onnx", tmp_path / "out.onnx", keep=[KEEP])[KEEP].bits == 32


@pytest.mark.parametrize("family", ["vit", "gpt2", "llama", "qwen3", "t5"])
def test_smoothing_moves_range_into_weights_and_changes_no_logit(family):
    model, examples = tiny_model(family), tiny_examples(family)
    moved = smoothed(model, examples, alpha=0.5)
    np.testing.assert_allclose(predict(moved, examples), predict(model, examples), atol=2e-4, rtol=0)
    ours, theirs = dict(moved.named_parameters()), dict(model.named_parameters())
    assert sum(not ours[name].equal(theirs[name]) for name in ours) >= 10


def test_smoothing_leaves_norms_that_the_residual_stream_reads_and_refuses_other_strengths():
    model, examples = tiny_model("bert"), tiny_examples("bert")
    moved = smoothed(model, examples)
    assert all(ours.equal(theirs) for ours, theirs in zip(moved.parameters(), model.parameters(), strict=True))
    with pytest.raises(InputError, match="alpha"):
        smoothed(model, examples, alpha=1.5)


@pytest.mark.slow
def test_smoothing_brings_static_int8_closer_where_a_channel_is_wide(tmp_path):
    import torch

    model, examples = tiny_model("vit"), tiny_examples("vit", rows=64)
    with torch.no_grad():
        for layer in model.vit.layers:
            layer.layernorm_before.weight[3] = 40.0
    errors = {}
    for name, each in (("as it is", model), ("smoothed", smoothed(model, examples))):
        file = export_onnx(each, examples, tmp_path / f"{name}.onnx")
        Int8Static().quantize(file.path, tmp_path / "out.onnx", calibration=examples)
        errors[name] = np.abs(
            run_examples(OnnxRunner(path=tmp_path / "out.onnx"), examples) - predict(model, examples)
        ).mean()
    assert errors["smoothed"] < 0.7 * errors["as it is"]
