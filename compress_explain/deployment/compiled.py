"""A model compiled to machine code by torch, in bfloat16 or float32.

The package is a shared library in an archive: code for the kind of processor that it was made on.
Load only packages that you or your pipeline made.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten, treespec_loads
from transformers import PreTrainedModel

from compress_explain.data.examples import Examples
from compress_explain.deployment.export import ready, sample, shapes
from compress_explain.deployment.forms import refuse_without_compiler
from compress_explain.errors import ArtifactError, InputError
from compress_explain.model.heads import logits_in

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
Dtype = Literal["bfloat16", "float32"]


def compile_package(model: PreTrainedModel, examples: Examples, path: Path, *, dtype: Dtype = "bfloat16") -> Path:
    """Compile ``model`` ahead of time into ``path``, a ``.pt2`` file; ``model`` is left as it is.

    Batches of any size from 2 tokens on, of texts any number. Takes tens of seconds.

    Raises:
        InputError: there is no C++ compiler, ``path`` does not end in ``.pt2``, or the model generates from an encoder.
        ArtifactError: torch cannot export or compile the model.
    """
    if path.suffix != ".pt2":
        raise InputError("path", str(path), "a compiled package ends in .pt2", f"write {path.with_suffix('.pt2').name}")
    refuse_without_compiler()
    typed = _Logits(_typed(model, dtype))
    inputs = _cast(sample(examples), dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with ready(typed.model), _quietly():
            program = torch.export.export(
                typed, (inputs,), dynamic_shapes=({name: shapes(name) for name in inputs},), strict=False
            )
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"freezing": True}
            )
    except Exception as error:  # of many unrelated types
        cause = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ArtifactError(
            f"{type(model).__name__}: torch cannot compile it ({cause}). Remedy: deploy it as ONNX"
        ) from error
    return path


@dataclass(frozen=True, kw_only=True)
class CompiledRunner:
    """A package that :func:`compile_package` wrote.

    Inputs that the package does not have (a model may ignore some) are left out.

    Raises:
        InputError: on first use, when it cannot be loaded on this machine or wants an input that is not given.
    """

    path: Path
    dtype: Dtype = "bfloat16"
    threads: int = 1

    def __call__(self, inputs: Mapping[str, Tensor]) -> Float[np.ndarray, "*shape"]:
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise InputError("inputs", missing[0], f"{self.path} wants it", f"give {', '.join(self.inputs)}")
        given = {name: inputs[name] for name in self.inputs}
        with threads(self.threads), torch.inference_mode():
            return self._program(_cast(given, self.dtype)).float().numpy()

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of the package's inputs in their order, by which alone it tells them apart."""
        spec = treespec_loads(self._program.loader.get_call_spec()[0])
        (given,), _ = tree_unflatten(range(spec.num_leaves), spec)
        return tuple(given)

    @cached_property
    def _program(self) -> Any:
        try:
            return torch._inductor.aoti_load_package(str(self.path))
        except (RuntimeError, OSError) as error:
            problem = f"torch cannot load it ({str(error).strip().splitlines()[0][:200]})"
            raise InputError(
                "artifact", str(self.path), problem, "compile it on the kind of machine that runs it"
            ) from None


@dataclass(frozen=True, kw_only=True)
class TorchRunner:
    """A model in memory: as it is, or with ``compiled`` by ``torch.compile``, where nothing is written to a file.

    Compiling takes place on the first batches and again when sizes change.
    """

    model: PreTrainedModel = field(repr=False)
    dtype: Dtype = "float32"
    compiled: bool = False
    threads: int = 1

    def __call__(self, inputs: Mapping[str, Tensor]) -> Float[np.ndarray, "*shape"]:
        with threads(self.threads), torch.inference_mode():
            return logits_in(self._module(**_cast(inputs, self.dtype))).float().numpy()

    @cached_property
    def _module(self) -> Any:
        typed = _typed(self.model, self.dtype)
        if not self.compiled:
            return typed
        refuse_without_compiler()
        return torch.compile(typed)


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """That many threads for torch, inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Logits(nn.Module):
    """The model as a function of its inputs alone, to its logits alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return logits_in(self.model(**inputs))


def _typed(model: PreTrainedModel, dtype: Dtype) -> PreTrainedModel:
    if model.dtype == _DTYPES[dtype]:
        return model
    return copy.deepcopy(model).to(_DTYPES[dtype])


def _cast(inputs: Mapping[str, Tensor], dtype: Dtype) -> dict[str, Tensor]:
    """Images are given in the type of the weights, tokens as they are."""
    return {name: value.to(_DTYPES[dtype]) if value.is_floating_point() else value for name, value in inputs.items()}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
