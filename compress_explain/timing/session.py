"""An ONNX file opened for this machine's CPU, and inputs made from what it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from compress_explain.errors import InputError

# The fused kernel takes several times as long as the addition and the norm that it replaces.
_SLOW_FUSIONS = ("SkipLayerNormFusion",)
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_FEW = 12  # tokens of the vocabulary that are drawn from: every vocabulary has them


def open_session(path: Path, threads: int = 1, without: Sequence[str] = ()) -> Any:
    """Every graph optimisation on that pays, but those in ``without``.

    Raises:
        InputError: ONNX Runtime cannot load the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=[*_SLOW_FUSIONS, *without]
        )
    except Exception as error:  # the runtime raises a class of its own for every status
        problem = f"ONNX Runtime cannot load it ({str(error).splitlines()[0][:200]})"
        raise InputError("artifact", str(path), problem, "export it again, or in another format") from None


def made_inputs(session: Any, batch: int, tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    """One array for each input of the file, ``(batch, tokens)`` of tokens, none of them padding.

    Raises:
        InputError: an input is of a type or a shape that nothing can be made for.
    """
    generator = np.random.default_rng(seed)
    return {each.name: _made(each, batch, tokens, generator) for each in session.get_inputs()}


def reads_tokens(session: Any) -> bool:
    """Whether the file reads tokens; else it is of one size but for the batch."""
    return any(each.type in _INTEGERS for each in session.get_inputs())


def _made(wanted: Any, batch: int, tokens: int, generator: np.random.Generator) -> np.ndarray:
    shape = _shape(wanted, batch, tokens)
    if wanted.type in _FLOATS:
        return generator.standard_normal(shape).astype(_FLOATS[wanted.type])
    if wanted.type not in _INTEGERS:
        known = ", ".join([*_INTEGERS, *_FLOATS])
        raise InputError("artifact", wanted.name, f"an input of type {wanted.type}", f"give a file with: {known}")
    dtype = _INTEGERS[wanted.type]
    if "mask" in wanted.name:
        return np.ones(shape, dtype)
    if "position" in wanted.name:
        return np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape).copy()
    if "type" in wanted.name:
        return np.zeros(shape, dtype)
    return generator.integers(4, _FEW, shape).astype(dtype)


def _shape(wanted: Any, batch: int, tokens: int) -> tuple[int, ...]:
    """Sizes that the file leaves open are the batch, then, of tokens, their number."""
    first, *others = wanted.shape or [batch]
    open_sizes = [size for size in others if not isinstance(size, int)]
    if open_sizes and (wanted.type in _FLOATS or len(open_sizes) > 1):
        remedy = "export it with sizes fixed but for the batch"
        raise InputError("artifact", wanted.name, f"an input of shape {wanted.shape}, open in its sizes", remedy)
    fixed = [size if isinstance(size, int) else tokens for size in others]
    return (first if isinstance(first, int) else batch, *fixed)
