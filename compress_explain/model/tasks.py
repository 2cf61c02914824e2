"""What a model is for: which rows it reads, what it decides on each, and which figures say how well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from compress_explain.errors import InputError, did_you_mean

TEXT_CLASSIFICATION = "text-classification"
TOKEN_CLASSIFICATION = "token-classification"
TEXT_GENERATION = "text-generation"
TEXT_TO_TEXT = "text2text-generation"
QUESTION_ANSWERING = "question-answering"
FEATURE_EXTRACTION = "feature-extraction"
_OF_TOKENS = ("accuracy", "nll", "perplexity", "bits_per_byte", "negative_flips", "positive_flips")
_OF_ANSWERS = ("exact_match", "token_f1", "agreement", "accuracy", "nll", "negative_flips", "positive_flips")
_OF_EMBEDDINGS = ("cosine", "overlap", "spearman", "accuracy", "nll", "negative_flips")
_OF_SLICES = ("accuracy", "macro_f1", "nll", "brier", "negative_flips", "positive_flips")
_OF_CLASSES = (
    *_OF_SLICES, "balanced_accuracy", "macro_precision", "macro_recall", "mcc", "auroc", "average_precision",
)  # fmt: skip
ONE_CLASS = ("precision", "recall", "f1")
CALIBRATION = (
    "ece", "ece_equal_mass", "ece_classwise", "temperature", "brier_reliability", "brier_resolution", "nll_recalibrated",
)  # fmt: skip
FIDELITY = ("churn", "probability_loyalty", "js", "kl")
CONFIDENCE = ("confidence_when_right", "confidence_when_wrong")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A kind of model.

    ``decides`` says what it gives one answer for: a whole ``row``, each ``word`` of a row, or each
    ``token`` of a text after the first, or of the text that another is to become, or each ``bound`` of an
    answer, its first token and its last; of an embedding, which ``neighbour`` is nearest to it. ``input`` and ``label`` are the columns that data sets of the task usually
    have; no ``label`` where what is right stands in the input itself. ``heads`` are the endings of the
    classes that transformers has for it. ``metrics`` are those of
    :data:`compress_explain.comparison.scores.METRICS` that can be told of it, ``sliced`` those that are told on every slice,
    ``also`` those that are told besides: of calibration, of how far both models agree, of single classes.
    """

    name: str
    loader: Any = field(repr=False)
    heads: tuple[str, ...]
    reads: Literal["text", "words", "image"]
    decides: Literal["row", "word", "token", "bound", "neighbour"]
    input: str = "text"
    label: str | None = "label"
    metrics: tuple[str, ...] = _OF_CLASSES
    also: tuple[str, ...] = FIDELITY

    @property
    def sliced(self) -> tuple[str, ...]:
        return _OF_SLICES if self.metrics is _OF_CLASSES else self.metrics


_TASKS = (
    Task(
        name=TEXT_CLASSIFICATION,
        loader=AutoModelForSequenceClassification,
        heads=("ForSequenceClassification",),
        reads="text",
        decides="row",
        also=(*ONE_CLASS, *CALIBRATION, *FIDELITY, *CONFIDENCE),
    ),
    Task(
        name="image-classification",
        loader=AutoModelForImageClassification,
        heads=("ForImageClassification",),
        reads="image",
        decides="row",
        also=(*ONE_CLASS, *CALIBRATION, *FIDELITY, *CONFIDENCE),
    ),
    Task(
        name=TOKEN_CLASSIFICATION,
        loader=AutoModelForTokenClassification,
        heads=("ForTokenClassification",),
        reads="words",
        decides="word",
        input="tokens",
        label="tags",
        metrics=("accuracy", "entity_f1", "nll", "brier", "negative_flips", "positive_flips"),
        also=(*CALIBRATION, *FIDELITY, *CONFIDENCE),
    ),
    Task(
        name=TEXT_GENERATION,
        loader=AutoModelForCausalLM,
        heads=("LMHeadModel", "ForCausalLM"),
        reads="text",
        decides="token",
        label=None,
        metrics=_OF_TOKENS,
    ),
    Task(
        name=TEXT_TO_TEXT,
        loader=AutoModelForSeq2SeqLM,
        heads=("ForConditionalGeneration",),
        reads="text",
        decides="token",
        label="target",
        metrics=_OF_TOKENS,
    ),
    Task(
        name=QUESTION_ANSWERING,
        loader=AutoModelForQuestionAnswering,
        heads=("ForQuestionAnswering",),
        reads="text",
        decides="bound",
        input="question",
        label="answers",
        metrics=_OF_ANSWERS,
    ),
    Task(
        name=FEATURE_EXTRACTION,
        loader=AutoModel,
        heads=("Model",),
        reads="text",
        decides="neighbour",
        label=None,
        metrics=_OF_EMBEDDINGS,
    ),
)
TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _TASKS})


def task_of(model_class: str) -> Task:
    """The task that a class of transformers has a head for; of one for none of them, that of its rows of texts."""
    return next((task for task in _TASKS if model_class.endswith(task.heads)), TASKS[TEXT_CLASSIFICATION])


def task_named(name: str) -> Task:
    """The task of that name.

    Raises:
        InputError: there is none.
    """
    if name not in TASKS:
        raise InputError("task", name, "unknown task", did_you_mean(name, TASKS))
    return TASKS[name]
