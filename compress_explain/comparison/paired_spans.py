"""How good both models' answers to questions are, as figures: the answers themselves are not kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from compress_explain.data.questions import exact_match, normalised, token_f1
from compress_explain.data.spans import Spans


@dataclass(frozen=True, kw_only=True)
class PairedSpans:
    """Of each row, and so twice, once for each bound: exact match and F1 of both models' answers, and whether they are the same."""

    original_exact: Float[np.ndarray, " n"] = field(repr=False)
    compressed_exact: Float[np.ndarray, " n"] = field(repr=False)
    original_f1: Float[np.ndarray, " n"] = field(repr=False)
    compressed_f1: Float[np.ndarray, " n"] = field(repr=False)
    same_answer: Float[np.ndarray, " n"] = field(repr=False)

    @classmethod
    def of(
        cls, spans: Spans, original: Float[np.ndarray, "n width"], compressed: Float[np.ndarray, "n width"]
    ) -> PairedSpans:
        """Of what two models' logits choose on the rows of ``spans``."""
        before, after = spans.found(original), spans.found(compressed)
        same = np.array([normalised(was) == normalised(now) for was, now in zip(before, after, strict=True)])
        return cls(
            original_exact=_each(exact_match, before, spans),
            compressed_exact=_each(exact_match, after, spans),
            original_f1=_each(token_f1, before, spans),
            compressed_f1=_each(token_f1, after, spans),
            same_answer=same.astype(np.float64).repeat(2),
        )

    def only(self, flags: Bool[np.ndarray, " n"]) -> PairedSpans:
        return PairedSpans(**{name: values[flags] for name, values in self.columns().items()})

    def columns(self) -> dict[str, np.ndarray]:
        """As columns of a table."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def stands_in(cls, table: pa.Table) -> bool:
        """Whether a table has these columns."""
        return {each.name for each in fields(cls)} <= set(table.column_names)

    @classmethod
    def of_columns(cls, table: pa.Table) -> PairedSpans:
        return cls(**{each.name: table[each.name].to_numpy() for each in fields(cls)})


def _each(measure: Callable[[str, Sequence[str]], float], answers: list[str], spans: Spans) -> np.ndarray:
    """A figure of each answer, at both of its bounds."""
    return np.array([measure(*each) for each in zip(answers, spans.answers, strict=True)], dtype=np.float64).repeat(2)
