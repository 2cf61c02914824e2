"""Where the time of both models of a comparison goes, layer by layer, by turns in a few rounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from compress_explain.comparison.contest import Contest, Side
from compress_explain.comparison.scores import Score
from compress_explain.deployment.latency import sized_inputs
from compress_explain.deployment.layer_times import REST, Times, layer_table, onnx_times, torch_times
from compress_explain.deployment.manifest import MANIFEST
from compress_explain.deployment.manifest import read_manifest as read_files
from compress_explain.errors import InputError
from compress_explain.hardware.repeated import repeated_score
from compress_explain.model.anatomy import Anatomy, read_anatomy
from compress_explain.model.depth import shortened
from compress_explain.progress import Advance
from compress_explain.record.checkpoint import MANIFEST as COMPRESSED
from compress_explain.record.checkpoint import read_manifest, removed_flags

DOUBT = "timed under a profiler, which slows small operations most: it says where time goes, not how much passes"
_COLUMNS = ["round", "layer", "part", "original", "compressed", "why"]
Profiled = Callable[[], Times]


def layers_timed(contest: Contest, rounds: int, batch: int, calls: int, threads: int, advance: Advance) -> pd.DataFrame:
    """One line a part and round, milliseconds a call on ``batch`` rows of the split's median length.

    Where a model is of no known family, or a file of no runtime that tells, there are no lines but one that says ``why``.
    """
    try:
        sides = [_profiled(side, contest.original, batch, calls, threads) for side in contest.sides]
    except InputError as error:
        return pd.DataFrame([[0, "", "", np.nan, np.nan, str(error)]], columns=_COLUMNS)
    tables = []
    for number in range(rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        told = {place: sides[place]() for place in order}
        tables.append(layer_table(told[0], told[1]).assign(round=number, why=""))
        advance(len(contest.original.examples) // rounds)
    return pd.concat(tables, ignore_index=True)[_COLUMNS]


def layer_scores(measured: pd.DataFrame, confidence: float) -> list[Score]:
    """Of all linears together, and of everything else; in doubt, as everything under a profiler is."""
    known = measured[measured["part"] != ""]
    if known.empty:
        return []
    rest = known["part"] == REST
    return [
        repeated_score(
            f"layer_times.{name}",
            known[chosen].groupby("round", sort=True)[["original", "compressed"]].sum(),
            unit="ms",
            confidence=confidence,
            doubt=DOUBT,
        )
        for name, chosen in (("linears", ~rest), ("rest", rest))
    ]


def typical(measured: pd.DataFrame) -> pd.DataFrame:
    """One row a part: its median over the rounds."""
    known = measured[measured["part"] != ""]
    return known.groupby(["layer", "part"], sort=False)[["original", "compressed"]].median().reset_index()


def _profiled(side: Side, original: Side, batch: int, calls: int, threads: int) -> Profiled:
    if original.module is None:
        raise InputError("layer_times", original.name, "its layers are not at hand in torch", "give its folder")
    examples = side.examples
    inputs = sized_inputs(examples, batch, max(int(np.median(examples.lengths)), 2))
    anatomy = read_anatomy(original.module, tokens=1)
    if side.form.startswith("torch") and side.module is not None:
        return partial(torch_times, side.module, _anatomy(side, anatomy), inputs, calls=calls, threads=threads)
    if side.path is None or not side.form.startswith("onnx"):
        raise InputError("layer_times", side.form, "does not tell what it computes", "leave layer_times out")
    path = side.path
    if (path / MANIFEST).exists():
        path = path / read_files(path).file
    return partial(onnx_times, path, anatomy, inputs, calls=calls, threads=threads)


def _anatomy(side: Side, original: Anatomy) -> Anatomy:
    """With the original's names, where it is known what was made of them."""
    if side.name == "compressed" and side.path is not None and (side.path / COMPRESSED).exists():
        return shortened(original, removed_flags(original, read_manifest(side.path)["removed"]))
    assert side.module is not None, "asked for only where there is one"
    return read_anatomy(side.module, tokens=1)
