"""A model taken through its layers one at a time, over all batches, so that what is learned at one shapes the next.

For each batch the output of the last finished layer is kept, and within the layer at hand what the
linears on the way gave. They answer with it when the model runs on from there, and it is stopped
as soon as it has been where it was sent: a walk costs about one pass, however often it pauses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.model.anatomy import Layer
from compress_explain.pricing.prefix import always, answering
from compress_explain.pricing.rows import by_row


class _Arrived(Exception):  # noqa: N818 (it is no error)
    """The model has been where it was sent; the rest of it is not needed."""


@dataclass(frozen=True)
class Visit:
    """What one batch showed: what came into and out of the modules that were looked at."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)


class Walk:
    """Where a model stands on each batch. Only inside ``torch.inference_mode`` or ``no_grad``.

    Linears named in ``settled`` are those whose weights do not change while their layer is at hand.
    """

    def __init__(
        self, model: PreTrainedModel, batches: Sequence[dict[str, Tensor]], settled: Sequence[str] = ()
    ) -> None:
        self.model, self.batches, self._settled = model, batches, set(settled)
        self._finished: list[Layer] = []
        self._left: dict[str, list[Any]] = {}  # by stack: the output of its last finished layer on each batch
        self._within: list[dict[str, Tensor]] = [{} for _ in batches]  # outputs of settled linears of the layer at hand

    def look(self, into: Sequence[str], out_of: Sequence[str] = ()) -> Iterator[Visit]:
        """Batch by batch, what comes into modules ``into`` and out of ``out_of``, up to the last of ``into``."""
        for index in range(len(self.batches)):
            visit = Visit()
            hooks = [self._at_output(name, visit, self._rows(index)) for name in out_of]
            hooks += [self._at_input(name, visit, self._rows(index), stop=name == into[-1]) for name in into]
            self._run(index, hooks)
            yield visit

    def finish(self, layer: Layer, into: Sequence[str] = (), out_of: Sequence[str] = ()) -> Iterator[Visit]:
        """The same up to the end of ``layer``, the next one, which is then done with."""
        left: list[Any] = []
        for index in range(len(self.batches)):
            visit = Visit()
            hooks = [self._at_output(name, visit, self._rows(index)) for name in out_of]
            hooks += [self._at_input(name, visit, self._rows(index), stop=False) for name in into]
            hooks.append(self.model.get_submodule(layer.module).register_forward_hook(partial(_finish, left)))
            self._run(index, hooks)
            self._within[index].clear()
            yield visit
        self._finished.append(layer)
        self._left[layer.stack] = left

    def pass_by(self, layer: Layer) -> None:
        """Take every batch to the end of ``layer`` without looking."""
        for _ in self.finish(layer):
            pass

    def _run(self, index: int, hooks: list[torch.utils.hooks.RemovableHandle]) -> None:
        within = self._within[index]
        with ExitStack() as stack:
            for hook in hooks:
                stack.callback(hook.remove)
            for layer in self._finished:
                left = self._left[layer.stack][index]
                stack.enter_context(answering(self.model.get_submodule(layer.module), always(left)))
            for name, output in within.items():
                stack.enter_context(answering(self.model.get_submodule(name), always(output)))
            for name in self._settled - within.keys():
                module = self.model.get_submodule(name)
                stack.callback(module.register_forward_hook(partial(_keep, name, within)).remove)
            try:
                self.model(**self.batches[index])
            except _Arrived:
                return
        raise AssertionError("the model never came to the module that it was sent to")

    def _rows(self, index: int) -> int:
        return len(next(iter(self.batches[index].values())))

    def _at_input(self, name: str, visit: Visit, rows: int, *, stop: bool) -> torch.utils.hooks.RemovableHandle:
        hook = partial(_enter, name, visit, rows, stop)
        return self.model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)

    def _at_output(self, name: str, visit: Visit, rows: int) -> torch.utils.hooks.RemovableHandle:
        return self.model.get_submodule(name).register_forward_hook(partial(_leave, name, visit, rows))


# Hooks: not closures, which a type checker at run time would take apart each time anew.


def _enter(
    name: str,
    visit: Visit,
    rows: int,
    stop: bool,
    module: nn.Module,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    value = arguments[0] if arguments else options["hidden_states"]
    visit.inputs.setdefault(name, by_row(value, rows))  # the tokens come first, a table after them
    if stop:
        raise _Arrived


def _leave(name: str, visit: Visit, rows: int, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
    visit.outputs[name] = by_row(output, rows)


def _keep(name: str, within: dict[str, Tensor], module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
    within[name] = output


def _finish(left: list[Any], module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    left.append(output)
    raise _Arrived
