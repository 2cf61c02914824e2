"""From one split's rows to what the model reads: token ids cut to its length, or pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from compress_explain.data.examples import Examples, Tags
from compress_explain.data.neighbours import Neighbours
from compress_explain.data.questions import Asked
from compress_explain.data.spans import locate
from compress_explain.data.tagging import align
from compress_explain.errors import InputError
from compress_explain.model.heads import logits_in
from compress_explain.model.loading import Subject

_BATCH = 32  # texts that are embedded together
_FEW_TEXTS = 3
_AT_ONCE = 1024  # texts that are tokenized together; what a tokenizer returns takes far more memory than is kept


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How rows are read: the columns of inputs and of labels, and what to do with long texts.

    ``max_length`` is in tokens; None is the model's own limit. ``context``, ``empty_answers`` and ``longest_answer``
    (in tokens) are for questions: the column of the texts that they are about, what to do with those that have no answer, and how
    long one may be. ``pair`` is for embeddings: the column of second texts, where the labels say how alike both are.
    """

    input: str
    label: str
    max_length: int | None
    long_text: str
    context: str = "context"
    empty_answers: str = "refuse"
    longest_answer: int = 30
    pair: str | None = None


def encode(
    values: pd.Series,
    where: str,
    reading: Reading,
    subject: Subject,
    labels: np.ndarray,
    slices: dict[str, np.ndarray],
    tags: list[np.ndarray] | None = None,
    goals: list[str] | None = None,
    asked: Asked | None = None,
    similarity: np.ndarray | None = None,
) -> Examples:
    """Encode the inputs of a split; ``where`` is its key (``data.test``, or ``data`` alone) for messages.

    ``tags`` holds for each row the class of each word, where words are decided on; ``goals`` what each
    text is to become; ``asked`` what each question is about, and its answers; ``similarity``
    what people said of texts that come in pairs, the same for both.

    Raises:
        InputError: texts that are too long or too short, or images that cannot be read.
    """
    right = labels.tobytes() + b"".join(row.tobytes() for row in tags or ())
    right += b"".join(row_key(goal).encode() for goal in goals or ())
    if asked is not None:
        right += b"".join(row_key(context).encode() for context in asked.contexts) + repr(asked.answers).encode()
    digest = hashlib.sha256("".join(values.map(row_key)).encode() + right).hexdigest()
    name = where.removeprefix("data.")
    examples = Examples(
        name=name, inputs={}, labels=labels, slices=slices, texts=(), digest=digest, tokenwise=subject.tokenwise,
        task=subject.task,
    )  # fmt: skip
    if subject.kind.reads == "image":
        return _encode_images(examples, values, where, subject)
    if tags is not None:
        return _encode_words(examples, values.tolist(), tags, where, reading, subject)
    if asked is not None:
        return _encode_questions(examples, values.astype(str).tolist(), asked, where, reading, subject)
    encoded = _encode_texts(examples, values.astype(str).tolist(), where, reading, subject)
    if goals is not None:
        becoming = _with_goals(encoded, goals, where, reading, subject)
        assert becoming.tags is not None, "what texts are to become"
        return replace(becoming, text_bytes=_bytes(becoming.tags.ids, subject))
    if subject.pooling is not None:
        return _with_neighbours(encoded, where, subject, similarity)
    if subject.tokenwise:
        _refuse_short(encoded, where)
        return replace(encoded, text_bytes=_bytes([row[1:] for row in encoded.inputs["input_ids"]], subject))
    return encoded


def _bytes(predicted: Sequence[np.ndarray], subject: Subject) -> np.ndarray:
    """Of what is predicted of each row, as text: how many bytes it has."""
    texts = [subject.processor.decode(row, skip_special_tokens=True) for row in predicted]
    return np.array([len(text.encode()) for text in texts], dtype=np.int64)


def row_key(value: Any) -> str:
    """SHA-256 of one input: equal for equal texts, paths or pixels."""
    data = value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes()
    return hashlib.sha256(data).hexdigest()


def _refuse_short(examples: Examples, where: str) -> None:
    short = [row for row, ids in enumerate(examples.inputs["input_ids"]) if len(ids) < 2]
    if short:
        raise InputError(
            where, examples.texts[short[0]],
            f"{len(short)} rows have fewer than 2 tokens, so nothing to predict (first: row {short[0]})",
            "remove those rows",
        )  # fmt: skip


