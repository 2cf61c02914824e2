"""A model that answers for a signal: a probe of its stream in the place of its head.

Whatever asks the model for its decision, prices edits for it or exchanges activations for it, then does so for the signal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.data.examples import Batch, Examples
from compress_explain.signals.probing.asked import Asked
from compress_explain.signals.probing.parts import Part
from compress_explain.signals.probing.probes import Probe, area, fit_probe
from compress_explain.signals.stream.layers import Layers
from compress_explain.signals.stream.states import States, Where, at_decisions


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A ``probe`` of the stream after the layer ``depth``, where a head reads (``where``)."""

    probe: Probe = field(repr=False)
    depth: str
    where: Where

    @classmethod
    def of(cls, states: States, asked: Asked, part: Part, strength: float, where: Where) -> Voice:
        """Fitted on what a model holds, at the layer that the rows to choose by choose."""
        fitted = {
            depth: fit_probe(states.at(depth)[part.fit], asked.answers[part.fit], strength, asked.classes)
            for depth in states.depths[1:]
        }
        told = {
            depth: area(probe.scores(states.at(depth)[part.choose]), asked.answers[part.choose])
            for depth, probe in fitted.items()
        }
        best = max(told, key=lambda depth: np.nan_to_num(told[depth]))
        return cls(probe=fitted[best], depth=best, where=where)

    @contextmanager
    def speaking(self, model: PreTrainedModel, layers: Layers, examples: Examples) -> Iterator[None]:
        """Inside it ``model`` gives the probe's scores as logits; ``layers`` are named as where the probe was fitted.

        Of a model without that layer, the probe reads after the last one before it.
        """
        upto = layers_upto(layers, self.depth)
        module = model.get_submodule(layers.modules[upto])
        passage = _Passage(voice=self, module=module, examples=examples)
        handles = [
            model.register_forward_pre_hook(passage.listen, with_kwargs=True),
            model.register_forward_hook(passage.speak, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def layers_upto(layers: Layers, depth: str) -> int:
    """The place of the last layer that is not beyond ``depth``; the first where all are."""
    number = int(depth.rpartition(".")[2])
    return max((place for place, name in enumerate(layers.names) if int(name.rpartition(".")[2]) <= number), default=0)


@dataclass
class _Passage:
    """One pass: the stream is listened to behind every other hook of the layer, which may put something else there."""

    voice: Voice
    module: nn.Module
    examples: Examples
    stream: Tensor | None = None
    ear: torch.utils.hooks.RemovableHandle | None = None

    def listen(self, module: nn.Module, inputs: Any, options: dict[str, Any]) -> None:
        self.ear = self.module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.stream = output if isinstance(output, Tensor) else output[0]

    def speak(self, module: nn.Module, inputs: Any, options: dict[str, Tensor], output: Any) -> Any:
        assert self.ear is not None and self.stream is not None, "the layer was run"
        self.ear.remove()
        batch = Batch(inputs=options, rows=np.arange(len(self.stream)))
        here = at_decisions(self.stream, batch, self.examples, self.voice.where)
        probe = self.voice.probe
        centre, scale, weight, bias = (
            torch.from_numpy(np.ascontiguousarray(each)).to(here.dtype)
            for each in (probe.centre, probe.scale, probe.weight, probe.bias)
        )
        scores = ((here - centre) / scale) @ weight + bias
        output["logits"] = torch.cat([-scores / 2, scores / 2], 1) if scores.shape[1] == 1 else scores
        return output
