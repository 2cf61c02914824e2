"""A model in which there is nothing hidden to find: its labels are drawn from its own softmax.

Whatever a state says of the loss beyond the answer's distribution is then noise, and a statistic that finds more there misleads.
"""

from __future__ import annotations

import numpy as np

from compress_explain.signals.probing.parts import parts_of
from compress_explain.signals.probing.quality import FIGURES, quality_of
from compress_explain.signals.probing.resampling import Draws
from compress_explain.signals.stream.states import States

WIDTH = 32


def drawn_from_itself(n: int, seed: int, classes: int = 50) -> States:
    """``n`` decisions among some classes: one likelier than the others, which share the rest evenly or not.

    How sure the answer is and how broadly the rest is spread are coordinates of the state, as in language models they can be
    read off it by a straight line. Both show in the answer: the first in its confidence, the second in its entropy. Fifty
    classes stand for a vocabulary, the probability of the likeliest for confidence; of fewer it is the margin of a classifier.
    """
    rng = np.random.default_rng(seed)
    head = rng.normal(size=(WIDTH, classes))
    direction = rng.normal(size=(n, WIDTH))
    sure, narrow = rng.normal(size=(2, n, 1))
    state = np.hstack([direction, sure, narrow])
    tail = np.exp(narrow + 0.5) * (direction @ head) / np.sqrt(WIDTH)
    tail -= np.log(np.exp(tail).sum(1, keepdims=True))
    first = np.eye(classes)[tail.argmax(1)]
    logits = tail + first * (2 * sure + 1)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    label = (share.cumsum(1) > rng.random((n, 1))).argmax(1)
    loss = -np.log(share[np.arange(n), label])
    first_two = np.sort(logits, axis=1)[:, -2:]
    many = classes >= 50
    before = state + rng.normal(size=state.shape)
    return States(
        depths=("embedding", "layer.0"),
        many=many,
        values=np.stack([before, state], 1).astype(np.float32),
        loss=loss,
        confidence=share.max(1) if many else first_two[:, 1] - first_two[:, 0],
        entropy=-(share * np.log(np.maximum(share, 1e-300))).sum(1),
        guesses=share.argmax(1),
        wrong=share.argmax(1) != label,
        rows=np.arange(n),
    )


def found_in_it(
    seed: int, n: int, to_learn: int, resamples: int, confidence: float, classes: int = 50
) -> dict[str, tuple[float, float, float]]:
    """By figure its value at the last depth and its interval."""
    states = drawn_from_itself(n, seed, classes)
    draws = Draws.of(parts_of(states.rows, to_learn, seed), states.rows, resamples, seed)
    told = quality_of(states, states, draws, 0.03, seed=seed).readings
    estimates = {figure: told[figure].at(1) for figure in FIGURES}
    return {figure: (each.value, *each.interval(confidence)) for figure, each in estimates.items()}
