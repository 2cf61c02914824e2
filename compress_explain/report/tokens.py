"""The tokens that were removed: too many to be shown one by one, so counted by how often they are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress_explain.model.embedding import TOKEN
from compress_explain.report.numbers import count, share

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """In sentences, and how many were removed of those that are used that often."""

    sentences: tuple[str, ...]
    by_use: dict[str, int]


def tokens(run: Run) -> Tokens | None:
    """What became of the tokens; None when none was ever removed."""
    counts = run.summary["components"].get(TOKEN)
    planned = [record for record in run.ledger.of_kind("planned") if "vocabulary" in record.body]
    if counts is None or not planned:
        return None
    facts = planned[-1].body["vocabulary"]
    observed = run.ledger.find("observed", planned[-1].step)
    reading = observed.body.get("reading") if observed else None
    sentences = (_left(counts, facts), _expected(facts), *([] if reading is None else [_observed(reading)]))
    return Tokens(sentences=sentences, by_use=facts["removed_by_use"])


def _left(counts: dict[str, int], facts: dict[str, Any]) -> str:
    total = sum(counts.values())
    restored = f" {count(counts['restored'])} were removed and put back." if counts["restored"] else ""
    return (
        f"Of {count(total)} tokens {count(counts['removed'])} are removed with their rows of the embedding.{restored} In "
        f"{count(facts['texts'])} texts of {count(facts['tokens_counted'])} tokens {count(facts['used'])} of those that stayed "
        f"are used; {count(facts['fixed'])} stay in any case: special ones, and single characters, with which every text can "
        f"still be spelled.{_first(facts['first'])}"
    )


def _first(first: int) -> str:
    return f" So do common ones, the tokenizer's first {count(first)}, whether used or not." if first else ""


def _expected(facts: dict[str, Any]) -> str:
    return (
        f"A word whose token is gone is read as shorter pieces. Of a new text's tokens {share(facts['unseen_share'])} were "
        f"expected to be among those that went (Good-Turing), and {share(facts['changed_share'])} of the rows to be cut otherwise."
    )


def _observed(reading: dict[str, Any]) -> str:
    longer = reading["tokens_after"] / reading["tokens_before"] - 1
    return (
        f"On {reading['split']} {share(reading['rows_changed'] / reading['rows'])} of {count(reading['rows'])} rows are cut "
        f"otherwise, and all rows together are {share(longer)} longer."
    )