def _encode_texts(examples: Examples, texts: list[str], where: str, reading: Reading, subject: Subject) -> Examples:
    tokenizer = subject.processor
    limit = _length_limit(reading, subject)
    too_long: list[int] = []
    for start in range(0, len(texts), _AT_ONCE):
        whole = tokenizer(texts[start : start + _AT_ONCE], add_special_tokens=True, verbose=False)["input_ids"]
        too_long += [row for row, ids in enumerate(whole, start) if len(ids) > limit]
    inputs = cut(tokenizer, texts, limit)
    _refuse_long(too_long, texts, where, reading, limit)
    # a language model reads no second text, so it needs no token types, which some tokenizers give all the same
    keys = ("input_ids", "attention_mask") if subject.kind.decides == "token" else tuple(inputs)
    return replace(
        examples,
        inputs={key: inputs[key] for key in keys},
        texts=tuple(texts),
        padding=dict.fromkeys(keys, 0) | {"input_ids": _padding_id(subject)},
        truncated=len(too_long),
        max_length=limit,
    )


def _with_goals(examples: Examples, goals: list[str], where: str, reading: Reading, subject: Subject) -> Examples:
    """What the decoder is to give, token by token, and what it reads for that."""
    limit = _length_limit(reading, subject)
    whole = subject.processor(text_target=goals, verbose=False)["input_ids"]
    _refuse_long([row for row, ids in enumerate(whole) if len(ids) > limit], goals, where, reading, limit)
    encoded = subject.processor(text_target=goals, truncation=True, max_length=limit)["input_ids"]
    bare = [row for row, row_ids in enumerate(encoded) if not row_ids]
    if bare:
        problem = f"{len(bare)} rows have no token to become (first: row {bare[0]})"
        raise InputError(where, goals[bare[0]][:80], problem, "remove those rows")
    ids = [np.asarray(row, dtype=np.int64) for row in encoded]
    shifted = subject.model.prepare_decoder_input_ids_from_labels  # type: ignore[operator]
    return replace(
        examples,
        inputs={
            **examples.inputs,
            "decoder_input_ids": [shifted(torch.from_numpy(row)[None])[0].numpy() for row in ids],
        },
        padding={**examples.padding, "decoder_input_ids": _padding_id(subject)},
        truncated=examples.truncated + sum(len(row) > limit for row in whole),
        tags=Tags(names=(), ids=ids, places=[np.arange(len(row)) for row in ids]),
    )


def _encode_words(
    examples: Examples, texts: list[str], tags: list[np.ndarray], where: str, reading: Reading, subject: Subject
) -> Examples:
    limit = _length_limit(reading, subject)
    aligned = align(subject.processor, texts, tags, limit)
    _refuse_long(aligned.longer, texts, where, reading, limit)
    bare = [row for row, places in enumerate(aligned.places) if not len(places)]
    if bare:
        problem = f"{len(bare)} rows have no word that the model reads (first: row {bare[0]})"
        raise InputError(where, texts[bare[0]][:80], problem, "remove those rows")
    names = tuple(name for _, name in sorted(subject.labels.items()))
    return replace(
        examples,
        inputs=aligned.inputs,
        texts=tuple(texts),
        padding=dict.fromkeys(aligned.inputs, 0) | {"input_ids": _padding_id(subject)},
        truncated=len(aligned.longer),
        max_length=limit,
        tags=Tags(names=names, ids=aligned.ids, places=aligned.places),
    )


def _encode_questions(
    examples: Examples, questions: list[str], asked: Asked, where: str, reading: Reading, subject: Subject
) -> Examples:
    """Rows whose answer was cut away are left out."""
    limit = _length_limit(reading, subject)
    found = locate(
        subject.processor, questions, asked, limit, where=where,
        empty=reading.empty_answers == "allow", longest=reading.longest_answer,
    )  # fmt: skip
    _refuse_long(found.longer, questions, where, reading, limit)
    if not len(found.reached):
        problem = f"in none of {len(questions)} rows is the answer among the {limit} tokens that the model takes"
        raise InputError(where, questions[0][:80], problem, "raise data.max_length, or give shorter texts")
    return replace(
        examples.only(found.reached),
        inputs=found.inputs,
        texts=tuple(questions[row] for row in found.reached),
        padding=dict.fromkeys(found.inputs, 0) | {"input_ids": _padding_id(subject)},
        truncated=len(found.longer),
        left_out=len(questions) - len(found.reached),
        max_length=limit,
        tags=Tags(names=(), ids=found.bounds, places=[np.arange(2)] * len(found.bounds)),
        spans=found.spans,
    )


