"""A question about a model as it is: which model, on which data, cut into which slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from compress_explain.data.examples import Examples
from compress_explain.data.loading import load_examples
from compress_explain.data.slices import SliceRule
from compress_explain.editing.masks import Masks
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import Subject, infer_task, load_subject

_LANGUAGE_BATCH, _BATCH, _LARGE_BATCH = 8, 32, 96
_SHORT = 21  # tokens a row, up to which the large batch holds no more tokens than are usual


@dataclass(frozen=True, kw_only=True)
class Inquiry:
    """Everything needed to load a model and one data source again; its own record in what it leads to."""

    model: str
    data: str
    task: str | None = None
    rules: tuple[SliceRule, ...] = ()
    input: str = "text"
    label: str = "label"
    rows: int | None = None
    max_length: int | None = None
    dtype: str = "float32"
    batch_size: int | None = None
    seed: int = 0

    def open(self) -> Subjects:
        """Load what is asked about.

        Raises:
            InputError: the model, the data or a slice cannot be read.
        """
        subject = load_subject(self.model, self.task or infer_task(self.model), self.dtype)
        examples = load_examples(
            self.data,
            self.rules,
            subject,
            input=self.input,
            label=self.label,
            rows=self.rows,
            seed=self.seed,
            max_length=self.max_length,
        )
        anatomy = read_anatomy(subject.model, tokens_of(subject, examples))
        return Subjects(
            subject=subject,
            examples=examples,
            masks=Masks(subject.model, anatomy),
            batch_size=self.batch_size or usual_batch(examples, anatomy.tokens),
        )

    def facts(self) -> dict[str, Any]:
        """The inquiry as plain values, with absolute paths, for :meth:`of`."""
        values = asdict(self)
        for key in ("model", "data"):
            if Path(values[key]).exists():
                values[key] = str(Path(values[key]).absolute())
        return values

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Inquiry:
        """The inquiry that :meth:`facts` wrote down."""
        rules = tuple(SliceRule(**rule) for rule in facts["rules"])
        return cls(**{**facts, "rules": rules})


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """A loaded model with its masks, and the examples that it is asked about."""

    subject: Subject = field(repr=False)
    examples: Examples = field(repr=False)
    masks: Masks = field(repr=False)
    batch_size: int

    def facts(self) -> dict[str, Any]:
        """Digests by which a later reader knows that the model and the data are the same."""
        return {"model_digest": self.subject.digest, "data_digest": self.examples.digest}

    def check(self, facts: Mapping[str, Any]) -> None:
        """Raises InputError when the model or the data has changed since ``facts`` were written."""
        for name, digest in self.facts().items():
            if facts.get(name) not in (None, digest):
                what = name.removesuffix("_digest")
                raise InputError(
                    what, digest[:12], f"has changed since it was priced ({facts[name][:12]})", "price again"
                )


def tokens_of(subject: Subject, examples: Examples) -> int:
    """Tokens an example, for FLOPs: what the data holds, or what an image becomes on its way to the first layer."""
    if subject.task != "image-classification":
        return examples.tokens
    first = next(iter(read_anatomy(subject.model, tokens=1).layers.values()))
    inputs = next(examples.batches(1)).inputs
    seen: list[int] = []
    layer = subject.model.get_submodule(first.module)
    hook = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1]))
    try:
        with torch.inference_mode():
            subject.model(**inputs)
    finally:
        hook.remove()
    return seen[0]


def usual_batch(examples: Examples, tokens: int) -> int:
    """How many rows of about ``tokens`` tokens are taken at once when nobody says."""
    if examples.tokenwise:
        return _LANGUAGE_BATCH
    return _LARGE_BATCH if tokens <= _SHORT else _BATCH
