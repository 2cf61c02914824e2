"""A tokenizer's pieces by number: which must stay for it to stay whole, and the tokenizer of those that do."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from compress_explain.errors import InputError
from compress_explain.vocabulary.bpe import Bpe
from compress_explain.vocabulary.spelled import is_byte
from compress_explain.vocabulary.unigram import Unigram
from compress_explain.vocabulary.wordpiece import WordPiece

Flags = Bool[np.ndarray, " rows"]

_CULPRIT = "strategies: vocabulary"
_REMEDY = "leave out the strategy vocabulary, or save the tokenizer as one of WordPiece, BPE or Unigram"
_KINDS: dict[str, Any] = {"WordPiece": WordPiece, "BPE": Bpe, "Unigram": Unigram}
_PROCESSORS = ("TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel", "Sequence")
_COPIED = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "clean_up_tokenization_spaces",
    "chat_template",
    "extra_special_tokens",
)


@runtime_checkable
class Model(Protocol):
    """How one kind of tokenizer finds its pieces."""

    @property
    def ids(self) -> dict[str, int]: ...

    @property
    def unknown(self) -> int | None: ...

    def spelling(self, piece: str) -> list[str]: ...

    def parts(self, piece: str) -> list[str]: ...

    def needed(self) -> list[str]: ...

    def reduced(self, new: dict[int, int]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Pieces:
    """The pieces of one tokenizer and the ``rows`` of the model that reads them."""

    tokenizer: Any = field(repr=False)
    document: dict[str, Any] = field(repr=False)
    model: Model = field(repr=False)
    rows: int

    @cached_property
    def names(self) -> list[str | None]:
        """What each row stands for; None for rows that no piece has."""
        names: list[str | None] = [None] * self.rows
        for piece, number in self.model.ids.items():
            names[number] = piece
        for added in self.document["added_tokens"]:
            names[added["id"]] = added["content"]
        return names

    @cached_property
    def fixed(self) -> Flags:
        """Pieces that never go: special and added ones, and what every text can still be spelled with."""
        flags = np.zeros(self.rows, dtype=bool)
        ids = self.model.ids
        flags[[added["id"] for added in self.document["added_tokens"]]] = True
        flags[list(_named(self.document["post_processor"]))] = True
        flags[[number for number in self.tokenizer.all_special_ids if number is not None]] = True
        flags[[ids[piece] for piece in self.model.needed()]] = True
        if self.model.unknown is not None:
            flags[self.model.unknown] = True
        for piece, number in ids.items():
            spelling = self.model.spelling(piece)
            flags[number] |= is_byte(piece) or len(spelling) < 2 or not all(each in ids for each in spelling)
        return flags

    @cached_property
    def met(self) -> Flags:
        """Pieces that some text has: not what the tokenizer cuts apart before it looks pieces up, as it does ``[unused1]``."""
        flags = np.array([name is not None for name in self.names])
        before = self.tokenizer.backend_tokenizer.pre_tokenizer
        if isinstance(self.model, WordPiece) and before is not None:
            for piece, number in self.model.ids.items():
                flags[number] = len(before.pre_tokenize_str(self.model.letters(piece))) == 1
        return flags

    def whole(self, wanted: Flags) -> Flags:
        """The ``wanted`` pieces, those that are :attr:`fixed`, and every piece that is made on the way to one of them."""
        flags = wanted | self.fixed
        ids = self.model.ids
        for piece, number in ids.items():
            if flags[number]:
                flags[[ids[part] for part in self.model.parts(piece) if part in ids]] = True
        return flags & np.array([name is not None for name in self.names])

    def reached(self, counts: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        """``counts``, raised so that no piece has less than one that it is a part of."""
        reached, ids = counts.copy(), self.model.ids
        for piece, number in ids.items():
            parts = [ids[part] for part in self.model.parts(piece) if part in ids] if counts[number] else []
            reached[parts] = np.maximum(reached[parts], counts[number])
        return reached

    def reduced(self, rows: Int[np.ndarray, " kept"]) -> PreTrainedTokenizerFast:
        """The tokenizer of the pieces of these rows, in ascending order, numbered by their place among them.

        Raises:
            InputError: it would not number them so.
        """
        new = {int(row): place for place, row in enumerate(rows)}
        document = copy.deepcopy({key: value for key, value in self.document.items() if key != "model"})
        document["model"] = self.model.reduced(new)
        document["added_tokens"] = [{**each, "id": new[each["id"]]} for each in document["added_tokens"]]
        document |= {"truncation": None, "padding": None}
        _renumber(document["post_processor"], new)
        made = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(document)),
            model_input_names=list(self.tokenizer.model_input_names),
            **{key: getattr(self.tokenizer, key) for key in _COPIED if getattr(self.tokenizer, key, None) is not None},
            **self.tokenizer.special_tokens_map,
        )
        for row, place in new.items():
            if self.names[row] is not None and made.convert_tokens_to_ids(self.names[row]) != place:
                raise InputError(_CULPRIT, self.names[row], "the smaller tokenizer would number it otherwise", _REMEDY)
        return made


def read_pieces(tokenizer: Any, rows: int, check: Sequence[str]) -> Pieces:
    """The pieces of ``tokenizer``; ``check`` are texts that must be cut by its JSON as they are by itself.

    Raises:
        InputError: no fast tokenizer, none of WordPiece, BPE and Unigram, or more than its JSON says.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(_CULPRIT, type(tokenizer).__name__, "not a fast tokenizer", _REMEDY)
    document = json.loads(backend.to_str())
    kind = document["model"].get("type")
    if kind not in _KINDS:
        raise InputError(_CULPRIT, kind, "a tokenizer of this kind cannot be made smaller", _REMEDY)
    if kind == "BPE" and any(
        document["model"].get(mark) for mark in ("continuing_subword_prefix", "end_of_word_suffix")
    ):
        raise InputError(_CULPRIT, kind, "its pieces carry marks of where in a word they stand", _REMEDY)
    processors = [each["type"] for each in _processors(document["post_processor"])]
    if set(processors) - set(_PROCESSORS):
        raise InputError(_CULPRIT, processors[0], "special tokens are added in a way that is not known", _REMEDY)
    pieces = Pieces(tokenizer, document, _KINDS[kind](document["model"]), rows)
    largest = max([*pieces.model.ids.values(), *(added["id"] for added in document["added_tokens"])])
    if largest >= rows:
        raise InputError(
            _CULPRIT,
            largest,
            f"the tokenizer has this token, the model only {rows} rows",
            "give the model's own tokenizer",
        )
    present = np.array([row for row, name in enumerate(pieces.names) if name is not None])
    again = pieces.reduced(present)(list(check), verbose=False)["input_ids"]
    own = tokenizer(list(check), truncation=False, verbose=False)["input_ids"]
    wrong = next((text for text, a, b in zip(check, again, own, strict=True) if present[a].tolist() != list(b)), None)
    if wrong is not None:
        raise InputError(_CULPRIT, wrong[:80], "the tokenizer does more than its tokenizer.json says", _REMEDY)
    return pieces


def _processors(processor: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A post-processor and those within it."""
    if processor is not None:
        yield processor
        for inner in processor.get("processors", []):
            yield from _processors(inner)


def _named(processor: dict[str, Any] | None) -> Iterator[int]:
    """The numbers of the special tokens that a post-processor adds."""
    for each in _processors(processor):
        if each["type"] == "TemplateProcessing":
            yield from (number for token in each["special_tokens"].values() for number in token["ids"])
        elif each["type"] in ("BertProcessing", "RobertaProcessing"):
            yield from (each["sep"][1], each["cls"][1])


def _renumber(processor: dict[str, Any] | None, new: dict[int, int]) -> None:
    for each in _processors(processor):
        if each["type"] == "TemplateProcessing":
            for token in each["special_tokens"].values():
                token["ids"] = [new[number] for number in token["ids"]]
        elif each["type"] in ("BertProcessing", "RobertaProcessing"):
            each.update({key: [each[key][0], new[each[key][1]]] for key in ("sep", "cls")})
