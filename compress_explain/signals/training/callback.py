"""Observing signals while a model trains: a callback for transformers' Trainer."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from compress_explain.data.examples import Examples
from compress_explain.errors import InputError
from compress_explain.signals.stream.states import States
from compress_explain.signals.training.observations import Kept
from compress_explain.signals.training.observed import write_observed
from compress_explain.signals.training.observing import Observer, Observing


class SignalsCallback(TrainerCallback):
    """Looks at the model before the first step, ``every`` so many steps, and at the end, on rows that it is not trained on.

    Each look is in ``out`` when it is made, as one more step of the table ``observed.parquet``, and summary and page are written anew: a
    training that is killed loses none. One that continues from a checkpoint drops the looks beyond it and comes to them again. How alike
    the model is to its last state is not known yet; ``compress-explain observe`` tells that of checkpoints that were saved.
    Training is not changed by being looked at.

    Raises:
        InputError: ``every`` is not at least 1; or when training begins, ``out`` holds looks at another training, or the
            task has no places to look at.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        every: int,
        out: Path | str,
        learning: Examples | None = None,
        observing: Observing | None = None,
        batch_size: int = 32,
    ) -> None:
        if every < 1:
            raise InputError("every", every, "must be at least 1 step", "give e.g. every=100")
        self.examples, self.learning, self.every = examples, learning, every
        self.observing, self.batch_size = observing or Observing(), batch_size
        self.kept = Kept(folder=Path(out))
        self._observer: Observer | None = None
        self._before: States | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        if state.global_step == 0 and self.kept.steps:
            problem = "holds looks at a training already, and this one does not continue it"
            raise InputError("out", str(self.kept.folder), problem, "give a new folder, or resume from a checkpoint")
        self.kept.forget_after(state.global_step)
        with _undisturbed(given["model"]) as model:
            self._observer = Observer.of(
                model, self.examples, self.observing, learning=self.learning, batch_size=self.batch_size
            )
        if state.global_step % self.every == 0:
            self._look(given["model"], state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        if state.is_world_process_zero and state.global_step % self.every == 0:
            self._look(given["model"], state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        if state.is_world_process_zero:
            self._look(given["model"], state)

    def _look(self, training: PreTrainedModel, state: TrainerState) -> None:
        """At a step that was not looked at yet."""
        if state.global_step in self.kept.steps:
            return
        assert self._observer is not None, "made when training begins"
        with _undisturbed(training) as model:
            states = self._observer.states(model)
            self.kept.put(self._observer.told(state.global_step, states, before=self._before))
            self._before = states
            write_observed(self.kept.folder, [self.kept.folder.name], self.observing)


@contextmanager
def _undisturbed(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The model in evaluation mode, a copy of it where it is not on the processor; afterwards all is as it was, chance too."""
    training, numpy, python = model.training, np.random.get_state(), random.getstate()
    on_processor = next(model.parameters()).device.type == "cpu"
    with torch.random.fork_rng():
        try:
            yield model.eval() if on_processor else copy.deepcopy(model).to("cpu").eval()  # type: ignore[arg-type]
        finally:
            model.train(training)
            np.random.set_state(numpy)
            random.setstate(python)