def _with_neighbours(examples: Examples, where: str, subject: Subject, similarity: np.ndarray | None) -> Examples:
    """What the original embeds texts as, and which of them is nearest to each."""
    if len(set(examples.texts)) < _FEW_TEXTS:
        problem = f"it has {len(set(examples.texts))} different texts, too few to be near to one another"
        raise InputError(where, examples.texts[0][:80], problem, f"give at least {_FEW_TEXTS}")
    assert subject.pooling is not None, "asked before"
    directions: list[np.ndarray] = [np.zeros(0)] * len(examples)
    with torch.inference_mode():
        for batch in examples.batches(_BATCH):
            states = logits_in(subject.model(**batch.inputs)).float()
            pooled = torch.nn.functional.normalize(subject.pooling.of(states, batch.inputs["attention_mask"]), dim=-1)
            for row, direction in zip(batch.rows, pooled.numpy(), strict=True):
                directions[row] = direction
    near = Neighbours.among(list(examples.texts), np.stack(directions), subject.pooling, similarity)
    places = np.zeros(len(examples), dtype=np.int64) if similarity is None else np.arange(len(examples)) % 2
    digest = hashlib.sha256(f"{examples.digest} {subject.pooling} {subject.digest}".encode()).hexdigest()
    return replace(
        examples, neighbours=near, digest=digest,
        tags=Tags(names=(), ids=list(near.nearest[:, None]), places=list(places[:, None])),
    )  # fmt: skip


def _refuse_long(longer: list[int], texts: Sequence[str], where: str, reading: Reading, limit: int) -> None:
    if longer and reading.long_text == "refuse":
        raise InputError(
            where,
            texts[longer[0]][:80],
            f"{len(longer)} texts have more than the {limit} tokens that the model takes",
            "shorten them, or set data.long_text to truncate",
        )


def cut(tokenizer: Any, texts: Sequence[str], limit: int) -> dict[str, list[np.ndarray]]:
    """What ``tokenizer`` makes of each text, at most ``limit`` tokens, by model argument."""
    inputs: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(texts), _AT_ONCE):
        for key, rows in tokenizer(list(texts[start : start + _AT_ONCE]), truncation=True, max_length=limit).items():
            inputs.setdefault(key, []).extend(np.asarray(row, dtype=np.int64) for row in rows)
    return inputs


def tokens_of(texts: Sequence[str], reading: Reading, subject: Subject) -> np.ndarray:
    """How many tokens the model reads of each text, after cutting."""
    inputs = cut(subject.processor, texts, _length_limit(reading, subject))
    return np.array([len(row) for row in inputs["input_ids"]], dtype=np.int64)


def _padding_id(subject: Subject) -> int:
    """What fills up short rows; a language model never looks at it, so any token will do."""
    tokenizer = subject.processor
    if subject.kind.decides == "token":
        return int(tokenizer.eos_token_id or 0)
    if tokenizer.pad_token_id is None:
        raise InputError(
            "model", subject.source, "its tokenizer has no padding token", "set tokenizer.pad_token and save it"
        )
    return int(tokenizer.pad_token_id)


def _length_limit(reading: Reading, subject: Subject) -> int:
    if reading.long_text not in ("truncate", "refuse"):
        raise InputError("data.long_text", reading.long_text, "unknown choice", "truncate or refuse")
    takes = getattr(subject.model.config, "max_position_embeddings", None) or subject.processor.model_max_length
    takes = min(takes, subject.processor.model_max_length)
    if reading.max_length is not None and not 2 <= reading.max_length <= takes:
        raise InputError(
            "data.max_length", reading.max_length, f"the model takes 2 to {takes} tokens", f"use at most {takes}"
        )
    return min(takes, reading.max_length or takes)


def _encode_images(examples: Examples, values: pd.Series, where: str, subject: Subject) -> Examples:
    """Pixels as ``(channels, height, width)`` arrays; anything else goes through the image processor."""
    first = values.iloc[0]
    if isinstance(first, np.ndarray) and first.ndim == 3:
        pixels = [np.asarray(value, dtype=np.float32) for value in values]
    else:
        pixels = [
            np.asarray(subject.processor(image, return_tensors="np")["pixel_values"][0], dtype=np.float32)
            for image in map(_open_image, values, [where] * len(values))
        ]
    texts = tuple(f"{examples.name} image {row}" for row in range(len(values)))
    return replace(examples, inputs={"pixel_values": pixels}, texts=texts)


def _open_image(value: Any, where: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    if not isinstance(value, str):
        return value
    try:
        return Image.open(value).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(where, value, f"not a readable image ({error})", "give paths of PNG or JPEG files") from None
