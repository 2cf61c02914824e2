"""What a strategy may ask about the tokens of a model, and how the model reads without some of them.

The model without some tokens is simulated exactly: texts are cut by the tokenizer without them, and
its pieces looked up in their rows of the original. Nothing but calibration and the texts that a
strategy names is looked at; of the latter those that stand in validation or test are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from transformers import PreTrainedTokenizerFast

from compress_explain.comparison.predictions import Pairs, pair
from compress_explain.data.examples import ALL, Examples
from compress_explain.data.sources import read_texts
from compress_explain.editing.masks import Masks
from compress_explain.model.embedding import check_rows, needed_rows
from compress_explain.pricing.exact import masked
from compress_explain.pricing.joint import Joint, observed_joint
from compress_explain.vocabulary.pieces import Flags, Pieces, read_pieces
from compress_explain.vocabulary.reading import Reread, reread
from compress_explain.vocabulary.usage import Choice, Usage, choose

_CHECKED = 256  # texts on which a tokenizer must agree with its JSON
_AT_ONCE = 1024  # texts that are counted together


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What taking out the tokens of a choice is expected to do, per slice, and how that is known."""

    expected: dict[str, Joint] = field(repr=False)
    facts: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """The tokens of one model and its tokenizer; ``barred`` texts are those that judge."""

    masks: Masks = field(repr=False)
    tokenizer: Any = field(repr=False)
    calibration: Examples
    barred: frozenset[str] = field(repr=False)
    batch_size: int = 32
    rehearsals: list[Rehearsal] = field(default_factory=list, repr=False)
    _last: dict[str, tuple[bytes, Reread]] = field(
        default_factory=dict, repr=False
    )  # by digest of the split: for which flags

    @cached_property
    def pieces(self) -> Pieces:
        """The pieces of the tokenizer.

        Raises:
            InputError: the model reads no tokens, or they cannot be made fewer.
        """
        check_rows(self.masks.model)
        assert self.masks.anatomy.embedding is not None, "a model that reads tokens has an embedding"
        return read_pieces(self.tokenizer, self.masks.anatomy.embedding.count, self.calibration.texts[:_CHECKED])

    @cached_property
    def needed(self) -> Flags:
        """Rows that the model itself names."""
        flags = np.zeros(self.pieces.rows, dtype=bool)
        flags[list(needed_rows(self.masks.model))] = True
        return flags

    @property
    def gone(self) -> Flags:
        """Rows that are removed now."""
        flags = self.masks.removed_tokens
        return np.zeros(self.pieces.rows, dtype=bool) if flags is None else flags.numpy()

    def usage(self, source: str | None = None, column: str = "text") -> Usage:
        """How often each token is used in calibration and in the texts of ``source``, each different text once.

        Raises:
            InputError: the source cannot be read.
        """
        more = [] if source is None else read_texts("strategies: vocabulary.texts", source, column)
        texts = list(dict.fromkeys([*self.calibration.texts, *more]))
        counted = [text for text in texts if text not in self.barred]
        limit = self.calibration.max_length or self.tokenizer.model_max_length
        counts = np.zeros(self.pieces.rows, dtype=np.int64)
        for start in range(0, len(counted), _AT_ONCE):
            some = counted[start : start + _AT_ONCE]
            rows = self.tokenizer(some, truncation=True, max_length=limit)["input_ids"]
            counts += np.bincount([number for row in rows for number in row], minlength=len(counts))
        return Usage(counts=counts, texts=len(counted), barred=len(texts) - len(counted))

    def choose(self, usage: Usage, least: int, keep: int = 0) -> Choice:
        """Which tokens stay when they must be used ``least`` times, and at least ``keep`` are to."""
        return choose(self.pieces, usage, least, self.needed, keep)

    def going(self, choice: Choice) -> Int[np.ndarray, " going"]:
        """Rows that go, those first that are least likely to be met: rows that no piece has, then the least used.

        Of pieces that are used alike the later ones go first: tokenizers number common pieces before rare ones.
        A piece counts as used as often as what it is a part of, so putting the last back first never puts
        back what cannot be made.
        """
        rows = np.flatnonzero(~choice.stay & ~self.gone)
        named = np.array([self.pieces.names[row] is not None for row in rows], dtype=bool)
        return rows[np.lexsort((-rows, self.pieces.reached(choice.usage.counts)[rows], named))]

    def without(self, gone: Flags) -> PreTrainedTokenizerFast:
        """The tokenizer without some pieces."""
        return self.pieces.reduced(np.flatnonzero(~gone))

    def read(self, examples: Examples) -> Reread:
        """``examples`` as the model reads them without the tokens that are removed now."""
        state = self.gone.tobytes()
        known = self._last.get(examples.digest)
        if known is None or known[0] != state:
            self._last[examples.digest] = (state, self._read_without(examples, self.gone))
        return self._last[examples.digest][1]

    def reader(self) -> Callable[[Examples], Examples]:
        """What reads any examples as the model does without the tokens that are removed now."""
        if self.masks.removed_tokens is None:
            return _as_it_is
        tokenizer, left = self.without(self.gone), np.flatnonzero(~self.gone)
        return lambda examples: reread(examples, tokenizer, left).examples

    def rehearse(self, choice: Choice) -> Rehearsal:
        """What the choice is expected to do to new texts, from what one use more to ask for would do to calibration."""
        now = self.read(self.calibration).examples if self.gone.any() else self.calibration
        then = self._read_without(self.calibration, self.gone | ~choice.stricter)
        pairs = zip(now.inputs["input_ids"], then.examples.inputs["input_ids"], strict=True)
        rows = np.flatnonzero([not np.array_equal(before, after) for before, after in pairs])
        before, after = (self._logits(examples, rows) for examples in (now, then.examples))
        was, is_now = pair(now, before, before), pair(now, before, after)
        expected = {name: _observed(was, is_now, name) for name in now.slices}
        usage = choice.usage
        facts = {
            "texts": usage.texts, "barred_texts": usage.barred, "tokens_counted": usage.tokens,
            "rows": self.pieces.rows,
            "removed_by_use": _by_use(usage.counts[self.going(choice)]),
            "left": int((choice.stay & ~self.gone).sum()),
            "first": choice.first,
            "fixed": int((self.pieces.fixed | self.needed).sum()),
            "used": int((choice.stay & (usage.counts > 0)).sum()),
            "unseen_share": choice.unseen_share,
            "changed_share": len(rows) / len(now),
            "expected": asdict(expected[ALL]),
        }  # fmt: skip
        rehearsal = Rehearsal(expected=expected, facts=facts)
        self.rehearsals.append(rehearsal)
        return rehearsal

    def _read_without(self, examples: Examples, gone: Flags) -> Reread:
        return reread(examples, self.without(gone), np.flatnonzero(~gone))

    def _logits(self, examples: Examples, rows: np.ndarray) -> Float[np.ndarray, "n classes"]:
        """Of the chosen rows; 0 for all others."""
        logits = np.zeros((len(examples), self.masks.model.config.num_labels), dtype=np.float32)
        with torch.inference_mode(), masked(self.masks):
            for batch in examples.batches(self.batch_size, rows):
                logits[batch.rows] = self.masks.model(**batch.inputs).logits.float().numpy()
        return logits


def _as_it_is(examples: Examples) -> Examples:
    return examples


def _observed(was: Pairs, now: Pairs, slice_name: str) -> Joint:
    """What changed on one slice; nothing where it has no rows."""
    if was.slices[slice_name].any():
        return observed_joint(was.only(slice_name), now.only(slice_name))
    return Joint(loss_change=0.0, kl=0.0, flips_to_wrong=0.0, flips_to_right=0.0, accuracy_change=0.0, n=0)


def _by_use(counts: Int[np.ndarray, " going"]) -> dict[str, int]:
    """How many are used how often: never, once, 2 to 3 times, 4 to 7 times, and so on.

    >>> _by_use(np.array([0, 5, 0, 1, 6, 3]))
    {'0': 2, '1': 1, '2-3': 1, '4-7': 2}
    """
    bands, sizes = np.unique(np.frexp(counts)[1], return_counts=True)
    starts = [0 if band == 0 else 2 ** (band - 1) for band in bands.tolist()]
    ends = [max(start, 2 * start - 1) for start in starts]
    names = [str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True)]
    return dict(zip(names, sizes.tolist(), strict=True))
