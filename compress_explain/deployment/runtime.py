"""Runs a deployed file on examples, as :func:`compress_explain.comparison.predictions.predict` runs a torch model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import onnxruntime
from jaxtyping import Float
from torch import Tensor

from compress_explain.comparison.decided import decide_all
from compress_explain.data.examples import Examples
from compress_explain.errors import InputError
from compress_explain.model.heads import BOUNDS

# The fused kernel takes several times as long as the addition and the norm that it replaces.
_SLOW_FUSIONS = ["SkipLayerNormFusion"]


@runtime_checkable
class Runner(Protocol):
    """Something that computes logits, one row an example, from a batch of model inputs."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> Float[np.ndarray, "*shape"]: ...


@dataclass(frozen=True, kw_only=True)
class OnnxRunner:
    """An ONNX file on this machine's CPU, every graph optimisation on that pays, but those in ``without``.

    Inputs that the file does not have (a model may ignore some) are left out.

    Raises:
        InputError: on first use, when ONNX Runtime cannot load the file or the file wants an input that is not given.
    """

    path: Path
    threads: int = 1
    without: tuple[str, ...] = ()

    def __call__(self, inputs: Mapping[str, Tensor]) -> Float[np.ndarray, "*shape"]:
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise InputError("inputs", missing[0], f"{self.path} wants it", f"give {', '.join(self.inputs)}")
        outputs = self._session.run(list(self.outputs), {name: inputs[name].numpy() for name in self.inputs})
        return (np.stack(outputs, 1) if len(outputs) > 1 else outputs[0]).astype(np.float32)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of the file's inputs."""
        return tuple(value.name for value in self._session.get_inputs())

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The names of those that are logits: of an answer's bounds both, else the first."""
        names = tuple(value.name for value in self._session.get_outputs())
        return BOUNDS if set(BOUNDS) <= set(names) else names[:1]

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(
                self.path,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=[*_SLOW_FUSIONS, *self.without],
            )
        except Exception as error:  # the runtime raises a class of its own for every status
            problem = f"ONNX Runtime cannot load it ({str(error).splitlines()[0][:200]})"
            raise InputError("artifact", str(self.path), problem, "export it again, or in another format") from None


def run_examples(
    runner: Runner,
    examples: Examples,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda rows: None,
) -> Float[np.ndarray, "rows classes"]:
    """Logits of every decision, in the order of the rows, from batches put together as ``predict`` does.

    Dynamically quantized files round a row by what else is in its batch: compare equal batch sizes.
    """
    return decide_all(runner, examples, batch_size, advance).logits
