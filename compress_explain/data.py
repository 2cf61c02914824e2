"""From rows to encoded examples: columns, labels, lengths, slices, and the checks that guard them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from compress_explain.errors import InputError, did_you_mean
from compress_explain.examples import ALL, Examples
from compress_explain.models import Subject
from compress_explain.slices import SliceRule
from compress_explain.sources import read_rows

SPLITS = ("calibration", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Where the splits come from and how their columns are read.

    A source is a CSV, JSONL or Parquet file or ``dataset_id:split``. ``calibration_rows`` draws
    that many rows for pricing. ``long_text`` and ``overlap`` say what to do with texts beyond the
    model's length and with rows that stand in two splits.
    """

    calibration: str
    validation: str
    test: str
    input: str = "text"
    label: str = "label"
    calibration_rows: int | None = 1024
    max_length: int | None = None
    long_text: str = "truncate"
    overlap: str = "refuse"


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The three splits of a run, each with one job: price, drive reinstatement, give the verdict.

    ``spec`` says where they came from, when they were read from somewhere.
    """

    calibration: Examples = field(repr=False)
    validation: Examples = field(repr=False)
    test: Examples = field(repr=False)
    spec: DataSpec | None = None

    def __iter__(self) -> Any:
        return iter((self.calibration, self.validation, self.test))

    @property
    def slices(self) -> list[str]:
        """Slices that have rows in validation and in test."""
        return [name for name in self.test.slices if name != ALL and name not in self.bare_slices]

    @property
    def bare_slices(self) -> dict[str, str]:
        """Slices that no gate can judge, and the split in which they have no rows."""
        judging = (self.validation, self.test)
        return {name: split.name for split in judging for name, rows in split.slices.items() if not rows.any()}


def load_splits(spec: DataSpec, rules: Sequence[SliceRule], subject: Subject, seed: int) -> Splits:
    """Read, check and encode the three splits.

    Raises:
        InputError: anything wrong with files, columns, labels, slices, or rows shared by splits.
    """
    frames = {
        name: read_rows(
            f"data.{name}", getattr(spec, name), spec.calibration_rows if name == "calibration" else None, seed
        )
        for name in SPLITS
    }
    return encode_splits(frames, spec, rules, subject)


def encode_splits(
    frames: dict[str, pd.DataFrame], spec: DataSpec, rules: Sequence[SliceRule], subject: Subject
) -> Splits:
    """The same from frames that are already in memory, keyed by :data:`SPLITS`."""
    for name in SPLITS:
        _check_columns(frames[name], name, spec)
    frames = _without_overlap(frames, spec)
    frames = {name: _with_measures(frame, spec, subject.task) for name, frame in frames.items()}
    labels = {name: _labels(frame[spec.label], f"data.{name}", subject) for name, frame in frames.items()}
    members = _memberships(rules, frames, spec, subject, labels)
    encoded = {name: _encode(frames[name], name, spec, subject, labels[name], members[name]) for name in SPLITS}
    return Splits(**encoded, spec=spec)


def _check_columns(frame: pd.DataFrame, name: str, spec: DataSpec) -> None:
    for key, column in (("input", spec.input), ("label", spec.label)):
        if column not in frame.columns:
            raise InputError(
                f"data.{key}",
                column,
                f"no such column in the {name} split",
                did_you_mean(column, map(str, frame.columns)),
            )
    empty = frame[spec.input].isna()
    if empty.any():
        raise InputError(
            f"data.{name}", spec.input, f"{int(empty.sum())} rows have no input (first: row {int(empty.argmax())})",
            "remove those rows",
        )  # fmt: skip


def _without_overlap(frames: dict[str, pd.DataFrame], spec: DataSpec) -> dict[str, pd.DataFrame]:
    """Rows of calibration and validation whose input also stands in a later split: refuse or drop."""
    if spec.overlap not in ("refuse", "drop"):
        raise InputError("data.overlap", spec.overlap, "unknown choice", "refuse or drop")
    keys = {name: frame[spec.input].map(_row_key) for name, frame in frames.items()}
    for first, second in (("validation", "test"), ("calibration", "test"), ("calibration", "validation")):
        shared = keys[first].isin(set(keys[second]))
        if not shared.any():
            continue
        if spec.overlap == "refuse":
            raise InputError(
                f"data.{first}",
                getattr(spec, first),
                f"{int(shared.sum())} of its {len(shared)} rows also stand in {second} (first: row {int(shared.argmax())})",
                "remove them, or set data.overlap to drop",
            )
        frames = {**frames, first: frames[first][~shared].reset_index(drop=True)}
        keys[first] = keys[first][~shared].reset_index(drop=True)
        if frames[first].empty:
            raise InputError(
                f"data.{first}", getattr(spec, first), f"every row also stands in {second}", "give other rows"
            )
    return frames


def _row_key(value: Any) -> str:
    data = value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes()
    return hashlib.sha256(data).hexdigest()


def _with_measures(frame: pd.DataFrame, spec: DataSpec, task: str) -> pd.DataFrame:
    """Columns that slices may use besides the file's own: ``words`` and ``characters`` of a text."""
    if task != "text-classification":
        return frame
    texts = frame[spec.input].astype(str)
    measures = {"words": texts.str.split().str.len(), "characters": texts.str.len()}
    return frame.assign(**{name: value for name, value in measures.items() if name not in frame.columns})


