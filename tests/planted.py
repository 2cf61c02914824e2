"""Rows with logits of two models and ten features, where right answers go wrong in one slice only, or in none."""

from __future__ import annotations

import json
import sys

import numpy as np

from compress_explain.comparison.discovery import discover
from compress_explain.comparison.predictions import Pairs


def features(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    words = np.maximum(2, rng.lognormal(np.log(22), 0.55, n)).astype(np.int64)
    return {
        "words": words,
        "characters": np.maximum(words, (words * rng.normal(5.4, 0.6, n)).astype(np.int64)),
        "tokens": words + rng.poisson(0.2 * words),
        "negation": rng.random(n) < 0.45,
        "digits": rng.random(n) < 0.15,
        "question": rng.random(n) < 0.06,
        "contrast": rng.random(n) < np.clip(words / 80, 0.05, 0.6),
        "capitals": np.round(rng.beta(2, 40, n), 4),
        "genre": rng.choice(["news", "review", "mail", "forum", "fiction"], n, p=[0.35, 0.3, 0.15, 0.12, 0.08]),
        "year": rng.integers(2012, 2024, n),
    }


def planted(seed: int, n: int = 872, inside: float = 0.29, outside: float = 0.02) -> tuple[Pairs, np.ndarray]:
    """Pairs, and the rows of the slice ``words > 32 & negation``; about a tenth of all, or redrawn until 8 to 15%.

    ``inside`` and ``outside`` are the rates of right answers gone wrong. The original is right about as often as it
    says; the compressed model's margins are noisy everywhere, and where an answer goes wrong lie beyond 0.
    """
    rng = np.random.default_rng(seed)
    while True:
        known = features(rng, n)
        slice_rows = (known["words"] > 32) & known["negation"]
        if 0.08 <= slice_rows.mean() <= 0.15:
            break
    margin = np.abs(rng.normal(2.6, 1.6, n)) + 0.02  # of the original's answer
    right = rng.random(n) < 1 / (1 + np.exp(-margin))
    rate = np.where(slice_rows, inside, outside) / right.mean()
    lost = right & (rng.random(n) < rate)
    after = np.maximum(0.01, 0.95 * margin + rng.normal(0, 0.5, n))
    after[lost] = -np.abs(rng.normal(0.8, 0.6, lost.sum())) - 0.01
    guess = rng.integers(0, 2, n)
    sign = np.where(guess == 1, 1.0, -1.0)
    original, compressed = (np.stack([-sign * each, sign * each], 1) / 2 for each in (margin, after))
    labels = np.where(right, guess, 1 - guess)
    pairs = Pairs(
        split="test", digest="0", labels=labels, original=original, compressed=compressed,
        slices={"all": np.ones(n, dtype=bool)}, features=known,
    )  # fmt: skip
    return pairs, slice_rows


def found(seed: int) -> bool:
    """Whether a confirmed slice and the planted one share half of the rows of both, or more."""
    pairs, rows = planted(seed)
    members = [np.isin(np.arange(len(pairs)), each.rows) for each in discover(pairs) if each.confirmed]
    return any((inside & rows).sum() >= 0.5 * (inside | rows).sum() for inside in members)


def found_in_nothing(seed: int) -> bool:
    """Whether anything is confirmed where answers go wrong alike everywhere."""
    pairs, _ = planted(seed, inside=0.047, outside=0.047)
    return any(each.confirmed for each in discover(pairs))


if __name__ == "__main__":
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    print(json.dumps({"planted": sum(map(found, seeds)), "nothing": sum(map(found_in_nothing, seeds))}))
