"""Topics are what the original embeds alike: the same for every split, and found only when they are declared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress_explain.comparison.gates import Gate, check_gates
from compress_explain.comparison.predictions import Pairs, pair
from compress_explain.data import clusters
from compress_explain.data.clusters import Clusters, embed, fitted
from compress_explain.data.loading import DataSpec, encode_splits
from compress_explain.data.slices import SliceRule
from compress_explain.errors import InputError
from compress_explain.model.loading import Subject
from tests.small_job import sentences, tiny_tokenizer, trained_model

TOPICS = SliceRule(name="topics", clusters=3)


def blobs(n=90, seed=0):
    """Three groups of 60%, 30% and 10% of the rows, with words of their own."""
    rng = np.random.default_rng(seed)
    group = np.repeat([0, 1, 2], [int(0.6 * n), int(0.3 * n), n - int(0.9 * n)])
    texts = tuple(f"{('film', 'plate', 'river')[each]} was shown {row}" for row, each in enumerate(group))
    return rng.normal(0, 0.1, (n, 4)) + 5 * np.eye(4)[group], texts, group


def test_clusters_are_numbered_by_size_and_described_by_words_of_their_own():
    embedded, texts, group = blobs()
    found = fitted(TOPICS, embedded, texts)
    assert np.array_equal(found.of(embedded), group)
    assert [words[0] for words in found.words] == ["film", "plate", "river"]
    assert all("shown" not in words for words in found.words)
    again = fitted(TOPICS, embedded, texts)
    assert np.array_equal(again.centres, found.centres) and again.words == found.words


def test_other_rows_go_to_the_nearest_cluster():
    found = Clusters(centres=np.array([[0.0, 0.0], [4.0, 0.0]]), words=((), ()))
    assert found.of(np.array([[1.9, 3.0], [2.1, -3.0]])).tolist() == [0, 1]


def test_more_clusters_than_different_rows_are_refused():
    with pytest.raises(InputError, match="topics.*2 different rows"):
        fitted(TOPICS, np.array([[0.0], [1.0], [1.0]]), ())


@pytest.fixture(scope="module")
def trained():
    tokenizer = tiny_tokenizer()
    model = trained_model(tokenizer)
    return Subject(model=model, processor=tokenizer, task="text-classification", source="tiny", digest="0")


SPEC = DataSpec(calibration="", validation="", test="")
SIZES = {"calibration": 120, "validation": 60, "test": 60}
FRAMES = {name: sentences(rows, seed) for seed, (name, rows) in enumerate(SIZES.items(), start=2)}


def test_every_split_is_cut_into_the_clusters_of_calibration(trained):
    splits = encode_splits(FRAMES, SPEC, [TOPICS], trained)
    names = [f"topics=c{number}" for number in (1, 2, 3)]
    sizes = [int(splits.calibration.slices[name].sum()) for name in names]
    assert sizes == sorted(sizes, reverse=True)
    found = fitted(TOPICS, embed(splits.calibration, trained), splits.calibration.texts)
    for split in splits:
        flags = np.stack([split.slices[name] for name in names])
        assert (flags.sum(0) == 1).all()
        assert np.array_equal(flags.argmax(0), found.of(embed(split, trained)))
    assert splits.slices == [name for name in names if name not in splits.bare_slices]
    check_gates([Gate(metric="accuracy", slice="topics=c1", max_drop=0.1)], ["accuracy"], splits.slices)


def test_embeddings_do_not_hang_on_what_else_is_in_the_batch(trained):
    splits = encode_splits(FRAMES, SPEC, [], trained)
    whole = embed(splits.test, trained)
    assert np.allclose(embed(splits.test.only(np.array([5, 9])), trained), whole[[5, 9]], atol=1e-5)


def test_words_of_clusters_and_features_are_stored_with_predictions(trained, tmp_path):
    test = encode_splits(FRAMES, SPEC, [TOPICS], trained).test
    logits = np.zeros((len(test), 2), dtype=np.float32)
    pair(test, logits, logits).save(tmp_path / "pairs.parquet")
    again = Pairs.load(tmp_path / "pairs.parquet")
    assert again.described == test.described
    assert set(again.features) == {"source", "words", "characters", "tokens", "negation"}
    assert all(np.array_equal(again.features[name], values) for name, values in test.features.items())
    assert np.array_equal(again.features["tokens"], test.lengths)
    assert not any(text in (tmp_path / "pairs.parquet").read_bytes().decode("latin-1") for text in test.texts)


def test_rows_that_are_chosen_keep_what_is_known_of_them(trained):
    test = encode_splits(FRAMES, SPEC, [], trained).test
    assert np.array_equal(test.only(np.array([7, 3])).features["words"], test.features["words"][[7, 3]])


def test_nothing_is_embedded_when_no_rule_asks(trained, monkeypatch):
    monkeypatch.setattr(clusters, "embed", None)
    encode_splits(FRAMES, SPEC, [], trained)


def test_tokens_and_markers_can_be_asked_for_in_a_slice(trained):
    rule = SliceRule(name="hard", where="tokens > 10 and negation == 1")
    test = encode_splits(FRAMES, SPEC, [rule], trained).test
    negated = FRAMES["test"]["text"].str.contains(r"\bnot\b").to_numpy()
    assert np.array_equal(test.slices["hard"], (test.lengths > 10) & negated)
    assert 0 < test.slices["hard"].sum() < len(test)


def test_a_task_that_answers_for_tokens_has_no_clusters_of_rows(trained):
    other = replace(trained, task="text-generation")
    with pytest.raises(InputError, match="topics.*does not embed a row as a whole"):
        clusters.with_clusters({}, "data", [TOPICS], other)


@pytest.mark.parametrize("number", [0, 1, 51])
def test_clusters_are_at_least_two_and_not_too_many_to_be_slices(number):
    with pytest.raises(InputError, match="clusters"):
        SliceRule(name="topics", clusters=number)
