"""An ONNX file on this machine with nothing but ONNX Runtime and numpy: its session, inputs made up for it, its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime

from compress_explain.errors import InputError

_TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
}
_SLOW_FUSIONS = ["SkipLayerNormFusion"]  # as where the gates judge the file
_IDS = 16  # token numbers below it: small vocabularies have them, and which they are takes no time


def onnx_path(given: Path) -> Path:
    """The ONNX file itself: ``given``, or of an artifact's folder what its manifest says runs.

    Raises:
        InputError: there is none.
    """
    if given.is_dir():
        manifest = given / "manifest.json"
        try:
            name = (
                Path(json.loads(manifest.read_text())["deployed"]["file"]).name if manifest.exists() else "model.onnx"
            )
        except (ValueError, KeyError, TypeError):
            raise InputError("artifact", str(manifest), "not a manifest", "copy the whole folder again") from None
        given = given / name
    if given.suffix != ".onnx" or not given.is_file():
        raise InputError(
            "artifact", str(given), "no ONNX file", "give one, or an artifact's folder whose model runs in ONNX Runtime"
        )
    return given


def digest(path: Path) -> str:
    """SHA-256 of the file, and of its external data behind it where it has some."""
    found = hashlib.sha256()
    for each in (path, path.with_name(path.name + ".data")):
        if each.exists():
            with each.open("rb") as stream:
                for block in iter(lambda stream=stream: stream.read(1 << 20), b""):  # type: ignore[misc]
                    found.update(block)
    return found.hexdigest()


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A file and on how many threads it runs.

    Raises:
        InputError: on first use, when ONNX Runtime cannot load or run it.
    """

    path: Path
    threads: int = 1

    def action(self, batch: int, tokens: int, seed: int = 0) -> Callable[[], object]:
        """A call on made-up rows, ready to be timed; run once to see that it works."""
        inputs = self.inputs(batch, tokens, seed)

        def call() -> object:
            return self._session.run(None, inputs)

        try:
            call()
        except Exception as error:  # the runtime raises a class of its own for every status
            problem = f"cannot run {batch} rows of {tokens} tokens ({str(error).splitlines()[0][:200]})"
            raise InputError(
                "artifact", str(self.path), problem, "give other sizes, within what the model takes"
            ) from None
        return call

    def answering(self, given: dict[str, np.ndarray]) -> Callable[[], object]:
        """A call on those of the ``given`` inputs that the file has."""
        inputs = {value.name: given[value.name] for value in self._session.get_inputs()}
        return lambda: self._session.run(None, inputs)

    def inputs(self, batch: int, tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
        """By the graph's own names and types: tokens without padding, pixels of noise; unknown sizes are batch and tokens."""
        rng = np.random.default_rng(seed)
        return {
            value.name: _values(value.name, value.type, _shape(value.shape, batch, tokens), rng)
            for value in self._session.get_inputs()
        }

    @property
    def reads_tokens(self) -> bool:
        return any(value.name == "input_ids" for value in self._session.get_inputs())

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(
                self.path, options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
            )
        except Exception as error:
            problem = f"ONNX Runtime cannot load it ({str(error).splitlines()[0][:200]})"
            raise InputError("artifact", str(self.path), problem, "export it again, or in another format") from None


def _shape(shape: list[object], batch: int, tokens: int) -> tuple[int, ...]:
    known = [size if isinstance(size, int) and size > 0 else tokens for size in shape]
    return (batch, *known[1:])


def _values(name: str, kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if kind not in _TYPES:
        raise InputError(
            "artifact", name, f"an input of type {kind}", "give a file that reads tokens, pixels or sounds"
        )
    dtype = _TYPES[kind]
    if "mask" in name or dtype is np.bool_:
        return np.ones(shape, dtype)
    if name == "token_type_ids":
        return np.zeros(shape, dtype)
    if name == "position_ids":
        return np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape).copy()
    if np.issubdtype(dtype, np.integer):
        return rng.integers(2, _IDS, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
