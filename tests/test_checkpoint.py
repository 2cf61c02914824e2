"""A compressed checkpoint comes back bit for bit, as the class it was, or not at all."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast, pipeline

from compress_explain.editing.surgery import materialize
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.record.checkpoint import MANIFEST, WEIGHTS, load_compressed, read_manifest, save_compressed
from tests.tiny import FAMILIES, GENERATORS, logits_of, tiny_inputs, tiny_model, tiny_tokens, uneven_removal


def save_cut(model, folder, tokens=9):
    anatomy = read_anatomy(model, tokens)
    removed = uneven_removal(anatomy)
    smaller = materialize(model, anatomy, removed)
    manifest = save_compressed(smaller, folder, removed=removed, base=anatomy, provenance={"source": "a test"})
    return smaller, manifest


@pytest.fixture
def saved(tmp_path):
    """A folder with a cut BERT."""
    save_cut(tiny_model("bert"), tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_unevenly_cut_model_reloads_bit_for_bit(family, dtype, tmp_path):
    tiny_model(family).save_pretrained(tmp_path / "original")
    model = type(tiny_model(family)).from_pretrained(tmp_path / "original", dtype=dtype).eval()
    smaller, manifest = save_cut(model, tmp_path / "cut", tiny_tokens(family))
    loaded = load_compressed(tmp_path / "cut")
    assert type(loaded) is type(model)
    assert not loaded.training
    ours, theirs = dict(smaller.named_parameters()), dict(loaded.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == dtype for name in ours)
    assert manifest["parameters"] == sum(parameter.numel() for parameter in loaded.parameters())
    inputs = tiny_inputs(family)
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    assert torch.equal(logits_of(loaded, inputs), logits_of(smaller, inputs))


@pytest.mark.parametrize("family", GENERATORS)
def test_a_reloaded_generator_generates_the_same_tokens_and_keeps_its_weights_tied(family, tmp_path):
    smaller, _ = save_cut(tiny_model(family, generates=True), tmp_path)
    smaller.generation_config.max_new_tokens = 5
    smaller.generation_config.save_pretrained(tmp_path)
    loaded = load_compressed(tmp_path)
    prompt = tiny_inputs(family, batch=2, padded=False)
    assert torch.equal(loaded.generate(**prompt), smaller.generate(**prompt))
    tied = smaller.get_input_embeddings().weight is smaller.get_output_embeddings().weight
    assert (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight) == tied


def test_a_reloaded_model_can_be_saved_and_loaded_again(tmp_path):
    smaller, manifest = save_cut(tiny_model("t5"), tmp_path / "first")
    loaded = load_compressed(tmp_path / "first")
    base = tiny_model("t5")
    anatomy = read_anatomy(base, 9)
    again = save_compressed(
        loaded, tmp_path / "second", removed=uneven_removal(anatomy), base=anatomy, provenance={"source": "a test"}
    )
    assert again["weights_sha256"] == manifest["weights_sha256"]


def test_the_manifest_names_what_was_removed_in_original_coordinates(tmp_path):
    model = tiny_model("bert")
    anatomy = read_anatomy(model, 9)
    removed = {name: torch.zeros(group.count, dtype=torch.bool) for name, group in anatomy.groups.items()}
    removed["encoder.layer.1.attention.head"][[0, 3]] = True
    removed["encoder.layer.2.ffn.neuron"][23] = True
    save_compressed(
        materialize(model, anatomy, removed), tmp_path, removed=removed, base=anatomy, provenance={"who": "test"}
    )
    manifest = read_manifest(tmp_path)
    assert manifest["removed"] == {"encoder.layer.1.attention.head": [0, 3], "encoder.layer.2.ffn.neuron": [23]}
    assert manifest["provenance"] == {"who": "test"}
    assert manifest["original_parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_tampered_weights_are_refused(saved):
    weights = bytearray((saved / WEIGHTS).read_bytes())
    weights[-5] ^= 1
    (saved / WEIGHTS).write_bytes(weights)
    with pytest.raises(InputError, match="not those that the manifest describes"):
        load_compressed(saved)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(InputError, match=f"no {MANIFEST} here"):
        load_compressed(tmp_path)


def test_a_folder_without_weights_is_refused(saved):
    (saved / WEIGHTS).unlink()
    with pytest.raises(InputError, match=WEIGHTS):
        load_compressed(saved)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1}', '"model"'])
def test_a_broken_manifest_is_refused(saved, text):
    (saved / MANIFEST).write_text(text)
    with pytest.raises(InputError, match="checkpoint"):
        load_compressed(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 99),
        ("model_class", "AutoModel"),
        ("model_class", "NoSuchModel"),
        ("model_class", "BertConfig"),
        ("dtype", "nn"),
        ("model_class", ["BertModel"]),
        ("removed", {"encoder.layer.9.ffn.neuron": [0]}),
        ("removed", {"encoder.layer.0.ffn.neuron": [99]}),
        ("removed", {"encoder.layer.0.ffn.neuron": [-1]}),
        ("removed", {"encoder.layer.0.ffn.neuron": [0]}),
        ("removed", {"encoder.layer.0.ffn.neuron": list(range(24))}),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(saved, key, value):
    manifest = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).write_text(json.dumps({**manifest, key: value}))
    with pytest.raises(InputError, match=r"checkpoint|no such component"):
        load_compressed(saved)


def test_a_plain_loader_refuses_the_folder_rather_than_inventing_weights(saved):
    with pytest.raises(RuntimeError, match="size mismatch|mismatch"):
        AutoModelForSequenceClassification.from_pretrained(saved)


def test_nothing_is_ever_unpickled(saved, monkeypatch):
    (saved / "pytorch_model.bin").write_bytes(b"not to be opened")

    def refuse(*_, **__):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    load_compressed(saved)


def test_it_works_in_a_pipeline(saved, tmp_path):
    words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "good", "bad", "film", "a"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    model = load_compressed(saved)
    texts = ["a good film", "bad"]
    answers = pipeline("text-classification", model=model, tokenizer=fast, top_k=None)(texts)
    with torch.inference_mode():
        expected = model(**fast(texts, return_tensors="pt", padding=True)).logits.softmax(-1)
    for answer, row in zip(answers, expected, strict=True):
        by_label = {each["label"]: each["score"] for each in answer}
        for index, probability in enumerate(row.tolist()):
            assert by_label[model.config.id2label[index]] == pytest.approx(probability, abs=1e-5)
