"""An edit of a weight changes the output by what it says, rounds as the runtime rounds and stores what it counts."""

from __future__ import annotations

import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch.nn import functional

from compress_explain.errors import InputError
from compress_explain.plugins.conformance import is_frozen_dataclass
from compress_explain.weight_edits import (
    WEIGHT_EDITS,
    Activations,
    Blocks,
    LowRank,
    Prepared,
    WeightEdit,
    knowing,
    weight_edit,
)
from compress_explain.weight_edits.gptq import fed_back
from compress_explain.weight_edits.levels import blocks_of, grid_of

OUTPUTS, INPUTS = 48, 70  # 70: the last group of int4 is short
NAMES = (
    "int8",
    "int8-tensor",
    "int8-dynamic",
    "int4-g16",
    "int4-g32",
    "int4-g64",
    "int4-g128",
    "int8-g32",
    "fp8",
    "bf16",
    "fp16",
    "bf16-weight",
    "fp16-weight",
    "rank24",
)
FITTED = ("int4-g32-hqq",)  # rounding again what is rounded fits again
MEASURED = ("int8-static", "int4-gN-gptq")  # prepared with what enters the linear
QUANTIZED = tuple(name for name in NAMES if not name.startswith("rank"))
WEIGHT_ONLY = tuple(name for name in QUANTIZED if name not in ("int8-dynamic", "bf16", "fp16"))


