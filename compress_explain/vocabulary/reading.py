"""Texts cut by a smaller tokenizer, in the numbers of the original: what a smaller vocabulary reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from compress_explain.data.encoding import cut
from compress_explain.data.examples import Examples


@dataclass(frozen=True, kw_only=True)
class Reread:
    """The same rows as before, now cut otherwise; ``changed`` says which are."""

    examples: Examples
    changed: Bool[np.ndarray, " rows"] = field(repr=False)

    def facts(self, before: Examples) -> dict[str, Any]:
        """How many rows are cut otherwise, and how long rows were and are."""
        return {
            "split": before.name,
            "rows": len(before),
            "rows_changed": int(self.changed.sum()),
            "tokens_before": int(before.lengths.sum()),
            "tokens_after": int(self.examples.lengths.sum()),
        }


def reread(examples: Examples, tokenizer: Any, rows: Int[np.ndarray, " kept"]) -> Reread:
    """``examples`` cut by ``tokenizer``, whose token i is row ``rows[i]`` of the original, in numbers of the original."""
    inputs = _cut(examples, tokenizer)
    inputs["input_ids"] = [rows[row] for row in inputs["input_ids"]]
    pairs = zip(examples.inputs["input_ids"], inputs["input_ids"], strict=True)
    changed = np.array([not np.array_equal(before, after) for before, after in pairs])
    return Reread(examples=replace(examples, inputs=inputs), changed=changed)


def read_by(examples: Examples, tokenizer: Any) -> Examples:
    """``examples`` cut by ``tokenizer``, in its own numbers."""
    padding = {**examples.padding, "input_ids": int(tokenizer.pad_token_id)}
    return replace(examples, inputs=_cut(examples, tokenizer), padding=padding)


def _cut(examples: Examples, tokenizer: Any) -> dict[str, list[np.ndarray]]:
    inputs = cut(tokenizer, examples.texts, examples.max_length or tokenizer.model_max_length)
    return {name: inputs[name] for name in examples.inputs}
