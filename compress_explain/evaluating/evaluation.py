"""What is to be evaluated: two models, the rows that both answer, and what they are judged by."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import Any

import torch

from compress_explain.comparison.contest import Contest, Side
from compress_explain.comparison.decided import Forward
from compress_explain.comparison.gates import Gate, check_gates
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.waivers import Waiver, check_waivers
from compress_explain.data.encoding import cut
from compress_explain.data.examples import ALL, Examples
from compress_explain.errors import InputError
from compress_explain.evaluating.opening import Opened
from compress_explain.plugins.evaluator import Evaluator, Measuring, metrics_for
from compress_explain.record.champion import Champion
from compress_explain.record.protocol import Protocol, described, processor_digest, protocol_of

_UNNAMED = re.compile(r"label_\d+")  # as transformers calls classes that nobody named


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is to be judged, and by what: ``test`` are the rows as the original reads them.

    ``learning`` are other rows, that evaluators which look inside learn from; without any they learn from parts of the test rows.
    """

    original: Opened
    candidate: Opened
    test: Examples = field(repr=False)
    evaluators: Sequence[Evaluator | Measuring]
    gates: Sequence[Gate] = ()
    waivers: Sequence[Waiver] = ()
    champion: Champion | None = None
    batch_size: int = 32
    seed: int = 0
    redact: bool = False
    learning: Examples | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        names = [type(each).__name__.lower() for each in self.evaluators]
        if len(set(names)) < len(names):
            raise InputError("evaluators", names, "one is named twice", "name each once")
        metrics = metrics_for(self.evaluators, self.test.task)
        slices = [name for name in self.test.slices if name != ALL]
        check_gates(self.gates, metrics, slices)
        check_waivers(self.waivers, date.today())
        if self.champion is not None:
            self.champion.check(self.test.digest)
        _check_classes(self.original, self.candidate)

    @property
    def protocol(self) -> Protocol:
        """Under which both are compared."""
        model = self.original.module
        return protocol_of(
            self.test, self.original.subject.processor, self.evaluators, batch_size=self.batch_size, seed=self.seed,
            precision="float32" if model is None else str(model.dtype).removeprefix("torch."),
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """Every decision that shapes the result, as plain values."""
        return {
            "original": self.original.source,
            "candidate": self.candidate.source,
            "task": self.test.task,
            "evaluators": [described(each) for each in self.evaluators],
            "gates": [{key: value for key, value in asdict(gate).items() if value is not None} for gate in self.gates],
            "waivers": [waiver.facts() for waiver in self.waivers],
            "champion": None if self.champion is None else self.champion.source,
            "batch_size": self.batch_size,
            "seed": self.seed,
            **({} if self.learning is None else {"learning": self.learning.digest}),
        }

    def identity(self) -> str:
        """A digest of both models, the rows and the settings: two evaluations with the same one are the same."""
        facts = [self.settings(), self.original.digest, self.candidate.digest, self.protocol.digest]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def read_by_candidate(self) -> Examples:
        """The rows that are judged on, as :meth:`as_candidate_reads` says."""
        return self.as_candidate_reads(self.test)

    def as_candidate_reads(self, examples: Examples) -> Examples:
        """Some rows, cut by the candidate's own tokenizer where that is another one.

        Raises:
            InputError: the task's decisions hang on the tokens, and the tokens are not the same.
        """
        processor = self.candidate.subject.processor
        if processor_digest(processor) == processor_digest(self.original.subject.processor):
            return examples
        kind = self.original.subject.kind
        if kind.reads == "image":
            return examples
        if kind.decides != "row":
            problem = f"its tokens are not the original's, and a model for {kind.name} answers for tokens"
            raise InputError("candidate", self.candidate.source, problem, "judge models with one tokenizer")
        limit = min(examples.max_length or processor.model_max_length, processor.model_max_length)
        if processor.pad_token_id is None:
            raise InputError(
                "candidate", self.candidate.source, "its tokenizer has no padding token", "set one and save it"
            )
        inputs = cut(processor, examples.texts, limit)
        padding = dict.fromkeys(inputs, 0) | {"input_ids": int(processor.pad_token_id)}
        return replace(examples, inputs=inputs, padding=padding)

    def contest(self, pairs: Pairs) -> Contest:
        """Both models at hand."""
        order = order_of(self.original, self.candidate)
        sides = []
        for name, opened, examples in (
            ("original", self.original, self.test),
            ("compressed", self.candidate, self.read_by_candidate),
        ):
            own = None if order is None or name == "original" else tuple(order)
            learning = self.learning
            if learning is not None and name == "compressed":
                learning = self.as_candidate_reads(learning)
            side = Side(
                name=name, forward=ordered(opened.forward, own), examples=examples, processor=opened.subject.processor,  # type: ignore[arg-type]
                module=opened.module, path=opened.path, form=opened.form, order=own, learning=learning,
            )  # fmt: skip
            sides.append(side)
        return Contest(
            original=sides[0], compressed=sides[1], pairs=pairs, batch_size=self.batch_size,
            threads=torch.get_num_threads(),
        )  # fmt: skip


def _check_classes(original: Opened, candidate: Opened) -> None:
    """Raises InputError when the two do not decide between the same classes."""
    if original.subject.task != candidate.subject.task:
        problem = f"it is a model for {candidate.subject.task}, the original for {original.subject.task}"
        raise InputError("candidate", candidate.source, problem, "judge models of one task")
    order_of(original, candidate)


def ordered(forward: Forward, order: tuple[int, ...] | None) -> Forward:
    """The same answers with classes in the order of the original's."""
    return forward if order is None else lambda inputs: forward(inputs)[..., list(order)]


def order_of(original: Opened, other: Opened) -> list[int] | None:
    """Which of the other's classes stands for each of the original's, by name; None where they stand in one order."""
    mine, theirs = original.subject.labels, other.subject.labels
    if original.subject.kind.decides not in ("row", "word"):
        return None
    if len(mine) != len(theirs):
        problem = f"it decides between {len(theirs)} classes, the original between {len(mine)}"
        raise InputError("candidate", other.source, problem, "judge models with the same classes")
    places = {name.lower(): index for index, name in theirs.items()}
    names = [mine[index].lower() for index in sorted(mine)]
    if set(names) != set(places):
        if any(all(_UNNAMED.fullmatch(name) for name in each) for each in (names, places)):
            return None  # in the order in which they stand
        other_names, own_names = ", ".join(list(places)[:5]), ", ".join(names[:5])
        problem = f"its classes are called {other_names}, those of the original {own_names}"
        raise InputError("candidate", other.source, problem, "give both the same id2label in config.json")
    order = [places[name] for name in names]
    return None if order == sorted(order) else order