def a_linear(seed=0, outputs=OUTPUTS, inputs=INPUTS, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    weight = 0.1 * torch.randn(outputs, inputs, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    x = torch.randn(5, 7, inputs, generator=generator)
    return weight.to(dtype), bias.to(dtype), x.to(dtype)


def coarse(outputs=OUTPUTS, inputs=INPUTS):
    """Weights of which many lie halfway between two levels."""
    return torch.randint(-15, 16, (outputs, inputs), generator=torch.Generator().manual_seed(1)) / 2


def share_of(error, reference):
    """The largest error as a share of the largest value."""
    return float((error - reference).abs().max() / reference.abs().max())


# Every edit


@pytest.mark.parametrize("name", NAMES)
def test_every_edit_conforms_and_is_found_by_its_name(name):
    edit = weight_edit(name)
    weight, bias, _ = a_linear()
    assert isinstance(edit, WeightEdit) and isinstance(edit.prepare(weight, bias), Prepared)
    assert is_frozen_dataclass(edit) and asdict(edit) is not None
    assert edit.name == name


def test_the_tests_cover_every_kind():
    covered = {re.sub("[0-9]+", "N", name) for name in (*NAMES, *FITTED, *MEASURED, "int4-gN")}
    assert {re.sub("[0-9]+", "N", weight_edit(name.replace("N", "16")).name) for name in WEIGHT_EDITS} == covered


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_change_is_the_edited_output_minus_the_original(name, with_bias, dtype):
    weight, bias, x = a_linear(dtype=dtype)
    bias = bias if with_bias else None
    y = functional.linear(x.float(), weight.float(), None if bias is None else bias.float())
    prepared = weight_edit(name).prepare(weight, bias)
    delta = prepared.delta(x, y)
    assert delta.dtype == prepared.weight.dtype == torch.float32
    torch.testing.assert_close(delta, prepared.apply(x) - y, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_preparing_leaves_the_linear_alone(name):
    weight, bias, x = a_linear()
    weight.requires_grad_()
    before = weight.detach().clone(), bias.clone()
    prepared = weight_edit(name).prepare(weight, bias)
    prepared.apply(x)
    assert torch.equal(weight, before[0]) and torch.equal(bias, before[1])
    assert not prepared.weight.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_editing_the_edited_weight_gives_it_back(name):
    weight, _, _ = a_linear()
    edit = weight_edit(name)
    once = edit.prepare(weight, None).weight
    assert share_of(once, weight) > 1e-5  # the edit did something
    torch.testing.assert_close(edit.prepare(once, None).weight, once, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_zeros_stay_zeros(name):
    weight, _, _ = a_linear(inputs=256)
    weight[3], weight[:, 128:] = 0.0, 0.0
    weight[4] = 1e-44  # its scale is too small for float32
    edited = weight_edit(name).prepare(weight, None).weight
    assert edited.isfinite().all()
    assert edited[3].abs().max() <= 1e-6 and edited[4].abs().max() <= 1e-6
    if name in QUANTIZED:
        assert not edited[3].any() and not edited[:, 128:].any()


@pytest.mark.parametrize("name", NAMES)
def test_an_input_of_zeros_gives_the_bias(name):
    weight, bias, x = a_linear()
    bias = bias.bfloat16().half().float()  # a number in every format
    expected = bias.expand(*x.shape[:-1], -1)
    torch.testing.assert_close(weight_edit(name).prepare(weight, bias).apply(x * 0), expected, atol=0, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_numbers_that_are_not_finite_are_named(name, value):
    weight, bias, _ = a_linear()
    weight[3, 5] = value
    with pytest.raises(InputError, match=rf"weight: '{value} at \[3, 5\]'"):
        weight_edit(name).prepare(weight, bias)
    bias[2] = value
    with pytest.raises(InputError, match=rf"bias: '{value} at \[2\]'"):
        weight_edit(name).prepare(weight.nan_to_num(0, 0, 0), bias)


def test_a_weight_beyond_the_format_is_refused():
    weight, bias, _ = a_linear()
    weight[0, 1] = 7e4
    assert weight_edit("bf16").prepare(weight, bias).weight.isfinite().all()
    with pytest.raises(InputError, match=r"weight in fp16: 'inf at \[0, 1\]'"):
        weight_edit("fp16").prepare(weight, bias)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("int7", "unknown edit.*did you mean 'int8'"),
        ("int8-dinamic", "unknown edit.*did you mean 'int8-dynamic'"),
        ("rank", "unknown edit.*did you mean 'rankN'"),
        ("rankN", "unknown edit"),
        ("", "unknown edit"),
        ("int4-g20", "no such group.*choose one of: 16, 32, 64, 128, 256"),
        ("rank0", "no such rank.*at least 1"),
        ("int8-g33", "no such group.*choose one of: 16"),
        ("int4-g32-hq", "unknown edit.*did you mean 'int4-gN-hqq'"),
    ],
)
def test_unknown_edits_are_refused_with_a_remedy(text, problem):
    with pytest.raises(InputError, match=f"^edits: '{text}': .*{problem}"):
        weight_edit(text)


def test_int4_is_groups_of_32():
    assert weight_edit("int4") == weight_edit("int4-g32") == Blocks(bits=4, group=32)


# The claim: how far a rounded weight may be from the original


def test_int8_is_off_by_half_a_step_at_most():
    weight, _, _ = a_linear()
    for name, largest in (("int8", weight.abs().amax(1, keepdim=True)), ("int8-tensor", weight.abs().max())):
        error = (weight_edit(name).prepare(weight, None).weight - weight).abs()
        assert (error <= largest / 127 * (0.5 + 1e-4)).all()


@pytest.mark.parametrize("group", [16, 32, 64, 128])
def test_int4_is_off_by_a_step_at_most_and_by_half_a_step_within_the_range(group):
    weight, _, _ = a_linear(inputs=256)
    error = (Blocks(bits=4, group=group).prepare(weight, None).weight - weight).abs().unflatten(1, (-1, group))
    groups = weight.unflatten(1, (-1, group))
    step = (groups.amax(-1).clamp(min=0) - groups.amin(-1).clamp(max=0)) / 15
    # The zero point is rounded too, which moves the whole range by up to half a step.
    assert (error <= step[..., None] * (1 + 1e-4)).all()
    assert error.gt(step[..., None] * (0.5 + 1e-4)).float().mean() < 0.02


def test_fp8_keeps_three_bits_after_the_point():
    weight, _, _ = a_linear()
    edited = weight_edit("fp8").prepare(weight, None).weight
    normal = weight.abs() > weight.abs().amax(1, keepdim=True) / 448 * 2**-6
    assert ((edited - weight).abs() <= weight.abs() * (2**-4 + 1e-6))[normal].all()


def test_finer_scales_lose_less():
    weight, _, x = a_linear(inputs=256)
    weight[7] *= 30  # one channel of another size, and one outlier
    weight[9, 40] = 4.0
    loss = {name: float(weight_edit(name).prepare(weight, None).delta(x, x @ weight.T).norm()) for name in NAMES}
    assert loss["int8"] < loss["int8-tensor"]
    assert loss["int8-g32"] < loss["int8"] < loss["int8-dynamic"]
    assert loss["fp16-weight"] < loss["fp16"] and loss["bf16-weight"] < loss["bf16"]
    assert loss["int4-g16"] < loss["int4-g32"] < loss["int4-g64"] < loss["int4-g128"]
    assert loss["fp16"] < loss["bf16"] < loss["fp8"] < loss["int4-g32"]


@pytest.mark.parametrize("outputs, inputs", [(48, 70), (70, 48), (32, 32)])
def test_a_full_rank_is_exact(outputs, inputs):
    weight, _, _ = a_linear(outputs=outputs, inputs=inputs)
    edited = LowRank(rank=min(outputs, inputs)).prepare(weight, None).weight
    torch.testing.assert_close(edited, weight, atol=1e-5, rtol=0)


def test_a_low_rank_loses_the_singular_values_left_out():
    weight, _, _ = a_linear()
    values = np.linalg.svd(weight.double().numpy(), compute_uv=False)
    for rank in (1, 24, 47):
        edit = LowRank(rank=rank)
        edited = edit.prepare(weight, None).weight
        assert float((edited - weight).norm()) == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-5)
        left, right = edit.factors(weight)
        assert left.shape == (OUTPUTS, rank) and right.shape == (rank, INPUTS)
        torch.testing.assert_close(left @ right, edited)


def test_a_rank_above_what_the_weight_can_have_is_refused():
    weight, bias, _ = a_linear()
    edit = weight_edit("rank49")
    for call in (
        lambda: edit.prepare(weight, bias),
        lambda: edit.bytes_of(OUTPUTS, INPUTS),
        lambda: edit.flops_per_token(OUTPUTS, INPUTS),
    ):
        with pytest.raises(InputError, match="'rank49': a weight of 48 by 70 has no such rank.*up to 48"):
            call()


def test_dynamic_int8_rounds_by_the_range_of_the_whole_batch():
    weight, bias, x = a_linear()
    prepared = weight_edit("int8-dynamic").prepare(weight, bias)
    louder = x.clone()
    louder[1:] *= 50
    alone, beside = prepared.apply(x)[0], prepared.apply(louder)[0]
    exact = functional.linear(x, weight, bias)[0]
    assert (beside - exact).norm() > 10 * (alone - exact).norm()


# Bytes, parameters, FLOPs


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("int8", 48 * 70 + 48 * 5),
        ("int8-tensor", 48 * 70 + 5),
        ("int8-dynamic", 48 * 70 + 48 * 5),
        ("int4-g32", 48 * (3 * 16 + 3 * 4 + 2)),
        ("int4-g64", 48 * (2 * 32 + 2 * 4 + 1)),
        ("int4-g128", 48 * (64 + 4 + 1)),
        ("int8-g32", 48 * 3 * (32 + 4 + 1)),
        ("int4-g32-hqq", 48 * 3 * (16 + 4 + 4)),
        ("int8-static", 48 * 70 + 48 * 5),
        ("int4-g32-gptq", 48 * (3 * 16 + 3 * 4 + 2)),
        ("bf16-weight", 48 * 70 * 2),
        ("fp8", 48 * 70 + 48 * 4),
        ("bf16", 48 * 70 * 2),
        ("fp16", 48 * 70 * 2),
        ("rank24", 24 * (48 + 70) * 4),
    ],
)
def test_bytes(name, stored):
    assert weight_edit(name).bytes_of(outputs=48, inputs=70) == stored


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantization_leaves_parameters_and_flops_as_they_were(name):
    edit = weight_edit(name)
    assert edit.parameters_of(48, 70) == 48 * 70 and edit.flops_per_token(48, 70) == 2 * 48 * 70
    assert edit.bytes_of(48, 70) < 4 * 48 * 70


