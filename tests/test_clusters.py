"""Topics are what the original embeds alike: the same for every split, and found only when they are declared."""

from __future__ import annotations

import numpy as np
import pytest

from compress_explain.data.clusters import Clusters, fitted
from compress_explain.data.slices import SliceRule
from compress_explain.errors import InputError

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
