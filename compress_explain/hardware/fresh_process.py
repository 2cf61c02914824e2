"""A model opened in a process of its own: how long until it answers, and how much memory it takes.

As a program it opens what it is told to, answers ``calls`` times, and prints what that took as JSON. An ONNX file is opened with
ONNX Runtime alone, as where it is deployed; anything else with torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

Answer = Callable[[], object]


def look(kind: str, path: Path, inputs: Path, *, calls: int = 3, threads: int = 1) -> dict[str, float]:
    """Start a process that opens ``path`` and answers on the arrays in ``inputs`` (``.npz``).

    ``kind`` is ``onnx``, ``deployed`` (an artifact's folder) or the class of a transformers model as ``module:name``. Returned are
    seconds until everything is imported, until the model is loaded, and of the first answer; and MiB that the process took at its peak
    beyond those that it held when only the runtime was imported.

    Raises:
        RuntimeError: the process failed; with the last line that it wrote.
    """
    command = [sys.executable, "-m", __name__, kind, str(path), str(inputs), str(calls), str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "STARTED": repr(time.time())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _main(kind: str, path: Path, inputs: Path, calls: int, threads: int) -> dict[str, float]:
    started = float(os.environ["STARTED"])
    opener = _opener(kind)  # imports the runtime
    imported, before = time.time(), _memory("VmRSS")
    answer = opener(path, inputs, threads)
    loaded = time.time()
    answer()
    answered = time.time()
    for _ in range(calls - 1):
        answer()
    return {
        "imported": imported - started,
        "loaded": loaded - imported,
        "answered": answered - loaded,
        "memory": (_memory("VmHWM") - before) / 1024,
    }


def _opener(kind: str) -> Callable[[Path, Path, int], Answer]:
    if kind == "onnx":
        from compress_explain.hardware.onnx_file import OnnxFile

        return lambda path, inputs, threads: OnnxFile(path=path, threads=threads).answering(dict(np.load(inputs)))
    import torch

    torch.set_num_threads(1)
    if kind == "deployed":
        from compress_explain.running.opening import load_deployed

        return lambda path, inputs, threads: _given(load_deployed(path, threads), inputs)
    module, _, name = kind.partition(":")
    cls = getattr(import_module(module), name)

    def open_original(path: Path, inputs: Path, threads: int) -> Answer:
        torch.set_num_threads(threads)
        model = cls.from_pretrained(path).eval()

        def run(given: dict[str, Any]) -> object:
            with torch.inference_mode():
                return model(**given)

        return _given(run, inputs)

    return open_original


def _given(runner: Callable[[dict[str, Any]], object], inputs: Path) -> Answer:
    import torch

    tensors = {name: torch.from_numpy(values) for name, values in np.load(inputs).items()}
    return lambda: runner(tensors)


def _memory(field: str) -> float:
    """KiB, from ``/proc``; where there is none, the peak that the system tells."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(field)))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1024 if sys.platform == "darwin" else peak


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))))