def test_a_low_rank_has_the_parameters_of_its_factors():
    left, right = LowRank(rank=24).factors(a_linear()[0])
    assert LowRank(rank=24).parameters_of(48, 70) == left.numel() + right.numel()
    assert LowRank(rank=24).flops_per_token(48, 70) == 2 * (left.numel() + right.numel())


# As ONNX Runtime rounds and computes


def runtime():
    """onnx and onnxruntime, or the reason why a test is skipped."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    return onnx, pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def matmul_model(weight, bias):
    """A linear as an exporter writes it: MatMul with a transposed weight, then Add."""
    onnx, _ = runtime()
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    outputs, inputs = weight.shape
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weight"], ["product"], name="linear"),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", "tokens", inputs])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", "tokens", outputs])],
        [
            numpy_helper.from_array(np.ascontiguousarray(weight.T.numpy()), "weight"),
            numpy_helper.from_array(bias.numpy(), "bias"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model, x):
    _, onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def stored(model):
    """The tensors of the model, by name, without the bias."""
    onnx, _ = runtime()
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name != "bias"}
    return {name: onnx.numpy_helper.to_array(tensor) for name, tensor in tensors.items()}


def dynamically_quantized(weight, bias, tmp_path, per_channel=True):
    onnx, _ = runtime()
    quantization = pytest.importorskip("onnxruntime.quantization", reason="onnxruntime's quantizers are missing")
    quantization.quantize_dynamic(
        matmul_model(weight, bias),
        tmp_path / "int8.onnx",
        per_channel=per_channel,
        extra_options={"MatMulConstBOnly": True},
    )
    return onnx.load(tmp_path / "int8.onnx")


def quantized_to_4_bits(weight, bias, group):
    quantizer = pytest.importorskip(
        "onnxruntime.quantization.matmul_nbits_quantizer", reason="onnxruntime's 4-bit quantizer is missing"
    )
    made = quantizer.MatMulNBitsQuantizer(matmul_model(weight, bias), block_size=group)
    made.process()
    return made.model.model


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", ["int8", "int8-tensor", "int8-dynamic"])
def test_int8_weights_are_those_of_quantize_dynamic(name, ties, tmp_path):
    weight, bias, _ = a_linear()
    weight = coarse() if ties else weight
    weight[3] = 0.0
    model = dynamically_quantized(weight, bias, tmp_path, per_channel=name != "int8-tensor")
    tensors = stored(model)
    levels, scale = tensors["weight_quantized"].astype(np.float32), tensors["weight_scale"]
    edit = weight_edit(name)
    assert np.array_equal(edit.prepare(weight, bias).weight.numpy(), (levels * scale).T)
    assert not tensors["weight_zero_point"].any()
    assert edit.bytes_of(OUTPUTS, INPUTS) == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_int8_dynamic_computes_what_the_runtime_computes(shift, tmp_path):
    """No two neighbouring weights are large: processors without VNNI would saturate."""
    weight, bias, x = a_linear(outputs=96, inputs=384)
    weight = weight.clamp(-0.15, 0.15)
    weight[:, 0], weight[:, 1] = 0.32, 0.0
    x = x + shift
    model = dynamically_quantized(weight, bias, tmp_path)
    assert any("Dynamic" in node.op_type for node in model.graph.node)
    ours = weight_edit("int8-dynamic").prepare(weight, bias).apply(x)
    torch.testing.assert_close(ours, run(model, x), atol=1e-6 * float(ours.abs().max()), rtol=0)


@pytest.mark.parametrize("scale", [1.0, 0.25, 1e-3])
@pytest.mark.parametrize("shift", [-8.0, -0.5, 0.0, 0.5, 8.0])
def test_activations_are_rounded_as_DynamicQuantizeLinear_rounds(shift, scale):  # noqa: N802
    """Through a linear that gives back what it is given; of the inputs many lie halfway between levels."""
    onnx, _ = runtime()
    x = (torch.arange(511).reshape(1, 7, 73) / 2 + shift) * scale
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["levels", "scale", "zero"]),
            helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["y"]),
        ],
        "activations",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 7, 73])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 7, 73])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    same = weight_edit("int8-dynamic").prepare(torch.eye(73), None)
    torch.testing.assert_close(same.apply(x), run(model, x), rtol=1e-6, atol=0)  # one level is 4e-3 of the range


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("group", [16, 32, 64, 128])
def test_int4_weights_are_those_of_the_runtimes_quantizer(group, ties):
    weight, bias, _ = a_linear(outputs=64, inputs=300)
    weight = coarse(64, 300) if ties else weight
    weight[3], weight[4], weight[5] = 0.0, weight[4].abs(), -weight[5].abs()
    tensors = stored(quantized_to_4_bits(weight, bias, group))
    groups = -(-300 // group)
    unpacked = [
        np.stack([packed & 15, packed >> 4], -1) for packed in (tensors["weight_Q4"], tensors["weight_zero_points"])
    ]
    levels = unpacked[0].reshape(64, groups, group).astype(np.float32)
    zero = unpacked[1].reshape(64, -1)[:, :groups, None].astype(np.float32)
    expected = (levels - zero) * tensors["weight_scales"].reshape(64, groups, 1)
    edit = Blocks(bits=4, group=group)
    assert np.array_equal(edit.prepare(weight, bias).weight.numpy(), expected.reshape(64, -1)[:, :300])
    assert edit.bytes_of(64, 300) == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize("group", [16, 32, 64, 128])
def test_int4_computes_what_the_runtime_computes(group):
    weight, bias, x = a_linear(outputs=96, inputs=300)
    model = quantized_to_4_bits(weight, bias, group)
    assert any(node.op_type == "MatMulNBits" for node in model.graph.node)
    ours = Blocks(bits=4, group=group).prepare(weight, bias).apply(x)
    torch.testing.assert_close(ours, run(model, x), atol=1e-6 * float(ours.abs().max()), rtol=0)


def test_fp8_rounds_as_the_runtime_rounds():
    onnx, _ = runtime()
    weight, _, _ = a_linear()
    weight[:2] = coarse()[:2]
    scale = weight.abs().amax(1) / 448
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    zeros = helper.make_tensor("zero", onnx.TensorProto.FLOAT8E4M3FN, [OUTPUTS], bytes(OUTPUTS), raw=True)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["levels"], axis=0),
            helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["y"], axis=0),
        ],
        "weights",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(weight.shape))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, list(weight.shape))],
        [numpy_helper.from_array(scale.numpy(), "scale"), zeros],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert torch.equal(weight_edit("fp8").prepare(weight, None).weight, run(model, weight))


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_computes_what_torch_computes(name, dtype):
    """The order of a sum may differ, and with it to which side an output is rounded: the next number at most."""
    weight, bias, x = a_linear(outputs=96, inputs=384)
    prepared = weight_edit(name).prepare(weight, bias)
    assert torch.equal(prepared.weight, weight.to(dtype).float())
    reference = functional.linear(x.to(dtype), weight.to(dtype), bias.to(dtype)).float()
    ours = prepared.apply(x)
    assert (ours == reference).float().mean() > 0.95
    assert ((ours - reference).abs() <= torch.finfo(dtype).eps * reference.abs().clamp(min=0.1)).all()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("group", [16, 32, 128])
def test_8_bit_blocks_are_those_of_the_runtimes_quantizer_and_compute_what_it_computes(group, ties):
    weight, bias, x = a_linear(outputs=64, inputs=300)
    weight = coarse(64, 300) if ties else weight
    weight[3], weight[4], weight[5] = 0.0, weight[4].abs(), -weight[5].abs()
    model = in_blocks(weight, bias, "default", 8, group)
    tensors = stored(model)
    groups = -(-300 // group)
    (levels, scales, zero) = (tensors[f"weight_{end}"] for end in ("Q8", "scales", "zero_points"))
    shape = (64, groups, -1)
    expected = (levels.reshape(shape).astype(np.float32) - zero.reshape(shape)) * scales.reshape(shape)
    edit = weight_edit(f"int8-g{group}").prepare(weight, bias)
    assert np.array_equal(edit.weight.numpy(), expected.reshape(64, -1)[:, :300])
    assert weight_edit(f"int8-g{group}").bytes_of(64, 300) == sum(tensor.nbytes for tensor in tensors.values())
    ours = edit.apply(x)
    torch.testing.assert_close(ours, run(model, x), atol=1e-6 * float(ours.abs().max()), rtol=0)


@pytest.mark.parametrize("group", [16, 32, 128])
def test_hqq_is_that_of_the_runtimes_quantizer_and_computes_what_it_computes(group):
    weight, bias, x = a_linear(outputs=64, inputs=300)
    weight[3], weight[4], weight[5] = 0.0, weight[4].abs(), -weight[5].abs()
    weight[6, 40] = 3.0
    model = in_blocks(weight, bias, "hqq", 4, group)
    tensors = stored(model)
    edit = weight_edit(f"int4-g{group}-hqq")
    assert edit.bytes_of(64, 300) == sum(tensor.nbytes for tensor in tensors.values())
    packed, scales, zero = (tensors[name] for name in sorted(tensors))
    levels = np.stack([packed & 15, packed >> 4], -1).reshape(64, -(-300 // group), group).astype(np.float32)
    expected = (levels - zero.reshape(64, -1, 1)) * scales.reshape(64, -1, 1)
    prepared = edit.prepare(weight, bias)
    np.testing.assert_allclose(prepared.weight.numpy(), expected.reshape(64, -1)[:, :300], atol=1e-6, rtol=0)
    ours = prepared.apply(x)
    torch.testing.assert_close(ours, run(model, x), atol=2e-6 * float(ours.abs().max()), rtol=0)
    nearest = weight_edit(f"int4-g{group}").prepare(weight, bias).weight
    assert (prepared.weight - weight).abs().pow(0.7).mean() < (nearest - weight).abs().pow(0.7).mean()


def in_blocks(weight, bias, method, bits, group):
    quantizer = pytest.importorskip(
        "onnxruntime.quantization.matmul_nbits_quantizer", reason="onnxruntime's quantizer of blocks is missing"
    )
    made = {"hqq": quantizer.HQQWeightOnlyQuantConfig, "default": quantizer.DefaultWeightOnlyQuantConfig}
    config = made[method](block_size=group, bits=bits)
    quantized = quantizer.MatMulNBitsQuantizer(
        matmul_model(weight, bias), bits=bits, block_size=group, algo_config=config
    )
    quantized.process()
    return quantized.model.model


# With what enters the linear


def statically_quantized(weight, bias, activations, tmp_path):
    """The file that the scheme writes from one linear."""
    from compress_explain.deployment.static import Int8Static

    onnx, _ = runtime()
    model = matmul_model(weight, bias)
    model.graph.node[0].name, model.graph.node[0].input[1] = "linear", "linear.weight"
    model.graph.initializer[0].name = "linear.weight"
    onnx.save(model, tmp_path / "float.onnx")
    scheme = Int8Static(found={"linear": activations}, reduce_range=False)
    scheme.quantize(tmp_path / "float.onnx", tmp_path / "static.onnx")
    return onnx.load(tmp_path / "static.onnx")


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_static_int8_computes_what_the_file_computes(shift, smooth, tmp_path):
    """Also where inputs lie beyond the range that was found."""
    weight, bias, x = a_linear(outputs=96, inputs=384)
    weight = weight.clamp(-0.15, 0.15)
    weight[:, 0], weight[:, 1] = 0.32, 0.0
    x = x + shift
    divisor = torch.rand(384, generator=torch.Generator().manual_seed(2)) + 0.5 if smooth else None
    activations = Activations(low=-2.7, high=3.1, divisor=divisor)
    model = statically_quantized(weight, bias, activations, tmp_path)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == 1
    ours = knowing(weight_edit("int8-static"), activations).prepare(weight, bias).apply(x)
    torch.testing.assert_close(ours, run(model, x), atol=2e-6 * float(ours.abs().max()), rtol=0)
    rows = [knowing(weight_edit("int8-static"), activations).prepare(weight, bias).apply(row[None]) for row in x]
    torch.testing.assert_close(torch.cat(rows), ours)


def test_a_divisor_moves_range_from_inputs_into_weights():
    weight, bias, x = a_linear(inputs=256)
    x[..., 7] *= 100
    weight[:, 7] /= 100
    exact = functional.linear(x, weight, bias)
    divisor = torch.ones(256)
    divisor[7] = 100.0
    plain = Activations(low=float(x.min()), high=float(x.max()))
    narrow = x / divisor
    moved = Activations(low=float(narrow.min()), high=float(narrow.max()), divisor=divisor)
    errors = [
        float((knowing(weight_edit("int8-static"), each).prepare(weight, bias).apply(x) - exact).norm())
        for each in (plain, moved)
    ]
    assert errors[1] < 0.1 * errors[0]
    kept = torch.tensor([3, 7])
    assert torch.equal(moved.of(kept).divisor, divisor[kept]) and plain.of(kept) is plain


def test_a_range_of_nothing_is_no_division_by_zero():
    weight, bias, x = a_linear()
    prepared = knowing(weight_edit("int8-static"), Activations(low=0.0, high=0.0)).prepare(weight, bias)
    torch.testing.assert_close(prepared.apply(x * 0), bias.expand(*x.shape[:-1], -1))


def test_an_edit_that_must_be_measured_says_so():
    weight, bias, _ = a_linear()
    with pytest.raises(InputError, match="int8-static.*find activations"):
        weight_edit("int8-static").prepare(weight, bias)
    assert knowing(weight_edit("int8"), Activations(low=0.0, high=1.0)) == weight_edit("int8")


def correlated(tokens=400, inputs=INPUTS):
    """Inputs of a linear that go together, some of them never seen."""
    generator = torch.Generator().manual_seed(3)
    mixed = torch.randn(tokens, 20, generator=generator) @ torch.randn(20, inputs, generator=generator)
    mixed[:, 5] = 0
    return mixed + 0.3 * torch.randn(tokens, inputs, generator=generator) * (torch.arange(inputs) != 5)


def fed_back_one_by_one(weight, products, group):
    """The levels by the definition: after each rounding the best update of all weights that are left (OBS)."""
    scale, zero = grid_of(blocks_of(weight, group), 15)
    damped = products.double() + torch.diag(
        0.01 * products.diagonal().double().mean() + (products.diagonal() == 0).double()
    )
    left, levels = weight.double().clone(), []
    for place in range(weight.shape[1]):
        step, middle = (each[:, place // group, 0].double() for each in (scale, zero))
        level = (left[:, place] / step + middle).clamp(0, 15).add(0.5).floor().clamp(max=15)
        levels.append(level)
        inverse = torch.linalg.inv(damped[place:, place:])
        missing = left[:, place] - (level - middle) * step
        left[:, place:] -= missing[:, None] * inverse[0] / inverse[0, 0]
    return torch.stack(levels, 1)


def test_gptq_takes_up_each_rounding_as_its_definition_says():
    weight, x = a_linear()[0], correlated()
    products = x.T @ x / len(x)
    levels, scale, zero = fed_back(weight, products, 32)
    assert scale.shape == zero.shape == weight.shape
    expected = fed_back_one_by_one(weight, products, 32)
    assert (levels != expected).float().mean() < 0.01  # ties and float32


def test_gptq_changes_outputs_less_than_rounding_to_the_nearest_and_weights_more():
    weight, bias, _ = a_linear()
    x = correlated()
    known = Activations(low=0.0, high=0.0, products=x.T @ x)
    ours = knowing(weight_edit("int4-g32-gptq"), known).prepare(weight, bias)
    nearest = weight_edit("int4-g32").prepare(weight, bias)
    assert ours.difference.norm() > nearest.difference.norm()
    assert (x @ ours.difference.T).norm() < 0.6 * (x @ nearest.difference.T).norm()


def test_gptq_of_inputs_that_do_not_go_together_is_rounding_to_the_nearest():
    weight, bias, _ = a_linear()
    known = Activations(low=0.0, high=0.0, products=torch.eye(INPUTS))
    ours = knowing(weight_edit("int4-g32-gptq"), known).prepare(weight, bias)
    assert torch.equal(ours.weight, weight_edit("int4-g32").prepare(weight, bias).weight)


def test_an_output_of_gptq_does_not_depend_on_the_others_and_inputs_that_are_gone_are_no_part_of_it():
    weight, x = a_linear()[0], correlated()
    known = Activations(low=0.0, high=0.0, products=x.T @ x)
    few, kept = torch.tensor([3, 11, 40]), torch.arange(0, INPUTS, 2)
    levels, _, _ = fed_back(weight, known.products, 32)
    assert torch.equal(fed_back(weight[few], known.products, 32)[0], levels[few])
    thinner = x[:, kept].T @ x[:, kept]
    torch.testing.assert_close(known.of(kept).products, thinner)


def test_gptq_without_products_is_refused():
    for edit in (weight_edit("int4-g32-gptq"), knowing(weight_edit("int4-g32-gptq"), Activations(low=0.0, high=1.0))):
        with pytest.raises(InputError, match="int4-g32-gptq.*find activations"):
            edit.prepare(*a_linear()[:2])
