"""A function in a fresh process, so that the peak of its memory is its own and nobody else's."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any


def in_fresh_process(function: str, **arguments: Any) -> dict[str, Any]:
    """What ``module.name(**arguments)`` returned, all of it plain values.

    Raises:
        RuntimeError: it failed; the message is the end of what it said.
    """
    command = [sys.executable, __file__, function, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak() -> float:
    """The most memory that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux tells KiB


def main() -> None:
    import importlib

    import torch

    from compress_explain.model.loading import quieten

    quieten()
    torch.set_num_threads(1)
    module, _, name = sys.argv[1].rpartition(".")
    result = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
