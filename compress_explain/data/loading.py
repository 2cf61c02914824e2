"""From rows to encoded examples: columns, labels, slices, and the checks that guard them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from compress_explain.data.clusters import with_clusters
from compress_explain.data.encoding import Reading, encode, row_key, tokens_of
from compress_explain.data.examples import ALL, Examples
from compress_explain.data.features import as_features, known_columns
from compress_explain.data.markers import markers
from compress_explain.data.questions import Asked, asked
from compress_explain.data.similar import similarities, unrolled
from compress_explain.data.slices import SliceRule
from compress_explain.data.sources import read_rows
from compress_explain.data.tagging import as_text, tag_numbers
from compress_explain.data.tokens import token_slices
from compress_explain.errors import InputError, did_you_mean
from compress_explain.model.loading import Subject
from compress_explain.model.tasks import QUESTION_ANSWERING, TEXT_GENERATION, TEXT_TO_TEXT

SPLITS = ("calibration", "validation", "test")
TOKENS = (
    "tokens",
    "len_tokens",
)  # a column of how many there are; the second where the data has a column of the first name


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Where the splits come from and how their columns are read.

    A source is a CSV, JSON, JSONL or Parquet file or ``dataset_id:split``. ``calibration_rows`` draws
    that many rows, to price and to refit on. ``long_text`` and ``overlap`` say what to do with texts beyond the
    model's length and with rows that stand in two splits. ``context``, ``empty_answers`` and ``longest_answer`` are for
    questions, ``pair`` for embeddings (:class:`~.encoding.Reading`).
    """

    calibration: str
    validation: str
    test: str
    input: str = "text"
    label: str = "label"
    calibration_rows: int | None = 4096
    max_length: int | None = None
    long_text: str = "truncate"
    overlap: str = "refuse"
    context: str = "context"
    empty_answers: str = "refuse"
    longest_answer: int = 30
    pair: str | None = None

    @property
    def reading(self) -> Reading:
        """The part of it that holds for any rows, whatever split they are of."""
        return Reading(
            input=self.input, label=self.label, max_length=self.max_length, long_text=self.long_text, context=self.context,
            empty_answers=self.empty_answers, longest_answer=self.longest_answer, pair=self.pair,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The three splits of a run, each with one job: price, drive reinstatement, give the verdict.

    ``spec`` says where they came from and ``rules`` how they were sliced, when they were read from
    somewhere.
    """

    calibration: Examples = field(repr=False)
    validation: Examples = field(repr=False)
    test: Examples = field(repr=False)
    spec: DataSpec | None = None
    rules: tuple[SliceRule, ...] = ()

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
    for rule in rules:
        if rule.token is not None and subject.task == TEXT_GENERATION:
            problem = "slices of tokens are for price and audit; a run judges rows"
            raise InputError(f"slices: {rule.name}", rule.token, problem, "slice rows, by column, where or matches")
    read = {name: _checked(frames[name], f"data.{name}", spec.reading, subject) for name in SPLITS}
    frames = _without_overlap(read, spec, subject)
    keyed = {f"data.{name}": frame for name, frame in frames.items()}
    encoded = _encoded(keyed, "data.test", rules, spec.reading, subject)
    return Splits(**{examples.name: examples for examples in encoded}, spec=spec, rules=tuple(rules))


def load_examples(
    source: str,
    rules: Sequence[SliceRule],
    subject: Subject,
    *,
    input: str = "text",
    label: str = "label",
    rows: int | None = None,
    seed: int = 0,
    max_length: int | None = None,
    long_text: str = "truncate",
) -> Examples:
    """Read, check and encode one data source, for looking at a model rather than compressing it.

    ``rows`` draws that many of its rows by ``seed``. Quantiles are cut on the rows themselves. For a
    language model no labels are needed, and rules may select tokens. The digest covers what the
    model reads, the labels, and every slice.

    Raises:
        InputError: anything wrong with the source, its columns, labels or texts, or the slices.
    """
    reading = Reading(input=input, label=label, max_length=max_length, long_text=long_text)
    frame = read_rows("data", source, rows, seed)
    frame = _checked(frame, "data", reading, subject)
    [examples] = _encoded({"data": frame}, "data", rules, reading, subject)
    if subject.task == TEXT_GENERATION:
        examples = replace(examples, token_slices=token_slices(rules, examples.inputs["input_ids"]))
    return replace(examples, digest=_digest(examples))


def load_test(
    source: str,
    rules: Sequence[SliceRule],
    subject: Subject,
    reading: Reading,
    *,
    rows: int | None = None,
    seed: int = 0,
) -> Examples:
    """The rows of one source as a run reads its test split, with the same digest; ``rows`` of them, drawn by ``seed``.

    Raises:
        InputError: anything wrong with the source, its columns, labels or texts, or the slices.
    """
    frame = _checked(read_rows("data", source, rows, seed), "data", reading, subject)
    [examples] = _encoded({"data.test": frame}, "data.test", rules, reading, subject)
    return examples


def load_test_and_more(
    sources: tuple[str, str],
    rules: Sequence[SliceRule],
    subject: Subject,
    reading: Reading,
    *,
    rows: int | None = None,
    seed: int = 0,
) -> tuple[Examples, Examples]:
    """:func:`load_test` of the first source, and rows of the second to learn from; those that stand in the first are left out.

    Quantiles of slices are cut on the first.

    Raises:
        InputError: anything wrong with a source, or no row is left to learn from.
    """
    test = _checked(read_rows("data", sources[0], rows, seed), "data", reading, subject)
    more = _checked(read_rows("data.learning", sources[1], None, seed), "data.learning", reading, subject)
    seen = set(test[reading.input].map(row_key))
    left = more[~more[reading.input].map(row_key).isin(seen)]
    if len(left) < 2:
        problem = f"of its {len(more)} rows all but {len(left)} are rows that are judged on"
        raise InputError("data.learning", sources[1], problem, "give rows that stand nowhere else")
    frames = {"data.test": test, "data.learning": left.reset_index(drop=True)}
    judged, learning = _encoded(frames, "data.test", rules, reading, subject)
    return judged, learning


def _encoded(
    frames: dict[str, pd.DataFrame], reference: str, rules: Sequence[SliceRule], reading: Reading, subject: Subject
) -> list[Examples]:
    """Every frame as examples, by its key; quantiles are cut where they lie in ``reference``."""
    _check_rules(rules, reading, subject)
    counted = any(rule.mentions(name) for rule in rules for name in TOKENS)
    frames = {where: _with_measures(frame, reading, subject, counted) for where, frame in frames.items()}
    if subject.pooling is not None and reading.pair is not None:
        frames = {where: unrolled(frame, where, reading.input, reading.pair) for where, frame in frames.items()}
    labels = {where: _labels(frame, where, reading, subject) for where, frame in frames.items()}
    members = _memberships(rules, frames, reference, reading, subject, labels)
    encoded = {
        where: encode(
            frame[reading.input], where, reading, subject, labels[where], members[where],
            _tags(frame, where, reading, subject), _goals(frame, where, reading, subject),
            _asked(frame, where, reading, subject), _similarity(frame, where, reading, subject),
        )
        for where, frame in frames.items()
    }  # fmt: skip
    fitted_on = "data.calibration" if "data.calibration" in frames else reference
    encoded = with_clusters(encoded, fitted_on, rules, subject)
    if subject.tokenwise:
        return list(encoded.values())
    known = known_columns(frames[reference], besides=(reading.input, reading.label, *TOKENS))
    return [replace(each, features=_features(frames[where], known, each)) for where, each in encoded.items()]


def _features(frame: pd.DataFrame, known: list[str], examples: Examples) -> dict[str, np.ndarray]:
    """What is known of each row besides its input and its label."""
    features = as_features(frame, known)
    return features | ({"tokens": examples.lengths} if "input_ids" in examples.inputs else {})


def _tags(frame: pd.DataFrame, where: str, reading: Reading, subject: Subject) -> list[np.ndarray] | None:
    """The classes of words, where words are decided on."""
    if subject.kind.decides != "word":
        return None
    return tag_numbers(frame, where, (reading.input, reading.label), subject.labels)


def _goals(frame: pd.DataFrame, where: str, reading: Reading, subject: Subject) -> list[str] | None:
    """What texts are to become, where one is made of another."""
    if subject.task != TEXT_TO_TEXT:
        return None
    empty = frame[reading.label].isna()
    if empty.any():
        problem = f"{int(empty.sum())} rows have no text to become (first: row {int(empty.argmax())})"
        raise InputError(where, reading.label, problem, "remove those rows")
    return [str(goal) for goal in frame[reading.label]]


def _asked(frame: pd.DataFrame, where: str, reading: Reading, subject: Subject) -> Asked | None:
    """What questions are about, and their answers."""
    if subject.task != QUESTION_ANSWERING:
        return None
    return asked(frame, where, (reading.context, reading.label), reading.empty_answers)


def _similarity(frame: pd.DataFrame, where: str, reading: Reading, subject: Subject) -> np.ndarray | None:
    """What people said of texts in pairs."""
    if subject.pooling is None or reading.pair is None:
        return None
    return similarities(frame[reading.label], where)


def _check_rules(rules: Sequence[SliceRule], reading: Reading, subject: Subject) -> None:
    for rule in rules:
        if rule.token is not None and subject.task != TEXT_GENERATION:
            raise InputError(
                f"slices: {rule.name}", rule.token, f"a model for {subject.task} predicts no tokens",
                "slice its rows, by column, where or matches",
            )  # fmt: skip
        several = {"word": "of words", "bound": "answers"}.get(subject.kind.decides)
        if several and rule.column == reading.label:
            raise InputError(
                f"slices: {rule.name}", rule.column, f"its values are {several}, and a slice is of rows",
                "slice by another column, where or matches",
            )  # fmt: skip


def _digest(examples: Examples) -> str:
    """SHA-256 of the encoded rows, their labels, and their slices by name."""
    digest = hashlib.sha256(examples.digest.encode())
    tags = {} if examples.tags is None else {"tags": examples.tags.ids}
    spans = {} if examples.spans is None else {"places": examples.spans.places}
    parts = {
        **examples.inputs,
        **spans,
        **tags,
        **examples.token_slices,
        **{name: [flags] for name, flags in examples.slices.items()},
    }
    for name, arrays in parts.items():
        digest.update(f"{name} {[array.shape for array in arrays]}".encode())
        for array in arrays:
            digest.update(array.tobytes())
    return digest.hexdigest()


def _checked(frame: pd.DataFrame, where: str, reading: Reading, subject: Subject) -> pd.DataFrame:
    """A frame that has its columns; words as texts."""
    _check_columns(frame, where, reading, subject)
    if subject.kind.reads != "words":
        return frame
    return frame.assign(**{reading.input: as_text(frame[reading.input], where)})


def _check_columns(frame: pd.DataFrame, where: str, reading: Reading, subject: Subject) -> None:
    needed = {"input": reading.input} | ({} if subject.kind.label is None else {"label": reading.label})
    needed |= {"context": reading.context} if subject.task == QUESTION_ANSWERING else {}
    if reading.pair is not None and subject.pooling is None:
        raise InputError(
            "data.pair", reading.pair, f"a model for {subject.task} reads no pairs of texts", "leave it out"
        )
    needed |= {"pair": reading.pair, "label": reading.label} if subject.pooling and reading.pair else {}
    for key, column in needed.items():
        if column not in frame.columns:
            known = did_you_mean(column, map(str, frame.columns))
            raise InputError(f"data.{key}", column, f"no such column in {where}", known)
    empty = frame[reading.input].isna()
    if empty.any():
        raise InputError(
            where, reading.input, f"{int(empty.sum())} rows have no input (first: row {int(empty.argmax())})",
            "remove those rows",
        )  # fmt: skip


def _without_overlap(frames: dict[str, pd.DataFrame], spec: DataSpec, subject: Subject) -> dict[str, pd.DataFrame]:
    """Rows of calibration and validation whose input also stands in a later split: refuse or drop."""
    if spec.overlap not in ("refuse", "drop"):
        raise InputError("data.overlap", spec.overlap, "unknown choice", "refuse or drop")
    keys = {name: _keys(frame, spec, subject) for name, frame in frames.items()}
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


def _keys(frame: pd.DataFrame, spec: DataSpec, subject: Subject) -> pd.Series:
    """What makes rows the same: the input, and of a question also what it is about, of a pair its second text."""
    keys = frame[spec.input].map(row_key)
    besides = spec.context if subject.task == QUESTION_ANSWERING else spec.pair if subject.pooling else None
    return keys if besides is None else keys + frame[besides].astype(str).map(row_key)


def _with_measures(frame: pd.DataFrame, reading: Reading, subject: Subject, counted: bool) -> pd.DataFrame:
    """Columns that slices may use besides the file's own: ``words``, ``characters`` and markers of a text.

    And its tokens, where they are to be ``counted``.
    """
    if subject.kind.reads == "image":
        return frame
    texts = frame[reading.input].astype(str)
    measures: dict[str, Any] = {"words": texts.str.split().str.len(), "characters": texts.str.len()}
    measures |= markers(texts.tolist())
    if counted and subject.kind.reads == "text" and subject.task != QUESTION_ANSWERING:
        measures |= dict.fromkeys(TOKENS, tokens_of(texts.tolist(), reading, subject))
    return frame.assign(**{name: value for name, value in measures.items() if name not in frame.columns})


def _labels(frame: pd.DataFrame, where: str, reading: Reading, subject: Subject) -> np.ndarray:
    """Labels as class indices: integers as they are, names through the model's ``label2id``.

    What decides on words or tokens has none, and gets a 0 for every row.
    """
    if subject.tokenwise:
        return np.zeros(len(frame), dtype=np.int64)
    column = frame[reading.label]
    names = {name.lower(): index for index, name in subject.labels.items()}
    if column.isna().any():
        raise InputError(where, column.name, f"{int(column.isna().sum())} rows have no label", "label or remove them")
    if pd.api.types.is_integer_dtype(column):
        labels = column.to_numpy(dtype=np.int64)
        unknown = [label for label in np.unique(labels).tolist() if label not in subject.labels]
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
    reference: str,
    reading: Reading,
    subject: Subject,
    labels: dict[str, np.ndarray],
) -> dict[str, dict[str, np.ndarray]]:
    """Membership of every frame's rows in the slices of rows; labels are sliced by name."""
    named = frames
    if not subject.tokenwise:
        named = {
            where: frame.assign(**{reading.label: [subject.labels[label] for label in labels[where]]})
            for where, frame in frames.items()
        }
    members: dict[str, dict[str, np.ndarray]] = {
        where: {ALL: np.ones(len(frame), dtype=bool)} for where, frame in frames.items()
    }
    for rule in rules:
        if rule.token is not None or rule.clusters is not None:
            continue
        edges = rule.edges(named[reference])
        for where, frame in frames.items():
            texts = tuple(map(str, frame[reading.input])) if rule.matches else ()
            source = named[where] if rule.column == reading.label else frame
            members[where] |= rule.members(source, texts, edges)
    everywhere = list(dict.fromkeys(slice_name for each in members.values() for slice_name in each))
    return {
        where: {slice_name: each.get(slice_name, np.zeros(len(frames[where]), dtype=bool)) for slice_name in everywhere}
        for where, each in members.items()
    }
