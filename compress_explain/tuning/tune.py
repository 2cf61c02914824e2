"""Tuning: what is left of a model learns to say what the original says.

It is done on the smaller model itself, which computes what the masked one does in a fraction of the
time; its weights are put back in the places that they have in the original, so that what is removed keeps
the weights it came with. The original is asked again for every row: no row need come twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy.special import log_softmax
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compress_explain.comparison.predictions import Pairs, predict
from compress_explain.data.examples import Examples
from compress_explain.editing.masks import Masks
from compress_explain.editing.refits import tunable
from compress_explain.editing.surgery import materialize
from compress_explain.errors import InputError
from compress_explain.model.embedding import TOKENS
from compress_explain.model.watching import watching
from compress_explain.tuning.lessons import Lesson, Lessons
from compress_explain.tuning.recipe import Recipe
from compress_explain.tuning.signals import Signal, chosen, missed, transfer
from compress_explain.tuning.state import Checkup, Named, State

_PORTIONS, _PORTION = 20, 2048  # a tuning is at least so many portions, each of at most so many rows
_WARM_UP = 0.06  # of the steps, before the learning rate is at its height
_LONGEST = 1.0  # norm of a gradient; a longer one is shortened
_SIGNAL_ROWS = 256  # on which it is measured what of the original's states is still there


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What came of it: the weights of the best checkup, as those of the smaller model, and how it got there."""

    tensors: Named = field(repr=False)
    signals: tuple[Signal, ...]
    checkups: tuple[Checkup, ...]
    about: dict[str, Any] = field(repr=False)  # what was read

    @property
    def best(self) -> Checkup:
        return min(self.checkups, key=lambda checkup: checkup.kl)

    def to_frame(self) -> pd.DataFrame:
        """One row a checkup."""
        return pd.DataFrame([asdict(checkup) for checkup in self.checkups])

    def facts(self) -> dict[str, Any]:
        """As plain values: losses are means a row while reading the first and the last portion, all else is on validation."""
        start, last, best = self.checkups[0], self.checkups[-1], self.best
        losses = [checkup.loss for checkup in self.checkups[1:]]
        return {
            **self.about, "rows_read": last.rows, "steps": last.steps, "kept_after_rows": best.rows,
            "loss_first": losses[0] if losses else None, "loss_last": losses[-1] if losses else None,
            "kl_before": start.kl, "kl_after": best.kl,
            "accuracy_before": start.accuracy, "accuracy_after": best.accuracy,
            "seconds": last.seconds, "layers": [asdict(signal) for signal in self.signals],
            "modules": len({name.rpartition(".")[0] for name in self.tensors}),
            "parameters": sum(values.numel() for values in self.tensors.values()),
        }  # fmt: skip


@dataclass(kw_only=True)
class Tuner:
    """One tuning. Inside :meth:`run` the model of ``masks`` is the original.

    ``validation`` are the rows of ``original`` as the compressed model reads them; ``path`` is where a
    tuning under way is kept.
    """

    masks: Masks
    recipe: Recipe
    lessons: Lessons
    validation: Examples
    original: Pairs
    path: Path
    share: float = 1.0  # of the rows of the recipe

    def run(self, advance: Callable[[int], None] = lambda rows: None) -> Tuned:
        """Tune until all rows are read or validation stops improving; ``advance`` hears of every row."""
        masks = self.masks
        removed = {name: flags for name, flags in masks.removed.items() if name != TOKENS}  # rows keep their numbers
        standing = masks.standing
        with masks.untouched():
            student = materialize(masks.model, masks.anatomy, removed, standing)
            return self._tune(masks.model, student.float().eval(), advance)

    @property
    def rows(self) -> int:
        """How many rows are read at most."""
        return max(self.recipe.batch_size, math.ceil(self.recipe.epochs * len(self.lessons.pool) * self.share))

    def _tune(self, teacher: PreTrainedModel, student: PreTrainedModel, advance: Callable[[int], None]) -> Tuned:
        first = self.lessons.portion(0, min(self.rows, _SIGNAL_ROWS))
        state = self._state(student, _tuned_modules(student, self._layers, self.recipe.tunes, first[0].ours))
        signals = self._signals(teacher, student, first)
        if self.path.exists():
            state.load(self.path)
        else:
            state.note(self._checkup(student, state, rows=0, steps=0, loss=None, seconds=0.0))
        advance(state.checkups[-1].rows)
        matched = {each.layer: self._layers[each.layer] for each in signals if each.matched}
        with watching(teacher, matched) as wanted, watching(student, matched) as ours:
            teach = _Teaching(self.recipe, teacher, student, wanted, ours, self._channels)
            while state.checkups[-1].rows < self.rows and state.since_best < self.recipe.patience:
                self._portion(student, state, teach, advance)
                state.save(self.path)
        return Tuned(
            tensors=_as_stored(student, state.best, teacher.dtype), signals=tuple(signals), checkups=tuple(state.checkups),
            about={
                "texts": self.recipe.texts or "calibration", "digest": self.lessons.digest, "rows": len(self.lessons.pool),
                "share": self.share, "tunes": self.recipe.tunes, "stopped_early": state.checkups[-1].rows < self.rows,
            },
        )  # fmt: skip

    @property
    def _channels(self) -> Tensor | None:
        """The channels of the stream that are left; None where none can be gone."""
        return None if self.masks.anatomy.stream is None else self.masks.channels_here.nonzero().flatten()

    @property
    def _layers(self) -> dict[str, str]:
        return {layer.name: layer.module for layer in self.masks.anatomy.layers.values()}

    def _state(self, student: PreTrainedModel, modules: list[str]) -> State:
        for parameter in student.parameters():
            parameter.requires_grad_(False)
        parameters = {
            f"{name}.{kind}": parameter.requires_grad_(True)
            for name in modules
            for kind, parameter in student.get_submodule(name).named_parameters(recurse=False)
            if kind in ("weight", "bias")
        }
        optimizer = torch.optim.AdamW(parameters.values(), lr=0.0, weight_decay=0.0)
        return State(digest=self.lessons.digest, parameters=parameters, optimizer=optimizer, best={})

    def _signals(self, teacher: PreTrainedModel, student: PreTrainedModel, lessons: list[Lesson]) -> list[Signal]:
        """Measured where both read the same; a head that is tuned alone changes no state of a layer."""
        count = self.recipe.layers if self.recipe.tunes == "all" and self.recipe.hidden else 0
        alike = [lesson for lesson in lessons if lesson.alike.any()]
        return chosen(transfer(teacher, student, self._layers, alike), count) if alike else []

    def _portion(
        self, student: PreTrainedModel, state: State, teach: _Teaching, advance: Callable[[int], None]
    ) -> None:
        last, began, losses = state.checkups[-1], time.monotonic(), list[float]()
        size = max(self.recipe.batch_size, min(_PORTION, math.ceil(self.rows / _PORTIONS)))
        stop = min(self.rows, last.rows + size)
        rows = last.rows
        for lesson in self.lessons.portion(last.rows, stop):
            for group in state.optimizer.param_groups:
                group["lr"] = self.recipe.learning_rate * _height(rows / self.rows)
            losses.append(teach.step(lesson, state) * len(lesson))
            state.average(last.steps + len(losses), self.recipe.average)
            rows += len(lesson)
            advance(len(lesson))
        steps = last.steps + len(losses)
        seconds = last.seconds + time.monotonic() - began
        loss = sum(losses) / (stop - last.rows)
        state.note(self._checkup(student, state, rows=stop, steps=steps, loss=loss, seconds=seconds))

    def _checkup(
        self, student: PreTrainedModel, state: State, *, rows: int, steps: int, loss: float | None, seconds: float
    ) -> Checkup:
        began = time.monotonic()
        with state.averaged():
            ours = log_softmax(predict(student, self.validation).astype(np.float64), axis=1)
        theirs = log_softmax(self.original.original.astype(np.float64), axis=1)
        return Checkup(
            rows=rows, steps=steps, loss=loss,
            kl=float((np.exp(theirs) * (theirs - ours)).sum(1).mean()),
            accuracy=float((ours.argmax(1) == self.original.labels).mean()),
            seconds=seconds + time.monotonic() - began,
        )  # fmt: skip


