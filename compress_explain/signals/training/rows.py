"""The rows that a training is asked about, and others for probes to learn from, with slices of rows and of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from compress_explain.data.encoding import Reading
from compress_explain.data.examples import Examples
from compress_explain.data.loading import load_test, load_test_and_more
from compress_explain.data.slices import SliceRule
from compress_explain.data.tokens import token_slices
from compress_explain.model.loading import Subject
from compress_explain.model.tasks import TEXT_GENERATION


def rows_to_watch(
    data: str,
    learn: str | None,
    subject: Subject,
    reading: Reading,
    *,
    rules: Sequence[SliceRule] = (),
    rows: int | None = None,
    seed: int = 0,
) -> tuple[Examples, Examples | None]:
    """Rows of ``data``, and those of ``learn`` that do not stand there; bands of tokens are cut on both together.

    Raises:
        InputError: anything wrong with a source, its columns, labels or texts, or the slices.
    """
    if learn is None:
        found = [load_test(data, rules, subject, reading, rows=rows, seed=seed)]
    else:
        found = list(load_test_and_more((data, learn), rules, subject, reading, rows=rows, seed=seed))
    of_tokens = [rule for rule in rules if rule.token is not None]
    if of_tokens and subject.task == TEXT_GENERATION:
        found = _banded(found, of_tokens)
    return found[0], found[1] if len(found) > 1 else None


def _banded(splits: Sequence[Examples], rules: Sequence[SliceRule]) -> list[Examples]:
    flags = token_slices(rules, [row for split in splits for row in split.inputs["input_ids"]])
    named = hashlib.sha256(repr(rules).encode()).hexdigest()
    banded, start = [], 0
    for split in splits:
        mine = {name: rows[start : start + len(split)] for name, rows in flags.items()}
        banded.append(replace(split, token_slices=mine, digest=f"{split.digest} {named}"))
        start += len(split)
    return banded
