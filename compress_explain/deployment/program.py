"""A model as a program of torch: a graph of plain operations with its weights, which torch alone opens and runs."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from compress_explain.data.examples import Examples
from compress_explain.deployment.export import check_runner, ready, refuse_generating, sample, shapes
from compress_explain.errors import ArtifactError, InputError
from compress_explain.model.heads import logits_in


def export_program(model: PreTrainedModel, examples: Examples, path: Path) -> float:
    """Write ``model`` to ``path`` for batches of any size and, of texts, any number of tokens from 2 on.

    The program takes the model's arguments by name and gives the logits. Returns their largest
    difference from the model's on rows of ``examples``, in the file as it is read back.

    Raises:
        InputError: ``path`` does not end in ``.pt2``, the model generates from an encoder, or ``examples`` have an input of no known shape.
        ArtifactError: torch cannot export the model, or the program computes something else.
    """
    if path.suffix != ".pt2":
        raise InputError("path", str(path), "a program ends in .pt2", f"write {path.with_suffix('.pt2').name}")
    refuse_generating(model)
    inputs = sample(examples)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with ready(model), _counted_without_listing():
            program = torch.export.export(
                _Named(model), (), inputs, dynamic_shapes={name: shapes(name) for name in inputs}, strict=False
            )
    except Exception as error:  # of many unrelated types
        cause = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise ArtifactError(
            f"{type(model).__name__}: torch cannot export it ({cause}). Remedy: leave program out of artifacts"
        ) from error
    _tidy(program)
    torch.export.save(program, path)
    return check_runner(ProgramRunner(path=path), str(path), model, examples)


@dataclass(frozen=True, kw_only=True)
class ProgramRunner:
    """A program that :func:`export_program` wrote; open only your own, since torch may unpickle what is in it.

    Raises:
        InputError: on first use, when it cannot be loaded.
    """

    path: Path

    def __call__(self, inputs: Mapping[str, Tensor]) -> Float[np.ndarray, "*shape"]:
        with torch.inference_mode():
            return self._module(**inputs).float().numpy()

    @cached_property
    def _module(self) -> Any:
        try:
            return torch.export.load(self.path).module()
        except Exception as error:  # of many unrelated types
            problem = f"torch cannot load it ({str(error).strip().partition(chr(10))[0][:200]})"
            raise InputError("artifact", str(self.path), problem, "export it again") from None


class _Named(nn.Module):
    """The model as a function of its inputs by name, to its logits alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
    ) -> Tensor:
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "pixel_values": pixel_values,
        }
        return logits_in(self.model(**{name: value for name, value in inputs.items() if value is not None}))


@contextmanager
def _counted_without_listing() -> Iterator[None]:
    """Inside it models of which each row must have as many end tokens as the next check that without a list of unknown length.

    T5 and BART do so when they classify; torch 2.13 writes such a list and cannot read it back.
    """
    listed = torch.unique_consecutive

    def checked(counts: Tensor) -> Tensor:
        torch._assert_async(counts.max() == counts.min(), "rows differ in how many end tokens they have")
        return counts[:1]

    torch.unique_consecutive = checked  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.unique_consecutive = listed


def _tidy(program: ExportedProgram) -> None:
    """Without source lines of this machine, and without the claim that two rows or more have two end tokens or more: one row may come."""
    for node in list(program.graph.nodes):
        node.meta.pop("stack_trace", None)
        if node.target is torch.ops.aten._assert_scalar.default and _two_or_more(node.args[0]):
            program.graph.erase_node(node)
    program.graph_module.recompile()


def _two_or_more(claim: Any) -> bool:
    return getattr(claim, "target", None) is operator.ge and claim.args[1] == 2
