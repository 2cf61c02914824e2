"""Which parts of a model take how long: each linear, and what else its layer computes, in ONNX Runtime or in torch.

A profiler makes everything slower, small operations most, so that these times say where time goes, not how long a call takes. Of every part the fastest call counts: what a machine does besides
only ever adds to the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import pandas as pd
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import PreTrainedModel

from compress_explain.deployment.compiled import threads as torch_threads
from compress_explain.deployment.runtime import OnnxRunner
from compress_explain.model.anatomy import Anatomy
from compress_explain.weight_edits import whole_name

OUTSIDE = "outside the layers"  # embeddings before them, what makes the answer behind them
REST = "what else it computes"  # of a layer: norms, activations, attention's own products, moving numbers
_KERNEL = "_kernel_time"
_MARK = "part: "  # before the names that we give
_WARM_UP = 3

Times = dict[tuple[str, str], float]  # milliseconds a call, by layer and linear


def onnx_times(
    path: Path, anatomy: Anatomy, inputs: Mapping[str, Tensor], *, calls: int = 20, threads: int = 1
) -> Times:
    """From ONNX Runtime's own profile of the file; quantizers and fusions keep a linear's name at the beginning of theirs.

    A node of another name belongs to the layer of the last linear before it.

    Raises:
        InputError: ONNX Runtime cannot load the file, or it wants an input that is not given.
    """
    with TemporaryDirectory() as folder:
        session = _profiled(path, Path(folder), threads)
        wanted = {value.name: inputs[value.name].numpy() for value in session.get_inputs()}
        for _ in range(_WARM_UP + calls):
            session.run(None, wanted)
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_KERNEL)]
    nodes = nodes[len(nodes) // (_WARM_UP + calls) * _WARM_UP :]
    return _summed(nodes, anatomy, calls)


def torch_times(
    model: PreTrainedModel, anatomy: Anatomy, inputs: Mapping[str, Tensor], *, calls: int = 20, threads: int = 1
) -> Times:
    """From torch's profiler, with every linear and every layer marked; ``anatomy`` has the paths that modules have in ``model``."""
    layers = {layer.name: layer.module for layer in anatomy.layers.values()}
    linears = {name: linear.module for name, linear in anatomy.linears.items()}
    with torch_threads(threads), torch.inference_mode(), _marked(model, {**layers, **linears}):
        for _ in range(_WARM_UP):
            model(**inputs)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(calls):
                with record_function(_MARK):
                    model(**inputs)
    durations: dict[str, list[float]] = {}
    for event in profiler.events():
        if event.name.startswith(_MARK):
            durations.setdefault(event.name.removeprefix(_MARK), []).append(event.cpu_time_total)
    taken = {name: _a_call(each, calls) for name, each in durations.items()}
    return _nested(taken, layers, linears)


def layer_table(original: Times, compressed: Times) -> pd.DataFrame:
    """One row a part: ``layer``, ``part``, ``original`` and ``compressed`` in milliseconds a call; what is gone takes 0."""
    keys = list(dict.fromkeys([*original, *compressed]))
    rows = [
        {"layer": layer, "part": part, "original": original.get(key, 0.0), "compressed": compressed.get(key, 0.0)}
        for key in keys
        for layer, part in [key]
    ]
    return pd.DataFrame(rows, columns=["layer", "part", "original", "compressed"])


def by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """The same, one row a layer, with the share of the original's time that it takes: ``left``."""
    summed = table.groupby("layer", sort=False)[["original", "compressed"]].sum().reset_index()
    summed["left"] = summed["compressed"] / summed["original"].where(summed["original"] > 0)
    return summed


def _profiled(path: Path, folder: Path, threads: int) -> onnxruntime.InferenceSession:
    OnnxRunner(path=path, threads=threads).inputs  # noqa: B018 (refuses what cannot be loaded)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    return onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
    )


def _summed(nodes: Sequence[dict[str, Any]], anatomy: Anatomy, calls: int) -> Times:
    """By part, in the order in which parts are first computed; every call computes the same nodes in the same order."""
    places, a_call = _Places(anatomy), len(nodes) // calls
    times: Times = {}
    layer = OUTSIDE
    for number, node in enumerate(nodes[:a_call]):
        linear = places.linear(node["name"].removesuffix(_KERNEL))
        if linear is not None:
            layer = places.layer(linear)
        elif layer == places.last and node["args"].get("op_name") in ("Gemm", "FusedGemm"):
            layer = OUTSIDE
        key = (layer, linear or REST)
        times[key] = times.get(key, 0.0) + 1e-3 * min(each["dur"] for each in nodes[number::a_call])
    return times


def _a_call(microseconds: Sequence[float], calls: int) -> float:
    """Milliseconds of the fastest call; each computes a part equally often."""
    per_call = len(microseconds) // calls
    sums = (sum(microseconds[start : start + per_call]) for start in range(0, calls * per_call, per_call))
    return 1e-3 * min(sums)


class _Places:
    """Which linear a node computes, and which layer a linear is of."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._linears = set(anatomy.linears)
        self._layers = sorted((layer.name for layer in anatomy.layers.values()), key=len, reverse=True)
        self.last = next(reversed(anatomy.layers.values())).name

    def linear(self, node: str) -> str | None:
        """Names go on with ``_quant``, ``.first``, ``/MatMulAddFusion`` and the like."""
        parts = re.split(r"[/ ]", node.removeprefix("fused "))[0]
        for end in range(len(parts), 0, -1):
            if (end == len(parts) or parts[end] in "._") and whole_name(parts[:end]) in self._linears:
                return whole_name(parts[:end])
        return None

    def layer(self, linear: str) -> str:
        return next((name for name in self._layers if linear.startswith(f"{name}.")), OUTSIDE)


def _nested(taken: Mapping[str, float], layers: Mapping[str, str], linears: Mapping[str, str]) -> Times:
    """What a layer takes beside its linears; what the whole takes beside its layers."""
    times: Times = {}
    left = taken.get("", 0.0)
    for layer in layers:
        if layer not in taken:
            continue
        own = {name: taken[name] for name in linears if name.startswith(f"{layer}.") and name in taken}
        times |= {(layer, name): milliseconds for name, milliseconds in own.items()}
        times[layer, REST] = max(taken[layer] - sum(own.values()), 0.0)
        left -= taken[layer]
    outside = {
        name: taken[name]
        for name in linears
        if name in taken and not any(name.startswith(f"{each}.") for each in layers)
    }
    times |= {(OUTSIDE, name): milliseconds for name, milliseconds in outside.items()}
    return {(OUTSIDE, REST): max(left - sum(outside.values()), 0.0), **times}


@contextmanager
def _marked(model: nn.Module, modules: Mapping[str, str]) -> Iterator[None]:
    """Every module's calls under its component's name in a profile, inside."""
    open_marks: dict[str, list[Any]] = {name: [] for name in modules}
    there = dict(model.named_modules())
    handles = []
    for name, path in modules.items():
        if path in there:
            handles.append(there[path].register_forward_pre_hook(_entering(name, open_marks[name])))
            handles.append(there[path].register_forward_hook(_leaving(open_marks[name])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _entering(name: str, marks: list[Any]) -> Any:
    def enter(*_: object) -> None:
        mark = record_function(_MARK + name)
        mark.__enter__()
        marks.append(mark)

    return enter


def _leaving(marks: list[Any]) -> Any:
    def leave(*_: object) -> None:
        marks.pop().__exit__(None, None, None)

    return leave
