"""Topics: clusters of rows that the original model embeds alike, as slices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from compress_explain.data.examples import Examples
from compress_explain.data.slices import SliceRule
from compress_explain.errors import InputError
from compress_explain.model.loading import Subject

_BATCH = 32  # rows that are embedded together
_SEED = 0
_STARTS = 4  # of k-means; the best is kept
_WORDS = 3  # that describe a cluster
_SEEN = 3  # rows of a cluster that a describing word stands in at least
_CLEAR = 2.0  # standard errors of the log-odds, at least, of a describing word
_SHORTEST = 4  # letters: shorter words are mostly of grammar


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Where the clusters lie, the largest first, and the words that set each apart; none of images."""

    centres: Float[np.ndarray, "clusters width"] = field(repr=False)
    words: tuple[tuple[str, ...], ...]

    def of(self, embedded: Float[np.ndarray, "rows width"]) -> Int[np.ndarray, " rows"]:
        """The nearest cluster of each row, from 0."""
        distances = np.square(self.centres).sum(1) - 2 * embedded @ self.centres.T
        return distances.argmin(1)


def with_clusters(
    encoded: Mapping[str, Examples], reference: str, rules: Sequence[SliceRule], subject: Subject
) -> dict[str, Examples]:
    """Every split with the slices of the rules that declare clusters, fitted on ``reference``; embedded only when one does.

    Raises:
        InputError: the task has no one class a row, no weights are at hand, or fewer different rows than clusters.
    """
    declared = [rule for rule in rules if rule.clusters is not None]
    if not declared:
        return dict(encoded)
    _check(declared[0], subject)
    embedded = {where: embed(examples, subject) for where, examples in encoded.items()}
    found = dict(encoded)
    for rule in declared:
        assert rule.clusters is not None
        clusters = fitted(rule, embedded[reference], encoded[reference].texts if subject.kind.reads == "text" else ())
        for where, examples in found.items():
            numbers = clusters.of(embedded[where])
            named = {f"{rule.name}=c{number + 1}": numbers == number for number in range(len(clusters.centres))}
            described = {name: ", ".join(words) for name, words in zip(named, clusters.words, strict=True) if words}
            found[where] = replace(examples, slices=examples.slices | named, described=examples.described | described)
    return found


def embed(examples: Examples, subject: Subject) -> Float[np.ndarray, "rows width"]:
    """The mean of the last layer's states over the tokens, or the patches, of each row."""
    rows: list[np.ndarray] = [np.zeros(0)] * len(examples)
    with torch.inference_mode():
        for batch in examples.batches(_BATCH):
            output = subject.model(**batch.inputs, output_hidden_states=True)
            hidden = getattr(output, "hidden_states", None) or output.encoder_hidden_states
            pooled = _pooled(hidden[-1].float(), batch.inputs.get("attention_mask"))
            for row, state in zip(batch.rows, pooled.numpy(), strict=True):
                rows[row] = state
    return np.stack(rows).astype(np.float64)


def fitted(rule: SliceRule, embedded: Float[np.ndarray, "rows width"], texts: tuple[str, ...]) -> Clusters:
    """k-means with a fixed seed; clusters are numbered from the largest to the smallest.

    Raises:
        InputError: there are fewer different rows than clusters.
    """
    from sklearn.cluster import KMeans  # costs time to import

    assert rule.clusters is not None
    different = len(np.unique(embedded, axis=0))
    if different < rule.clusters:
        problem = f"there are {different} different rows, fewer than clusters"
        raise InputError(f"slices: {rule.name}", rule.clusters, problem, "ask for fewer clusters")
    means = KMeans(rule.clusters, random_state=_SEED, n_init=_STARTS).fit(embedded)
    order = np.argsort(-np.bincount(means.labels_, minlength=rule.clusters), kind="stable")
    clusters = Clusters(centres=means.cluster_centers_[order], words=((),) * rule.clusters)
    return replace(clusters, words=_describing(texts, clusters.of(embedded), rule.clusters)) if texts else clusters


def _check(rule: SliceRule, subject: Subject) -> None:
    where = f"slices: {rule.name}"
    if subject.kind.decides != "row":
        problem = f"a model for {subject.task} does not embed a row as a whole"
        raise InputError(where, rule.clusters, problem, "slice rows by column, where or matches")
    if any(weight.is_meta for weight in subject.model.parameters()):
        problem = "the original's weights are not at hand, only a file of another runtime"
        raise InputError(where, rule.clusters, problem, "give the folder of the original in torch")


def _pooled(states: Float[torch.Tensor, "batch ..."], mask: torch.Tensor | None) -> Float[torch.Tensor, "batch width"]:
    if states.dim() == 4:  # channels first, of a convolution
        return states.mean((2, 3))
    if mask is None or mask.shape != states.shape[:2]:
        return states.mean(1)
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def _describing(texts: Sequence[str], numbers: Int[np.ndarray, " rows"], clusters: int) -> tuple[tuple[str, ...], ...]:
    """The words of each cluster that stand in its rows more often than in others, by how clear that is.

    Log-odds of rows that hold the word, over their standard error, with half a row added everywhere.
    """
    held = [set(re.findall(rf"[^\W\d_]{{{_SHORTEST},}}", text.lower())) for text in texts]
    overall = Counter(word for words in held for word in words)
    described = []
    for number in range(clusters):
        inside = [words for words, own in zip(held, numbers, strict=True) if own == number]
        counts = Counter(word for words in inside for word in words)
        rest = len(held) - len(inside)
        clear = {
            word: _clearness(count, len(inside), overall[word] - count, rest)
            for word, count in counts.items()
            if count >= _SEEN
        }
        best = sorted(clear, key=lambda word: (-clear[word], word))[:_WORDS]
        described.append(tuple(word for word in best if clear[word] >= _CLEAR))
    return tuple(described)


def _clearness(inside: int, n: int, outside: int, others: int) -> float:
    parts = np.array([inside, n - inside, outside, others - outside]) + 0.5
    odds = np.log(parts[0] / parts[1]) - np.log(parts[2] / parts[3])
    return float(odds / np.sqrt((1 / parts).sum()))
