"""How long runners take, side by side, and how long the multiplications of the linears alone would take.

Runners are measured in rounds, each once a round, so that whatever else the machine does falls on
all of them. The roofline is what is left of a model's time if everything but its linears were free.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import binom
from torch import Tensor

from compress_explain.choosing.latency_table import Timed
from compress_explain.data.examples import Examples
from compress_explain.deployment.compiled import threads as torch_threads
from compress_explain.deployment.runtime import OnnxRunner, Runner
from compress_explain.errors import InputError
from compress_explain.model.anatomy import Anatomy

_FORMATS = ("float32", "bfloat16", "int8")
_OPERATORS: dict[type[np.generic], tuple[str, type[np.generic], int]] = {  # and the types of its input and output
    np.float32: ("MatMul", np.float32, TensorProto.FLOAT),
    np.int8: ("MatMulInteger", np.uint8, TensorProto.INT32),
}


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds that one call took, round by round."""

    milliseconds: tuple[float, ...] = field(repr=False)

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)

    @property
    def fastest(self) -> float:
        return min(self.milliseconds)

    @property
    def interval(self) -> tuple[float, float]:
        """The median's 95% interval from order statistics; of fewer than six rounds, their extremes.

        >>> Latency(milliseconds=tuple(float(each) for each in range(1, 21))).interval
        (6.0, 15.0)
        """
        return _interval(self.milliseconds)

    @property
    def timed(self) -> Timed:
        """Its median and interval."""
        return Timed(median=self.median, low=self.interval[0], high=self.interval[1])

    def times_faster(self, other: Latency) -> float:
        """The median over rounds of how many times as long ``other`` took."""
        return statistics.median(self._ratios(other))

    def times_faster_interval(self, other: Latency) -> tuple[float, float]:
        """Its 95% interval."""
        return _interval(self._ratios(other))

    def _ratios(self, other: Latency) -> list[float]:
        return [slow / fast for slow, fast in zip(other.milliseconds, self.milliseconds, strict=True)]


def _interval(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    rank = max(int(binom.ppf(0.025, len(ordered), 0.5)), 1) - 1
    return ordered[rank], ordered[-1 - rank]


def measure(
    runners: Mapping[str, Runner],
    inputs: Mapping[str, Tensor],
    *,
    rounds: int = 20,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Call every runner on ``inputs``, one after another, ``rounds`` times; the first ``warm_up`` calls do not count.

    Threads are the runners' own. Each round begins with another runner. The ``clock`` tells seconds.

    Raises:
        InputError: fewer than one round.
    """
    if rounds < 1:
        raise InputError("rounds", rounds, "nothing would be measured", "give at least one round")
    names = list(runners)
    for name in names:
        for _ in range(warm_up):
            runners[name](inputs)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(_milliseconds(lambda name=name: runners[name](inputs), clock))  # type: ignore[misc]
    return {name: Latency(milliseconds=tuple(times)) for name, times in taken.items()}


def text_inputs(batch: int, tokens: int, *, vocabulary: int, seed: int = 0) -> dict[str, Tensor]:
    """Random tokens, none of them padding: ``(batch, tokens)``."""
    ids = torch.randint(vocabulary // 2, vocabulary, (batch, tokens), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


def sized_inputs(examples: Examples, batch: int, tokens: int) -> dict[str, Tensor]:
    """The longest row ``batch`` times, texts repeated or cut to ``tokens`` tokens with their last one at the end."""
    longest = int(examples.lengths.argmax())
    inputs = {}
    for name, values in examples.inputs.items():
        row = values[longest]
        if row.ndim == 1 and name in examples.padding:
            row = np.append(np.resize(row, tokens - 1), row[-1])
        inputs[name] = torch.from_numpy(np.stack([row] * batch))
    return inputs


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Multiply-adds a second that this machine's matrix product reaches, by number format."""

    float32: float
    bfloat16: float
    int8: float

    def milliseconds(self, anatomy: Anatomy, batch: int) -> dict[str, float]:
        """How long the multiply-adds of all linears would take for ``batch`` examples of the anatomy's tokens."""
        multiply_adds = batch * sum(linear.flops for linear in anatomy.linears.values()) / 2
        return {name: 1e3 * multiply_adds / getattr(self, name) for name in _FORMATS}


def measure_rates(
    *, rows: int = 512, inputs: int = 1024, outputs: int = 1024, threads: int = 1, rounds: int = 20
) -> Rates:
    """The fastest of ``rounds`` products of ``(rows, inputs)`` and ``(inputs, outputs)`` in each format.

    float32 is the faster of torch's and ONNX Runtime's, bfloat16 is torch's, int8 is ONNX Runtime's
    ``MatMulInteger``, as quantized files use it.
    """
    shape = (rows, inputs, outputs)
    with TemporaryDirectory() as folder, torch_threads(threads):
        actions = {
            "float32": [
                _torch_product(*shape, torch.float32),
                _onnx_product(*shape, np.float32, Path(folder), threads),
            ],
            "bfloat16": [_torch_product(*shape, torch.bfloat16)],
            "int8": [_onnx_product(*shape, np.int8, Path(folder), threads)],
        }
        fastest = {name: min(_fastest(action, rounds) for action in each) for name, each in actions.items()}
    return Rates(**{name: 1e3 * rows * inputs * outputs / milliseconds for name, milliseconds in fastest.items()})


def _fastest(action: Callable[[], object], rounds: int) -> float:
    return min(_milliseconds(action) for _ in range(rounds + 1))  # the first is never it


def _milliseconds(action: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    action()
    return 1e3 * (clock() - start)


def _torch_product(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> Callable[[], object]:
    x, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    return lambda: torch.nn.functional.linear(x, weight)


def _onnx_product(
    rows: int, inputs: int, outputs: int, dtype: type[np.generic], folder: Path, threads: int
) -> Callable[[], object]:
    operator, given, gives = _OPERATORS[dtype]
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.integers(-127, 128, (inputs, outputs)).astype(dtype), "weight")
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "weight"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(given)), [rows, inputs])],
        [helper.make_tensor_value_info("y", gives, [rows, outputs])],
        [weight],
    )
    path = folder / f"{operator}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    runner = OnnxRunner(path=path, threads=threads)
    x = {"x": torch.from_numpy(rng.integers(0, 256, (rows, inputs)).astype(given))}
    return lambda: runner(x)
