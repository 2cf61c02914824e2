"""Texts that a model has not seen: made of real ones, whole where every row is alike, and the same again for a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress_explain.data.perturbed import perturbed
from tests.tiny import tiny_examples

START, END = 1, 2


def sentences(rows=300, seed=0):
    """Rows of 3 to 20 tokens between a start and an end that all have; the tokens of row r are 100 r + place."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 21, rows)
    ids = [np.array([START, *(100 * (row + 1) + np.arange(length)), END]) for row, length in enumerate(lengths)]
    examples = tiny_examples("bert", rows=rows)
    inputs = {"input_ids": ids, "attention_mask": [np.ones_like(each) for each in ids]}
    return replace(examples, inputs=inputs)


def test_every_row_begins_and_ends_as_all_do_and_no_input_is_longer_than_another():
    made = perturbed(sentences()).inputs
    for ids, mask in zip(made["input_ids"], made["attention_mask"], strict=True):
        assert ids[0] == START and ids[-1] == END and START not in ids[1:] and END not in ids[:-1]
        assert ids.shape == mask.shape and 3 <= len(ids) <= 22


def test_rows_are_cropped_thinned_and_spliced_in_order():
    examples = sentences()
    ways = {"cropped": 0, "thinned": 0, "spliced": 0}
    for row, (old, new) in enumerate(
        zip(examples.inputs["input_ids"], perturbed(examples).inputs["input_ids"], strict=True)
    ):
        sources = new[1:-1] // 100 - 1
        places = new[1:-1] % 100
        if (sources != row).any():
            switch = int((sources == row).sum())
            assert (sources[:switch] == row).all() and len(set(sources[switch:])) == 1
            assert (np.diff(places[:switch]) == 1).all() and (np.diff(places[switch:]) == 1).all()
            ways["spliced"] += 1
        elif len(new) < len(old) and (np.diff(places) == 1).all():
            ways["cropped"] += 1
        else:
            assert (np.diff(places) > 0).all()
            ways["thinned"] += 1
    assert min(ways.values()) > 30


def test_the_same_seed_gives_the_same_rows_and_another_gives_others():
    examples = sentences()
    first, again, other = perturbed(examples, 1), perturbed(examples, 1), perturbed(examples, 2)
    same = [np.array_equal(*each) for each in zip(first.inputs["input_ids"], again.inputs["input_ids"], strict=True)]
    assert all(same) and first.digest == again.digest != other.digest != examples.digest
    assert not all(map(np.array_equal, first.inputs["input_ids"], other.inputs["input_ids"]))
    assert first.name == examples.name and (first.labels == examples.labels).all()


@pytest.mark.parametrize("family", ["vit", "clip-pair"])
def test_what_is_not_text_alone_comes_back_as_it_is(family):
    examples = tiny_examples(family)
    assert perturbed(examples) is examples


def test_a_language_models_texts_come_back_as_they_are():
    examples = replace(tiny_examples("gpt2"), tokenwise=True)
    assert perturbed(examples) is examples
