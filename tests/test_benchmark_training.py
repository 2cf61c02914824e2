"""The small models of the training benchmark: without its residual path, a layer gives what its FFN gives and nothing else."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import OPTForCausalLM

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def _benchmark(name: str) -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


pytest.importorskip("accelerate")
small, training = _benchmark("small_models"), _benchmark("bench_training")


@pytest.fixture(scope="module")
def tokenizer():
    return training.learned_tokenizer(["the film is long and the plot is thin"] * 3, vocabulary=300)


def _passed(model: OPTForCausalLM) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What the first layer's parts read and give on a few tokens, and what the layer gives."""
    layer, seen = model.model.decoder.layers[0], {}
    out = []
    layer.self_attn_layer_norm.register_forward_hook(lambda module, inputs, output: seen.update(normed=output))
    layer.fc1.register_forward_hook(lambda module, inputs, output: seen.update(read=inputs[0], up=output))
    layer.register_forward_hook(lambda module, inputs, output: out.append(output))
    with torch.no_grad():
        model(torch.arange(5, 13)[None])
        seen["given"] = torch.nn.functional.linear(
            torch.nn.functional.gelu(seen["up"]), layer.fc2.weight, layer.fc2.bias
        )
    return seen, out[0].reshape(-1, out[0].shape[-1])


@pytest.mark.parametrize("name", list(small.VARIANTS))
def test_a_layer_without_its_residual_path_gives_its_ffn_alone(tokenizer, name):
    variant = small.VARIANTS[name]
    model = small.new_model(variant, tokenizer, tokens=16, seed=0).eval()
    layer = model.model.decoder.layers[0]
    torch.nn.init.normal_(layer.fc2.weight, std=0.3)
    seen, told = _passed(model)
    alone = seen["given"] if variant.norm == "pre" else layer.final_layer_norm(seen["given"])
    assert torch.allclose(told, alone, atol=1e-5) != variant.residual


@pytest.mark.parametrize("name", list(small.VARIANTS))
def test_a_checkpoint_is_loaded_as_what_it_was_trained_as(tokenizer, name, tmp_path):
    model = small.new_model(small.VARIANTS[name], tokenizer, tokens=16, seed=0).eval()
    model.save_pretrained(tmp_path)
    ids = torch.arange(5, 13)[None]
    with torch.no_grad():
        expected, again = model(ids).logits, small.load_variant(tmp_path)(ids).logits
        plain = OPTForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()(ids).logits
    assert torch.equal(expected, again)
    assert torch.equal(expected, plain) == small.VARIANTS[name].residual


def test_steps_are_spaced_by_their_logarithm_and_begin_before_the_first():
    steps = training.steps_kept(700)
    assert (len(steps), steps[0], steps[-1]) == (training.CHECKPOINTS, 0, 700)
    ratios = [later / earlier for earlier, later in itertools.pairwise(steps[1:])]
    assert max(ratios) < 1.3 * min(ratios)


@pytest.mark.exhaustive
def test_a_training_leaves_checkpoints_that_learn(tokenizer, tmp_path):
    ids = training.in_blocks(["the film is long and the plot is thin"] * 1200, tokenizer)
    variant = small.VARIANTS["pre-ln"]
    told = training.train(variant, 0, tokenizer, ids, 12, tmp_path)
    assert {f"checkpoint-{step}" for step in training.steps_kept(12)} == {
        path.name for path in tmp_path.glob("checkpoint-*")
    }
    assert told["losses"][12] < told["losses"][0]
    assert (tmp_path / "checkpoint-0" / "tokenizer.json").exists()