@dataclass
class _Teaching:
    """One step of learning from the original."""

    recipe: Recipe
    teacher: PreTrainedModel
    student: PreTrainedModel
    wanted: Named
    ours: Named
    channels: Tensor | None = None  # of the stream that are left; None for all of them

    def step(self, lesson: Lesson, state: State) -> float:
        """The loss of the lesson, before it is learned from.

        Raises:
            InputError: it is not finite.
        """
        with torch.no_grad():
            theirs = self.teacher(**lesson.theirs).logits
        loss = self._distance(self.student(**lesson.ours).logits, theirs)
        if self.wanted and lesson.alike.any():
            loss = loss + self.recipe.hidden * self._states_missed(lesson)
        if not torch.isfinite(loss):
            remedy = "lower it, for example to a third"
            raise InputError(
                "strategies: distill.learning_rate", self.recipe.learning_rate, "the loss is not finite", remedy
            )
        state.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(state.parameters.values(), _LONGEST)
        state.optimizer.step()
        return float(loss.detach())

    def _distance(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """KL at a temperature, in units that make gradients of any temperature alike (Hinton et al. 2015, section 2)."""
        temperature = self.recipe.temperature
        softer, target = (functional.log_softmax(logits.float() / temperature, dim=-1) for logits in (ours, theirs))
        return functional.kl_div(softer, target, log_target=True, reduction="batchmean") * temperature**2

    def _states_missed(self, lesson: Lesson) -> Tensor:
        """The mean over the matched layers."""
        pairs = (lesson.states(self.ours[name], self._left(wanted)) for name, wanted in self.wanted.items())
        return torch.stack([missed(ours, theirs) for ours, theirs in pairs]).mean()

    def _left(self, states: Tensor) -> Tensor:
        return states if self.channels is None else states[..., self.channels]


def _as_stored(student: PreTrainedModel, weights: Named, dtype: torch.dtype) -> Named:
    """Weights of linears as ``(outputs, inputs)``, in the original's number format."""
    flat = {f"{name}.weight" for name, module in student.named_modules() if isinstance(module, Conv1D)}
    turned = {name: values.T if name in flat else values for name, values in weights.items()}
    return {name: values.to(dtype).contiguous() for name, values in turned.items()}


def _height(done: float) -> float:
    """Of the learning rate, the share that it is at: up in a straight line, then down to nothing."""
    return min((done + 1e-3) / _WARM_UP, (1 - done) / (1 - _WARM_UP), 1.0)


def _tuned_modules(
    student: PreTrainedModel, layers: dict[str, str], tunes: Literal["all", "head"], inputs: dict[str, Tensor]
) -> list[str]:
    """Every linear and norm, or those that run after the last layer."""
    modules = tunable(student)
    if tunes == "all":
        return modules
    ran: list[str] = []
    handles = [
        student.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))  # type: ignore[misc]
        for name in [*modules, *layers.values()]
    ]
    with torch.no_grad():
        student(**inputs)
    for handle in handles:
        handle.remove()
    last = max(place for place, name in enumerate(ran) if name in layers.values())
    return list(dict.fromkeys(ran[last + 1 :]))
