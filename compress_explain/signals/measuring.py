"""Looking into two models on the same rows: what each holds, how alike, what carries the decision, and what was lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from compress_explain.comparison.contest import Contest, Side
from compress_explain.data.examples import Examples
from compress_explain.errors import InputError
from compress_explain.model.anatomy import Anatomy, read_anatomy
from compress_explain.progress import Advance
from compress_explain.signals.attribution.saliency import saliency
from compress_explain.signals.findings import CHOSEN, Finding, as_table
from compress_explain.signals.flow.flow import flow
from compress_explain.signals.interventions.ablation import ablate
from compress_explain.signals.interventions.patching import patch
from compress_explain.signals.looking import ABLATION, ATTRIBUTION, CKA, FLOW, PATCHING, PROBES, Looking
from compress_explain.signals.probing.asked import DECISION, QUALITY, TASK, Asked, asked_of
from compress_explain.signals.probing.parts import parts_of
from compress_explain.signals.probing.probing import Held, Probing, probe_all
from compress_explain.signals.probing.resampling import Draws
from compress_explain.signals.probing.voice import Voice
from compress_explain.signals.similarity.alike import alike
from compress_explain.signals.stream.layers import Layers, beside, layers_of
from compress_explain.signals.stream.nothing import without_knowledge
from compress_explain.signals.stream.original_names import Gone, gone_from
from compress_explain.signals.stream.states import States, Where, drawn_decisions, read_splits, where_read

_LESS = 0.95  # of a signal: what lies below has to be looked for
_SAME = 0.99  # of decisions on which the model that is looked into must answer as what is deployed does


def look(
    contest: Contest, looking: Looking, advance: Advance, reference: PreTrainedModel | None = None
) -> pd.DataFrame:
    """Everything that is found, one row a finding; ``reference`` is another model of the original's shape, as a yardstick.

    Raises:
        InputError: the task's decisions do not stand at places of the stream.
    """
    missing = next((side for side in contest.sides if side.module is None), None)
    if missing is not None:
        why = f"the {missing.name} model is a file of another runtime, which cannot be looked into"
        return as_table(_untold(signal, why) for signal in (TASK, DECISION, QUALITY))
    return as_table(_Look(contest=contest, looking=looking, reference=reference).findings(advance))


def _untold(signal: str, why: str) -> Finding:
    return Finding(
        part="retention", figure="retained", value=math.nan, unit="share", n=0, signal=signal, other=CHOSEN, note=why
    )


@dataclass(frozen=True, kw_only=True)
class _Look:
    contest: Contest
    looking: Looking
    reference: PreTrainedModel | None = field(default=None, repr=False)
    lost: set[str] = field(default_factory=set, repr=False)  # signals of which less is left, once that was told

    def findings(self, advance: Advance) -> Iterator[Finding]:
        total = len(self.original.examples)
        spent = 0
        doing: dict[str, Callable[[], Iterable[Finding]]] = {
            PROBES: self._probes, CKA: self._cka, PATCHING: self._patching, ABLATION: self._ablation,
            ATTRIBUTION: self._attribution, FLOW: self._flow,
        }  # fmt: skip
        for number, name in enumerate(self.looking.parts, start=1):
            yield from doing[name]()
            advance(number * total // len(self.looking.parts) - spent)
            spent = number * total // len(self.looking.parts)

    @property
    def original(self) -> Side:
        return self.contest.original

    @property
    def compressed(self) -> Side:
        return self.contest.compressed

    @cached_property
    def layers(self) -> tuple[Layers, Layers]:
        mine = layers_of(self._module(self.original))
        return mine, beside(mine, layers_of(self._module(self.compressed)), self.gone.layers)

    @cached_property
    def gone(self) -> Gone:
        return gone_from(self.compressed.path)

    @cached_property
    def where(self) -> Where:
        return where_read(self._module(self.original), self.layers[0], self.original.examples)

    @cached_property
    def chosen(self) -> list[np.ndarray]:
        """Which decisions of the rows to learn from, if there are any, and of those to report on, are looked at."""
        return [
            drawn_decisions(each, self.looking.decisions, self.looking.seed) for each in self._splits(self.original)
        ]

    @cached_property
    def held(self) -> Held:
        mine, theirs = self.layers
        nothing = without_knowledge(self._module(self.original), self.looking.seed)
        return Held(
            original=self._states(self._module(self.original), mine, self.original),
            compressed=self._states(self._module(self.compressed), theirs, self.compressed),
            random=self._states(nothing, mine, self.original),
        )

    def _states(self, model: PreTrainedModel, layers: Layers, side: Side) -> States:
        """Of the rows to learn from, and then of those that are reported."""
        where = self.where if side.name == "original" else where_read(model, layers, side.examples)
        size = self.contest.batch_size
        return read_splits(model, layers, self._splits(side), where, self.chosen, batch_size=size, order=side.order)

    def _splits(self, side: Side) -> list[Examples]:
        if side.learning is None:
            return [side.examples]
        return [side.learning.draw(self.looking.learning_rows, self.looking.seed), side.examples]

    @cached_property
    def _draws(self) -> Draws:
        rows, seed = self.held.original.rows, self.looking.seed
        to_learn = int(self.chosen[0].sum()) if len(self.chosen) > 1 else 0
        return Draws.of(parts_of(rows, to_learn, seed), rows, self.looking.resamples, seed)

    @cached_property
    def _questions(self) -> list[Asked]:
        return asked_of(self._splits(self.original), self.held.original.guesses, self.chosen)

    def _probes(self) -> Iterator[Finding]:
        looking = self.looking
        probing = Probing(
            draws=self._draws, strength=looking.strength, confidence=looking.confidence, seed=looking.seed
        )
        doubt = self._doubt()
        for each in probe_all(self.held, self._questions, probing):
            if each.part != "retention":
                yield each
                continue
            if each.other == CHOSEN and each.high < _LESS:
                self.lost.add(each.signal)
            yield replace(each, note=each.note or doubt)

    def _doubt(self) -> str:
        """Why what is looked into may not be what is deployed."""
        reported = int(self.chosen[-1].sum())
        mine = self.held.compressed.guesses[-reported:]
        deployed = self.contest.pairs.compressed_guesses[self.chosen[-1]]
        same = float((mine == deployed).mean())
        if same >= _SAME:
            return ""
        return f"the model that was looked into decides {1 - same:.1%} of rows otherwise than what is deployed"

    def _cka(self) -> Iterator[Finding]:
        reported = int(self.chosen[-1].sum())
        mine, theirs = (_last(each, reported) for each in (self.held.original, self.held.compressed))
        third = None
        if self.reference is not None:
            third = _last(self._states(self.reference, self.layers[0], self.original), reported)
        yield from alike(mine, theirs, reference=third, confidence=self.looking.confidence, seed=self.looking.seed)

    def _patching(self) -> Iterator[Finding]:
        """Of the decision, and of every signal of which less is left: the models answer with its probe then."""
        yield from self._patched(self.compressed.order)
        if PROBES not in self.looking.parts or self.where == "each":
            return
        mine, theirs = self.layers
        for asked in self._questions:
            if asked.signal not in self.lost:
                continue
            voice = Voice.of(self.held.original, asked, self._draws.parts[0], self.looking.strength, self.where)
            with (
                voice.speaking(self._module(self.original), mine, self.original.examples),
                voice.speaking(self._module(self.compressed), theirs, self.compressed.examples),
            ):
                upto = mine.depths[: mine.depths.index(voice.depth) + 1]  # beyond it nothing is heard
                told = [each for each in self._patched(None) if each.layer in upto or not each.layer]
                yield from (replace(each, part="signal_patching", signal=asked.signal) for each in told)

    def _patched(self, order: tuple[int, ...] | None) -> Iterable[Finding]:
        looking = self.looking
        return patch(
            self._module(self.original), self._module(self.compressed), self.original.examples, self.compressed.examples,
            *self.layers, order=order, rows=looking.patched_rows, batch_size=self.contest.batch_size,
            confidence=looking.confidence, seed=looking.seed,
        )  # fmt: skip

    def _ablation(self) -> Iterator[Finding]:
        looking, mine, theirs = self.looking, self._anatomy(self.original), self._anatomy(self.compressed)
        renamed = {} if mine is None or theirs is None else self.gone.renamed(mine, theirs)
        for side, layers in zip(self.contest.sides, self.layers, strict=True):
            own = side.name == "original"
            yield from ablate(
                self._module(side), side.examples, layers, renamed={} if own else renamed, like=None if own else mine,
                rows=looking.ablated_rows, model_name=side.name, confidence=looking.confidence, seed=looking.seed,
            )  # fmt: skip

    def _anatomy(self, side: Side) -> Anatomy | None:
        """Its components; None where they are not known, or a sublayer is gone."""
        try:
            return read_anatomy(self._module(side), side.examples.tokens)
        except InputError:
            return None

    def _attribution(self) -> Iterable[Finding]:
        looking = self.looking
        return saliency(
            self._module(self.original), self._module(self.compressed), self.original.examples, self.compressed.examples,
            rows=looking.explained_rows, steps=looking.steps, order=self.compressed.order, confidence=looking.confidence,
            seed=looking.seed,
        )  # fmt: skip

    def _flow(self) -> Iterable[Finding]:
        looking, anatomy = self.looking, self._anatomy(self.original)
        kept = {} if anatomy is None else self.gone.heads_left(anatomy)
        return flow(
            self._module(self.original), self._module(self.compressed), self.original.examples, self.compressed.examples, *self.layers, kept=kept,
            rows=looking.flow_rows, batch_size=self.contest.batch_size, confidence=looking.confidence, seed=looking.seed,
        )  # fmt: skip

    def _module(self, side: Side) -> PreTrainedModel:
        assert side.module is not None, "asked for before"
        return side.module


def _last(states: States, count: int) -> States:
    """The last ``count`` decisions."""
    return states.only(np.arange(len(states) - count, len(states)))
