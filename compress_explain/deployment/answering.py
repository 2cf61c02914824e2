"""A deployed model's answers to one text at a time, where it answers for words, tokens or the bounds of answers, or embeds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from compress_explain.data.questions import Asked
from compress_explain.data.spans import locate
from compress_explain.data.tagging import align
from compress_explain.model.pooling import Pooling

Compute = Callable[[dict[str, Tensor]], np.ndarray]  # logits of a batch of inputs


def of_words(
    compute: Compute, tokenizer: Any, text: str, limit: int
) -> tuple[list[str], Float[np.ndarray, "words classes"]]:
    """The words of a text, split at spaces, that fit into ``limit`` tokens, and the logits of each one's first token."""
    joined = " ".join(text.split())
    words = joined.split(" ")
    aligned = align(tokenizer, [joined], [np.zeros(len(words), dtype=np.int64)], limit)
    logits = compute(_batch({name: rows[0] for name, rows in aligned.inputs.items()}))[0]
    return [words[place] for place in aligned.places[0]], logits[aligned.ids[0] >= 0]


def loss_of(compute: Compute, tokenizer: Any, text: str, limit: int) -> float:
    """The mean loss of a text's tokens after the first, nats; NaN where there is none."""
    ids = np.asarray(tokenizer(text, truncation=True, max_length=limit)["input_ids"], dtype=np.int64)
    if len(ids) < 2:
        return float("nan")
    logits = torch.from_numpy(compute(_read(ids))[0, :-1])
    return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[1:])))


def continued(compute: Compute, tokenizer: Any, text: str, limit: int, tokens: int) -> str:
    """What follows a text, the likeliest token each time, up to ``tokens`` or its end; what it reads is cut to ``limit``."""
    ids = list(tokenizer(text)["input_ids"])
    made: list[int] = []
    while ids and len(made) < tokens:
        seen = np.array((ids + made)[-limit:], dtype=np.int64)
        best = int(compute(_read(seen))[0, -1].argmax())
        if best == tokenizer.eos_token_id:
            break
        made.append(best)
    return str(tokenizer.decode(made))


def answered(compute: Compute, tokenizer: Any, text: str, limit: int, tokens: int, start: int) -> tuple[str, float]:
    """What a text becomes, the likeliest token each time, up to ``tokens``, and the mean loss of that in nats.

    ``start`` is the token that a decoder begins from.
    """
    row = tokenizer(text, truncation=True, max_length=limit)
    inputs = {name: np.asarray(row[name], dtype=np.int64) for name in ("input_ids", "attention_mask")}
    made, losses = [start], list[float]()
    while len(losses) < tokens:
        logits = torch.from_numpy(compute(_batch({**inputs, "decoder_input_ids": np.array(made)}))[0, -1])
        made.append(int(logits.argmax()))
        losses.append(-float(logits.log_softmax(0).max()))
        if made[-1] == tokenizer.eos_token_id:
            break
    return str(tokenizer.decode(made[1:], skip_special_tokens=True)), float(np.mean(losses))


@dataclass(frozen=True, kw_only=True)
class Found:
    """An answer in a text: its characters from ``start`` to ``end``, and the mean loss of its first and last token, nats."""

    answer: str
    start: int
    end: int
    nll: float


def found_in(
    compute: Compute, tokenizer: Any, question: str, context: str, limit: int, *, empty: bool, longest: int
) -> Found:
    """What a text answers to a question, in up to ``longest`` tokens; nothing, with ``empty``, where that is likelier.

    What is read is cut to ``limit`` tokens.

    Raises:
        InputError: the question leaves no token for the text.
    """
    given = Asked(contexts=[context], answers=[()])
    read = locate(tokenizer, [question], given, limit, empty=empty, longest=longest, where="question")
    if not len(read.reached):
        return Found(answer="", start=0, end=0, nll=float("nan"))
    raw = torch.from_numpy(compute(_batch({name: rows[0] for name, rows in read.inputs.items()})))
    logits = read.spans.limited(raw, np.zeros(1, dtype=np.int64))[0]
    first, last = read.spans.chosen(0, *logits.numpy())
    start, end = read.spans.characters(0, first, last)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([first, last]))
    return Found(answer=context[start:end], start=start, end=end, nll=float(loss))


def embedded(compute: Compute, tokenizer: Any, text: str, limit: int, pooling: Pooling) -> Float[np.ndarray, " width"]:
    """The embedding of a text, of which at most ``limit`` tokens are read."""
    row = tokenizer(text, truncation=True, max_length=limit)
    inputs = _batch({name: np.asarray(values, dtype=np.int64) for name, values in row.items()})
    return np.asarray(pooling.of(torch.from_numpy(compute(inputs)), inputs["attention_mask"])[0].numpy())


def _read(ids: np.ndarray) -> dict[str, Tensor]:
    return _batch({"input_ids": ids, "attention_mask": np.ones_like(ids)})


def _batch(row: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values[None]) for name, values in row.items()}
