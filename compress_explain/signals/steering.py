"""Signals on the way: how much the masked model retains while edits are chosen, and what putting them back would restore.

What the original holds is read once; the masked model is read whenever it is judged. To price restorations the model is made to answer
with a probe of the signal in the place of its own head: whatever prices a restoration for the task then prices it for the signal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.data.examples import Batch, Examples
from compress_explain.errors import InputError
from compress_explain.signals.findings import as_table
from compress_explain.signals.looking import Looking
from compress_explain.signals.probing.asked import QUALITY, Asked, asked_of
from compress_explain.signals.probing.parts import Part, parts_of
from compress_explain.signals.probing.probes import Probe, area, fit_probe
from compress_explain.signals.probing.probing import Held, Probing, probe_all
from compress_explain.signals.probing.resampling import Draws
from compress_explain.signals.stream.layers import Layers, layers_of, passing
from compress_explain.signals.stream.nothing import without_knowledge
from compress_explain.signals.stream.states import States, Where, at_decisions, drawn_decisions, read_splits, where_read


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
        depth, probe = self._probe(asked)
        labelled = replace(learning, labels=asked.answers[: len(learning)].astype(np.int64))
        voice = _Voice(probe=probe, depth=depth, where=self.where)
        with passing(masked, self.layers) as seen:
            handle = masked.register_forward_hook(voice.instead(seen, labelled), with_kwargs=True)
            try:
                yield labelled
            finally:
                handle.remove()

    def _probe(self, asked: Asked) -> tuple[str, Probe]:
        part, strength = self._parts[0], self.looking.strength
        fitted = {depth: fit_probe(self.original.at(depth)[part.fit], asked.answers[part.fit], strength, asked.classes)
                  for depth in self.layers.names}  # fmt: skip
        told = {depth: area(probe.scores(self.original.at(depth)[part.choose]), asked.answers[part.choose])
                for depth, probe in fitted.items()}  # fmt: skip
        best = max(told, key=lambda depth: np.nan_to_num(told[depth]))
        return best, fitted[best]

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


@dataclass(frozen=True, kw_only=True)
class _Voice:
    """A probe's scores in the place of a model's logits."""

    probe: Probe = field(repr=False)
    depth: str
    where: Where

    def instead(self, seen: dict[str, Tensor], examples: Examples) -> Any:
        centre, scale, weight, bias = (
            torch.from_numpy(np.ascontiguousarray(each)).float()
            for each in (self.probe.centre, self.probe.scale, self.probe.weight, self.probe.bias)
        )

        def hook(module: nn.Module, inputs: Any, options: dict[str, Tensor], output: Any) -> Any:
            batch = Batch(inputs=options, rows=np.arange(len(seen[self.depth])))
            here = at_decisions(seen[self.depth], batch, examples, self.where)
            scores = ((here - centre) / scale) @ weight + bias
            output["logits"] = torch.cat([-scores / 2, scores / 2], 1) if scores.shape[1] == 1 else scores
            return output

        return hook
