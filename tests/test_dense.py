"""The dense twin is the compressed model to anybody's loader: its function, the original's shapes, zeros between."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from compress_explain.compensation import Compensation, Compensator
from compress_explain.editing.dense import dense_twin
from compress_explain.editing.masks import Masks
from compress_explain.editing.surgery import materialize
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.embedding import TOKENS
from tests.tiny import (
    WITH_AND_WITHOUT_GENERATION,
    flagged,
    generator_inputs,
    logits_of,
    tiny_examples,
    tiny_inputs,
    tiny_model,
    tiny_tokens,
    uneven_removal,
)

_ANYBODY = """
import sys
sys.modules["compress_explain"] = None  # importing it would fail
import numpy, torch
from transformers import AutoModelForSequenceClassification
model, loading = AutoModelForSequenceClassification.from_pretrained(sys.argv[1] + "/dense", output_loading_info=True)
assert not any(loading.values()), loading
inputs = {name: torch.from_numpy(array) for name, array in numpy.load(sys.argv[1] + "/inputs.npz").items()}
with torch.inference_mode():
    numpy.save(sys.argv[1] + "/logits.npy", model.eval()(**inputs).logits.numpy())
"""


@pytest.mark.parametrize(("family", "generates"), WITH_AND_WITHOUT_GENERATION)
def test_it_computes_what_the_cut_model_computes_in_the_shapes_of_the_original(family, generates, tmp_path):
    model = tiny_model(family, generates=generates)
    anatomy = read_anatomy(model, tiny_tokens(family))
    removed = uneven_removal(anatomy)
    removed[next(iter(anatomy.groups))][:] = True  # a sublayer without any
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dense_twin(model, anatomy, removed).save_pretrained(tmp_path)
    loaded, loading = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())
    inputs = generator_inputs(family) if generates else tiny_inputs(family)
    smaller = materialize(model, anatomy, removed)
    torch.testing.assert_close(logits_of(loaded.eval(), inputs), logits_of(smaller, inputs), atol=1e-5, rtol=0)
    assert {name: tensor.shape for name, tensor in loaded.state_dict().items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    zeros = sum(int((tensor == 0).sum()) for tensor in loaded.parameters())
    assert zeros >= sum(int(flags.sum()) for flags in removed.values()), "removed parts are zeros"


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_refitted_weights_are_in_their_place(family):
    model, examples = tiny_model(family), tiny_examples(family)
    anatomy = read_anatomy(model, 9)
    with Masks(model, anatomy) as masks:
        masks.remove(flagged(anatomy, uneven_removal(anatomy)))
        Compensator(masks, examples, Compensation(), batch_size=16).refit()
        removed, refits = masks.removed, masks.refits
        kept = {name: refit.weight.clone() for name, refit in refits.items()}
        with masks.untouched():
            twin, bare = dense_twin(model, anatomy, removed, refits), dense_twin(model, anatomy, removed)
            smaller = materialize(model, anatomy, removed, refits)
        assert all(torch.equal(refits[name].weight, weight) for name, weight in kept.items()), (
            "they are left as they were"
        )
    expected = logits_of(smaller, tiny_inputs(family))
    torch.testing.assert_close(logits_of(twin, tiny_inputs(family)), expected, atol=1e-5, rtol=0)
    assert (logits_of(bare, tiny_inputs(family)) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "t5"])
def test_a_smaller_vocabulary_is_smaller_here_too(family, tmp_path):
    model = tiny_model(family)
    anatomy = read_anatomy(model, 9)
    removed = uneven_removal(anatomy) | {TOKENS: torch.zeros(60, dtype=torch.bool)}
    removed[TOKENS][40:55] = True
    dense_twin(model, anatomy, removed).save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.vocab_size == 45 == loaded.get_input_embeddings().num_embeddings
    inputs = tiny_inputs(family)
    inputs["input_ids"] = inputs["input_ids"].clamp(max=39)
    smaller = materialize(model, anatomy, removed)
    torch.testing.assert_close(logits_of(loaded, inputs), logits_of(smaller, inputs), atol=1e-5, rtol=0)


def test_anybody_can_load_it_without_this_package(tmp_path):
    model = tiny_model("bert")
    anatomy = read_anatomy(model, 9)
    removed, inputs = uneven_removal(anatomy), tiny_inputs("bert")
    dense_twin(model, anatomy, removed).save_pretrained(tmp_path / "dense")
    np.savez(tmp_path / "inputs.npz", **{name: tensor.numpy() for name, tensor in inputs.items()})
    subprocess.run([sys.executable, "-c", _ANYBODY, str(tmp_path)], check=True, timeout=120)
    expected = logits_of(materialize(model, anatomy, removed), inputs).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-5)
