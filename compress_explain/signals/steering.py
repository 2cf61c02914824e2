"""Signals on the way: how much the masked model retains while edits are chosen, and what putting them back would restore.

What the original holds is read once; the masked model is read whenever it is judged. To price restorations the model is made to answer
with a probe of the signal in the place of its own head: whatever prices a restoration for the task then prices it for the signal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from compress_explain.data.examples import Examples
from compress_explain.errors import InputError
from compress_explain.signals.findings import as_table
from compress_explain.signals.looking import Looking
from compress_explain.signals.probing.asked import QUALITY, Asked, asked_of
from compress_explain.signals.probing.parts import Part, parts_of
from compress_explain.signals.probing.probing import Held, Probing, probe_all
from compress_explain.signals.probing.resampling import Draws
from compress_explain.signals.probing.voice import Voice
from compress_explain.signals.stream.layers import Layers, layers_of
from compress_explain.signals.stream.nothing import without_knowledge
from compress_explain.signals.stream.states import States, Where, drawn_decisions, read_splits, where_read


@dataclass(frozen=True, kw_only=True)
class Steering:
    """What the original, and a model that knows nothing, hold on rows to learn from and on rows that are judged."""

    looking: Looking
    layers: Layers
    where: Where
    splits: tuple[Examples, Examples] = field(repr=False)
    original: States = field(repr=False)
    random: States = field(repr=False)
    batch_size: int = 32

    @classmethod
    def of(
        cls, model: PreTrainedModel, splits: tuple[Examples, Examples], looking: Looking, batch_size: int
    ) -> Steering:
        """Read the original, which must be as it came; ``splits`` are the rows to learn from and those that are judged."""
        layers = layers_of(model)
        where = where_read(model, layers, splits[1])
        chosen = [drawn_decisions(each, looking.decisions, looking.seed) for each in splits]
        nothing = without_knowledge(model, looking.seed)
        original, random = (
            read_splits(each, layers, splits, where, chosen, batch_size=batch_size) for each in (model, nothing)
        )
        return cls(
            looking=looking,
            layers=layers,
            where=where,
            splits=splits,
            original=original,
            random=random,
            batch_size=batch_size,
        )

    def retained(
        self, masked: PreTrainedModel, read: tuple[Examples, Examples], signals: Collection[str]
    ) -> pd.DataFrame:
        """The findings about some signals in the model as it is now, that ``read``s the splits so."""
        compressed = read_splits(masked, self.layers, read, self.where, self._chosen, batch_size=self.batch_size)
        held = Held(original=self.original, compressed=compressed, random=self.random)
        asked = [each for name, each in self._questions.items() if name in signals]
        return as_table(probe_all(held, asked, self._probing, quality=QUALITY in signals))

    def can_voice(self, signal: str) -> bool:
        """Whether restorations can be priced for a signal: where rows are decided on as a whole, and the signal is one of rows."""
        return signal in self._questions and self.where != "each"

    @contextmanager
    def voiced(self, masked: PreTrainedModel, signal: str) -> Iterator[Examples]:
        """Inside it ``masked`` answers with a probe of the signal; given are the rows to learn from, labelled by the signal.

        The probe is fitted on the original's states, at the layer that the rows to choose by choose.

        Raises:
            InputError: :meth:`can_voice` says no.
        """
        if not self.can_voice(signal):
            raise InputError("signal", signal, "restorations cannot be priced for it", "gate another signal")
        asked, (learning, _) = self._questions[signal], self.splits
        labelled = replace(learning, labels=asked.answers[: len(learning)].astype(np.int64))
        voice = Voice.of(self.original, asked, self._parts[0], self.looking.strength, self.where)
        with voice.speaking(masked, self.layers, labelled):
            yield labelled

    @cached_property
    def _chosen(self) -> list[np.ndarray]:
        return [drawn_decisions(each, self.looking.decisions, self.looking.seed) for each in self.splits]

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        return parts_of(self.original.rows, int(self._chosen[0].sum()), self.looking.seed)

    @cached_property
    def _probing(self) -> Probing:
        looking = self.looking
        draws = Draws.of(self._parts, self.original.rows, looking.resamples, looking.seed)
        return Probing(draws=draws, strength=looking.strength, confidence=looking.confidence, seed=looking.seed)

    @cached_property
    def _questions(self) -> dict[str, Asked]:
        return {each.signal: each for each in asked_of(self.splits, self.original.guesses, self._chosen)}
