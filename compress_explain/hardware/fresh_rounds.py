"""Both models of a comparison, each in fresh processes, by turns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from compress_explain.comparison.contest import Contest, Side
from compress_explain.deployment.latency import sized_inputs
from compress_explain.deployment.manifest import MANIFEST, read_manifest
from compress_explain.hardware.fresh_process import look


@dataclass(frozen=True, kw_only=True)
class Opened:
    """How a side is opened in another process, and the arrays that it answers on."""

    kind: str
    path: Path
    inputs: Path


def fresh_rounds(contest: Contest, rounds: int, batch: int, calls: int = 3) -> tuple[pd.DataFrame, str]:
    """One line a round and figure: ``original``, ``compressed``; the first of a round is the other one the next time.

    No line, and the reason in words, where a side cannot be opened elsewhere.
    """
    lines = []
    with TemporaryDirectory() as folder:
        try:
            sides = [_opened(side, Path(folder), batch) for side in contest.sides]
            for number in range(rounds):
                order = (0, 1) if number % 2 == 0 else (1, 0)
                taken = {
                    each: look(
                        sides[each].kind, sides[each].path, sides[each].inputs, calls=calls, threads=contest.threads
                    )
                    for each in order
                }
                lines += [
                    {"round": number, "figure": figure, "original": taken[0][figure], "compressed": taken[1][figure]}
                    for figure in taken[0]
                ]
        except (RuntimeError, OSError, AttributeError) as error:
            return _table([]), str(error)[:300]
    return _table(lines), ""


def _table(lines: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(lines, columns=["round", "figure", "original", "compressed"])


def _opened(side: Side, folder: Path, batch: int) -> Opened:
    inputs = folder / f"{side.name}.npz"
    tokens = int(np.median(side.examples.lengths))
    given = sized_inputs(side.examples, batch, max(tokens, 2))
    np.savez(inputs, allow_pickle=False, **{name: each.numpy() for name, each in given.items()})
    path = side.path
    if path is not None and (path / MANIFEST).exists():
        manifest = read_manifest(path)
        onnx = manifest.form.runtime == "onnx"
        return Opened(kind="onnx" if onnx else "deployed", path=path / manifest.file if onnx else path, inputs=inputs)
    if side.module is None:
        raise RuntimeError(f"nothing is at hand that another process could open as the {side.name}")
    if path is None:
        path = folder / side.name
        side.module.save_pretrained(path)
    cls = type(side.module)
    return Opened(kind=f"{cls.__module__}:{cls.__qualname__}", path=path, inputs=inputs)