def _labels(column: pd.Series, where: str, subject: Subject) -> np.ndarray:
    """Labels as class indices: integers as they are, names through the model's ``label2id``."""
    names = {name.lower(): index for index, name in subject.labels.items()}
    if column.isna().any():
        raise InputError(where, column.name, f"{int(column.isna().sum())} rows have no label", "label or remove them")
    if pd.api.types.is_integer_dtype(column):
        labels = column.to_numpy(dtype=np.int64)
        unknown = [label for label in np.unique(labels) if label not in subject.labels]
    else:
        unknown = [label for label in column.unique() if str(label).lower() not in names]
        labels = np.array([names.get(str(label).lower(), -1) for label in column], dtype=np.int64)
    if unknown:
        known = ", ".join(f"{index} ({name})" for index, name in list(subject.labels.items())[:10])
        raise InputError(where, unknown[0], "the model knows no such label", f"its labels are {known}")
    if len(np.unique(labels)) < 2:
        raise InputError(
            where, int(labels[0]), "all rows have one and the same label", "give rows of at least two classes"
        )
    return labels


def _memberships(
    rules: Sequence[SliceRule],
    frames: dict[str, pd.DataFrame],
    spec: DataSpec,
    subject: Subject,
    labels: dict[str, np.ndarray],
) -> dict[str, dict[str, np.ndarray]]:
    """Slice membership of every split; quantiles are cut where they lie in the test split."""
    named = {
        name: frame.assign(**{spec.label: [subject.labels[label] for label in labels[name]]})
        for name, frame in frames.items()
    }
    members: dict[str, dict[str, np.ndarray]] = {
        name: {ALL: np.ones(len(frame), dtype=bool)} for name, frame in frames.items()
    }
    for rule in rules:
        edges = rule.edges(named["test"])
        for name, frame in frames.items():
            texts = tuple(map(str, frame[spec.input])) if rule.matches else ()
            source = named[name] if rule.column == spec.label else frame
            members[name] |= rule.members(source, texts, edges)
    everywhere = list(dict.fromkeys(slice_name for each in members.values() for slice_name in each))
    return {
        name: {slice_name: each.get(slice_name, np.zeros(len(frames[name]), dtype=bool)) for slice_name in everywhere}
        for name, each in members.items()
    }


def _encode(
    frame: pd.DataFrame,
    name: str,
    spec: DataSpec,
    subject: Subject,
    labels: np.ndarray,
    slices: dict[str, np.ndarray],
) -> Examples:
    values = frame[spec.input]
    digest = hashlib.sha256("".join(values.map(_row_key)).encode() + labels.tobytes()).hexdigest()
    examples = Examples(name=name, inputs={}, labels=labels, slices=slices, texts=(), digest=digest)
    if subject.task == "text-classification":
        return _encode_texts(examples, values.astype(str).tolist(), name, spec, subject)
    return _encode_images(examples, values, frame, name, subject)


def _encode_texts(examples: Examples, texts: list[str], name: str, spec: DataSpec, subject: Subject) -> Examples:
    tokenizer = subject.processor
    limit = _length_limit(spec, subject)
    whole = tokenizer(texts, add_special_tokens=True, verbose=False)["input_ids"]
    too_long = [row for row, ids in enumerate(whole) if len(ids) > limit]
    if too_long and spec.long_text == "refuse":
        raise InputError(
            f"data.{name}",
            texts[too_long[0]][:80],
            f"{len(too_long)} texts have more than the {limit} tokens that the model takes",
            "shorten them, or set data.long_text to truncate",
        )
    encoded = tokenizer(texts, truncation=True, max_length=limit)
    pad_id = tokenizer.pad_token_id
    if pad_id is None:
        raise InputError(
            "model", subject.source, "its tokenizer has no padding token", "set tokenizer.pad_token and save it"
        )
    padding = dict.fromkeys(encoded, 0) | {"input_ids": pad_id}
    return replace(
        examples,
        inputs={key: [np.asarray(row, dtype=np.int64) for row in rows] for key, rows in encoded.items()},
        texts=tuple(texts),
        padding=padding,
        truncated=len(too_long),
    )


def _length_limit(spec: DataSpec, subject: Subject) -> int:
    if spec.long_text not in ("truncate", "refuse"):
        raise InputError("data.long_text", spec.long_text, "unknown choice", "truncate or refuse")
    takes = getattr(subject.model.config, "max_position_embeddings", None) or subject.processor.model_max_length
    takes = min(takes, subject.processor.model_max_length)
    if spec.max_length is not None and not 2 <= spec.max_length <= takes:
        raise InputError(
            "data.max_length", spec.max_length, f"the model takes 2 to {takes} tokens", f"use at most {takes}"
        )
    return min(takes, spec.max_length or takes)


def _encode_images(examples: Examples, values: pd.Series, frame: pd.DataFrame, name: str, subject: Subject) -> Examples:
    """Pixels as ``(channels, height, width)`` arrays; anything else goes through the image processor."""
    first = values.iloc[0]
    if isinstance(first, np.ndarray) and first.ndim == 3:
        pixels = [np.asarray(value, dtype=np.float32) for value in values]
    else:
        pixels = [
            np.asarray(subject.processor(image, return_tensors="np")["pixel_values"][0], dtype=np.float32)
            for image in map(_open_image, values, [f"data.{name}"] * len(values))
        ]
    texts = tuple(f"{name} image {row}" for row in range(len(frame)))
    return replace(examples, inputs={"pixel_values": pixels}, texts=texts)


def _open_image(value: Any, where: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    if not isinstance(value, str):
        return value
    try:
        return Image.open(value).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(where, value, f"not a readable image ({error})", "give paths of PNG or JPEG files") from None
