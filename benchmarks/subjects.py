"""What the benchmarks run on: four classifiers and a language model, each with its examples.

Two of the classifiers are fine-tuned text encoders that the caller has. The others are trained once,
into a cache, from data that the caller has or that comes with scikit-learn and with Python itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from unittest import mock

import peers
from docstrings import docstrings_model
from transformers import PreTrainedModel
from trec import trec_model

from compress_explain.data.examples import Examples
from compress_explain.data.loading import load_examples
from compress_explain.data.slices import SliceRule
from compress_explain.editing.masks import Masks
from compress_explain.inquiry import tokens_of, usual_batch
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import Subject, load_subject
from compress_explain.progress import Progress
from compress_explain.quickstart import digits_frames, digits_model, digits_splits

SEED = 0
CALIBRATION_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Places:
    """Folders: of fine-tuned models, of data sets, and for what is trained here."""

    models: Path
    data: Path
    cache: Path


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, the rows to price it on, and other rows of the same kind where there are any."""

    name: str
    subject: Subject = field(repr=False)
    examples: Examples = field(repr=False)
    calibration: Examples | None = field(default=None, repr=False)

    @property
    def model(self) -> PreTrainedModel:
        return self.subject.model

    @cached_property
    def masks(self) -> Masks:
        return Masks(self.model, read_anatomy(self.model, tokens_of(self.subject, self.examples)))

    @property
    def tokenwise(self) -> bool:
        return self.examples.tokenwise

    @property
    def classes(self) -> int:
        """How many there are to choose from; of a language model its vocabulary."""
        return self.model.config.vocab_size if self.tokenwise else self.model.config.num_labels

    @property
    def batch_size(self) -> int:
        return usual_batch(self.examples, self.masks.anatomy.tokens)

    @property
    def loss(self) -> peers.Loss:
        return peers.next_token_loss if self.tokenwise else peers.classification_loss


def sst2(places: Places, rows: int | None = None) -> Case:
    """Sentiment of film reviews: ``minilm-sst2`` on the 872 rows of ``sst2/dev.csv``."""
    subject = load_subject(str(places.models / "minilm-sst2"), "text-classification")
    folder = places.data / "sst2"
    rules = columns("label", "negation", "contrast", "len_bin")
    return Case(
        name="sst2",
        subject=subject,
        examples=texts(folder / "dev.csv", rules, subject, rows, max_length=64),
        calibration=texts(folder / "train_sentences.csv", (), subject, rows or CALIBRATION_ROWS, max_length=64),
    )


def agnews(places: Places, rows: int | None = None) -> Case:
    """Topic of news: ``minilm-agnews`` on 1,000 rows drawn from ``agnews/test.csv``."""
    subject = load_subject(str(places.models / "minilm-agnews"), "text-classification")
    folder = places.data / "agnews"
    return Case(
        name="agnews",
        subject=subject,
        examples=texts(folder / "test.csv", columns("label", "wire"), subject, rows or 1000, max_length=96),
        calibration=texts(folder / "train.csv", (), subject, rows or CALIBRATION_ROWS, max_length=96),
    )


def digits(places: Places, rows: int | None = None) -> Case:
    """The quickstart's vision transformer on its 500 test digits; trained into the cache when it is not there."""
    frames = digits_frames()
    with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(places.cache)}):
        folder = digits_model(frames["training"], Progress())
    subject = load_subject(str(folder), "image-classification")
    splits = digits_splits(frames | {name: frames[name][:rows] for name in ("validation", "test")}, subject)
    return Case(name="digits", subject=subject, examples=splits.test, calibration=splits.validation)


def docstrings(places: Places, rows: int | None = None) -> Case:
    """Docstrings of the standard library: a small GPT-2 on 128 that it was not trained on, every token a decision; calibration is of its training."""
    trained = docstrings_model(places.cache)
    subject = load_subject(str(trained.model), "text-generation")
    tokens = [SliceRule(name=name, token=name, quantiles=3) for name in ("position", "frequency")]
    examples = texts(trained.data, [*columns("domain"), *tokens], subject, rows or 128)
    calibration = texts(trained.calibration, (), subject, rows)
    return Case(name="docstrings", subject=subject, examples=examples, calibration=calibration)


def trec(places: Places, rows: int | None = None) -> Case:
    """Types of questions, 50 of them: the encoder of ``minilm-sst2`` on the 500 rows of ``trec/test.csv``."""
    folder = trec_model(places.models / "minilm-sst2", places.data / "trec" / "train.csv", places.cache)
    subject = load_subject(str(folder), "text-classification")
    examples = texts(places.data / "trec" / "test.csv", columns("label_name"), subject, rows, label="fine")
    return Case(name="trec", subject=subject, examples=examples)


CASES: MappingProxyType[str, Callable[..., Case]] = MappingProxyType(
    {case.__name__: case for case in (sst2, agnews, digits, docstrings, trec)}
)


def columns(*names: str) -> list[SliceRule]:
    """A slice a value of each column."""
    return [SliceRule(name=name, column=name) for name in names]


def texts(
    path: Path,
    rules: Sequence[SliceRule],
    subject: Subject,
    rows: int | None,
    *,
    label: str = "label",
    max_length: int | None = None,
) -> Examples:
    """``rows`` rows of a table of texts, all of them when None."""
    return load_examples(str(path), rules, subject, label=label, rows=rows, seed=SEED, max_length=max_length)
