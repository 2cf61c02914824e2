"""How a smaller model does beside the original on the same rows, as the columns of a table."""

from __future__ import annotations

from dataclasses import replace

from figures import Row

from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import METRICS, score
from compress_explain.data.examples import ALL
from compress_explain.pricing import observed_joint

FEWEST = 40  # rows of a slice that is looked at


def judged(pairs: Pairs) -> Row:
    """Accuracy and its change, KL, agreement, and the slice that lost most."""
    worst, drop = worst_slice(pairs)
    return {
        "n": len(pairs),
        "original": f"{pairs.original_right.mean():.4f}",
        "accuracy": f"{pairs.compressed_right.mean():.4f}",
        "points (95%)": difference(pairs),
        "KL": observed_joint(replace(pairs, compressed=pairs.original), pairs).kl,
        "agreement": f"{(pairs.original.argmax(1) == pairs.compressed.argmax(1)).mean():.4f}",
        "worst slice, points": f"{worst} {100 * drop:+.1f}",
    }


def ours_better(pairs: Pairs | None) -> Row:
    """Of ``pairs`` of another's way and ours: by how much ours is better, and where that is least."""
    if pairs is None:
        return {"ours better by, points (95%)": "", "on the slice where least": ""}
    name, _ = worst_slice(pairs)
    return {
        "ours better by, points (95%)": difference(pairs),
        "on the slice where least": f"{name} {difference(pairs, name)}",
    }


def worst_slice(pairs: Pairs) -> tuple[str, float]:
    """The slice whose accuracy fell most, and by how much."""
    parts = {name: pairs.only(name) for name, rows in pairs.slices.items() if name != ALL and rows.sum() >= FEWEST}
    drops = {name: float(part.compressed_right.mean() - part.original_right.mean()) for name, part in parts.items()}
    worst = min(drops, key=lambda name: drops[name])
    return worst, drops[worst]


def difference(pairs: Pairs, where: str = ALL) -> str:
    """Of the accuracies, in points, with its interval."""
    found = score(pairs, METRICS["accuracy"], where, confidence=0.95)
    return f"{100 * found.difference:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
