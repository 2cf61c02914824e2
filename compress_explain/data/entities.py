"""Entities in rows of tags: which words make one, by the rule of IOB2.

An entity of a type begins at a ``B-`` tag, or at an ``I-`` tag that does not continue one of its own
type, and goes on while ``I-`` tags of that type follow. This is how the evaluation of CoNLL-2000 read
chunks, and how predictions, which need not be well formed, are usually read. Where tags have no
prefix, words next to one another with one tag are an entity. ``O`` is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

OUTSIDE = "O"
Entity = tuple[str, int, int]  # type, first word, last word


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities of one row.

    >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-PER"]))
    [('LOC', 3, 3), ('LOC', 4, 4), ('PER', 0, 1), ('PER', 5, 5)]
    """
    return set(_spans(tags))


def _spans(tags: Sequence[str]) -> Iterator[Entity]:
    kind, start = "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, own = _parts(tag)
        if kind and (own != kind or prefix == "B"):
            yield kind, start, place - 1
            kind = ""
        if own and not kind:
            kind, start = own, place


def _parts(tag: str) -> tuple[str, str]:
    """Prefix and type; of ``O`` both empty."""
    if tag == OUTSIDE:
        return "", ""
    prefix, dash, kind = tag.partition("-")
    return (prefix, kind or "_") if dash and prefix in ("B", "I") else ("I", tag)
