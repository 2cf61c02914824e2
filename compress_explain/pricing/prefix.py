"""Reusing, on one batch, whatever a model computes before the place of an edit.

The model runs once and the output of every module is kept, with the order in which they came.
Whatever was complete when the place of an edit was reached cannot depend on the edit: its module
then returns what was kept instead of computing it again. A module that hands on what that place
answers (an attention module, its output projection) is cut short: it asks that place alone. The
numbers are those of a whole pass, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import ModelOutput

from compress_explain.editing.masks import Masks
from compress_explain.model.heads import logits_in


class Prefix:
    """One batch of inputs and what the model, in its present state, makes of it.

    ``logits`` is the output of the recorded pass. Only inside ``torch.inference_mode`` or ``no_grad``.
    """

    def __init__(self, of: Masks | PreTrainedModel, inputs: dict[str, Tensor]) -> None:
        self.model, self.inputs = of.model if isinstance(of, Masks) else of, inputs
        self.rows = len(next(iter(inputs.values())))
        self._inputs: dict[str, tuple[Any, ...]] = {}  # as they came, before any hook that masks
        self._outputs: dict[str, Any] = {}
        self._done: dict[str, int] = {}  # when a part was complete
        self._reached: dict[str, int] = {}  # when a part was first entered
        self._clock = 0
        self._again: set[str] = set()  # parts that were entered more than once
        self._reusable: dict[str, list[tuple[str, Any]]] = {}
        names = [name for name, _ in self.model.named_modules() if name]
        hooks = [hook for name in names for hook in self._watch(name)]
        try:
            self.logits = logits_in(self.model(**inputs))
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def reused(self, place: str) -> Iterator[None]:
        """Inside it the model does not compute again what came before module ``place``."""
        with ExitStack() as stack:
            for name, kept in self._before(place):
                stack.enter_context(answering(self.model.get_submodule(name), always(kept)))
            stack.enter_context(self._cut_short(place, lambda value: value))
            yield

    @contextmanager
    def chosen(self, place: str, rows: Int[Tensor, " chosen"]) -> Iterator[dict[str, Tensor]]:
        """The same for chosen rows of the batch, any of them any number of times; gives the inputs to run with.

        What embeddings give is computed again as well: T5's position bias has no axis of rows.
        """
        taken = partial(_of_rows, rows=rows, count=self.rows)
        with ExitStack() as stack:
            for name, kept in self._before(place):
                module = self.model.get_submodule(name)
                if not isinstance(module, nn.Embedding) and _by_rows(kept):
                    stack.enter_context(answering(module, _taking(taken, kept)))
            stack.enter_context(self._cut_short(place, taken))
            yield {name: taken(value) for name, value in self.inputs.items()}

    def output(self, name: str) -> Any:
        """What module ``name`` returned."""
        return self._outputs[name]

    def _cut_short(self, place: str, taken: Callable[[Any], Any]) -> AbstractContextManager[None]:
        """Inside it the widest module that hands on what ``place`` answers asks only that; ``taken`` chooses rows."""
        if place not in self._inputs:
            return nullcontext()
        answer = self._outputs[place]
        around = [name for name in _outer(place) if _first(self._outputs.get(name)) is answer]
        if not around or self._again.intersection([place, *around]):
            return nullcontext()
        whole = self._outputs[around[-1]]
        rest = taken(whole[1:]) if isinstance(whole, tuple) else None
        asked = _through(self.model.get_submodule(place), taken(self._inputs[place]), rest)
        return answering(self.model.get_submodule(around[-1]), asked)

    def _before(self, place: str) -> list[tuple[str, Any]]:
        """The outermost parts that were complete when ``place`` was reached, each run but once."""
        if place not in self._reusable:
            complete = {name for name, done in self._done.items() if done < self._reached[place]} - self._again
            outermost = [name for name in complete if not any(outer in complete for outer in _outer(name))]
            self._reusable[place] = [(name, self._outputs[name]) for name in outermost]
        return self._reusable[place]

    def _watch(self, name: str) -> list[torch.utils.hooks.RemovableHandle]:
        module = self.model.get_submodule(name)
        return [
            module.register_forward_pre_hook(partial(self._entered, name), prepend=True),
            module.register_forward_hook(partial(self._left, name)),
        ]

    def _entered(self, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if name in self._reached:
            self._again.add(name)
        if isinstance(module, nn.Linear | Conv1D):  # where edits are made; what others get need not be kept
            self._inputs[name] = inputs
        self._clock += 1
        self._reached.setdefault(name, self._clock)  # the first time: what follows may depend on an edit there

    def _left(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._outputs[name], self._done[name] = output, self._clock


@contextmanager
def answering(module: nn.Module, answer: Callable[..., Any]) -> Iterator[None]:
    """Inside it ``module`` answers with ``answer(*inputs)`` instead of computing; its hooks still run."""
    before = module.__dict__.get("forward")
    module.forward = answer  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _by_rows(output: Any) -> bool:
    """Whether rows can be taken of it; tables, and tokens of all rows in one axis, are computed again: they are cheap."""
    return not isinstance(output, Tensor) or output.dim() > 2


def _of_rows(value: Any, rows: Tensor, count: int) -> Any:
    """Chosen rows of every tensor in a module's output that has an axis of ``count`` rows."""
    if isinstance(value, Tensor) and value.dim() and len(value) == count:
        return value[rows]
    if isinstance(value, tuple | list):
        return type(value)(_of_rows(each, rows, count) for each in value)
    if isinstance(value, ModelOutput):
        return type(value)(**{name: _of_rows(each, rows, count) for name, each in value.items()})
    return value


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) and output else output


def _through(module: nn.Module, asked: tuple[Any, ...], rest: tuple[Any, ...] | None) -> Callable[..., Any]:
    """An answer with that of ``module`` to what it was ``asked``, followed by the ``rest`` if there is one."""

    def answer(*inputs: Any, **options: Any) -> Any:
        new = module(*asked)
        return new if rest is None else (new, *rest)

    return answer


def always(value: Any) -> Callable[..., Any]:
    """An answer that does not depend on what is asked."""
    return lambda *inputs, **options: value


def _taking(taken: Callable[[Any], Any], value: Any) -> Callable[..., Any]:
    """The same of chosen rows, which are only taken when somebody asks."""
    return lambda *inputs, **options: taken(value)


def _outer(name: str) -> Iterator[str]:
    """The modules around ``encoder.layer.3``: ``encoder.layer`` and ``encoder``."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
