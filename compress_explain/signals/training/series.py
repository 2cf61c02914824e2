"""The checkpoints of a training in their order, and whether they can be looked at beside one another."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compress_explain.errors import InputError
from compress_explain.model.loading import load_subject
from compress_explain.record.ledger import file_digest

Load = Callable[[Path], PreTrainedModel]  # from a checkpoint's folder to the model as it was trained
_STEP = re.compile(r"(\d+)$")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_READ_BY = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder that ``save_pretrained`` wrote, and after how many optimizer steps."""

    step: int
    path: Path

    @property
    def digest(self) -> str:
        """SHA-256 of its weights, or of the index where they lie in several files."""
        return file_digest(next(self.path / name for name in _WEIGHTS if (self.path / name).exists()))


@dataclass(frozen=True, kw_only=True)
class Series:
    """The checkpoints of one training by step; ``name`` is what it is called beside others."""

    name: str
    checkpoints: tuple[Checkpoint, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.checkpoints)

    @property
    def last(self) -> Checkpoint:
        return self.checkpoints[-1]

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(each.step for each in self.checkpoints)


def series_in(folder: Path) -> Series:
    """The folders ``checkpoint-STEP`` in ``folder``, as transformers' Trainer writes them.

    Raises:
        InputError: there are fewer than two, one has no weights, or they do not read text alike.
    """
    if not folder.is_dir():
        raise InputError("checkpoints", str(folder), "no such folder", f"check the path (from {Path.cwd()})")
    found = [path for path in folder.iterdir() if path.is_dir() and re.fullmatch(r"checkpoint-\d+", path.name)]
    if not found:
        problem = "no folder checkpoint-STEP is in it"
        raise InputError("checkpoints", str(folder), problem, "give the output folder of a training that saved some")
    return series_of(found, folder.name)


def series_of(folders: Iterable[Path], name: str) -> Series:
    """Some folders as one training: by the number that their names end with, or in their order if any has none.

    Raises:
        InputError: there are fewer than two, two of one step, one has no weights, or they do not read text alike.
    """
    paths = [Path(each) for each in folders]
    ends = [_STEP.search(path.name) for path in paths]
    numbers = [int(end[1]) if end else -1 for end in ends]
    steps = numbers if min(numbers, default=0) >= 0 else list(range(len(paths)))
    found = sorted((Checkpoint(step=step, path=path) for step, path in zip(steps, paths, strict=True)), key=_by_step)
    if len(found) < 2:
        problem = f"holds {len(found)} checkpoint, and how signals move takes two"
        raise InputError("checkpoints", name, problem, "save more often while training")
    if len(set(steps)) < len(steps):
        twice = next(step for step in steps if steps.count(step) > 1)
        raise InputError("checkpoints", name, f"two are of step {twice}", "leave one of them out")
    for each in found:
        _check_weights(each.path)
    _check_alike(found)
    return Series(name=name, checkpoints=tuple(found))


def loaded_for(task: str) -> Load:
    """Loads checkpoints with the head for ``task``, of whatever family."""
    return lambda path: load_subject(str(path), task, any_family=True).model


def check_beside(series: Series, others: Sequence[Series]) -> None:
    """Whether other seeds can be set beside a training.

    Raises:
        InputError: one has no step in common with it, or reads text otherwise.
    """
    for other in others:
        if not set(series.steps) & set(other.steps):
            problem = f"none of its steps ({_listed(other.steps)}) is one of {series.name} ({_listed(series.steps)})"
            raise InputError("seeds", other.name, problem, "save checkpoints of all seeds after the same steps")
        _check_alike([series.last, other.last])


def _by_step(checkpoint: Checkpoint) -> int:
    return checkpoint.step


def _check_weights(path: Path) -> None:
    if not any((path / name).exists() for name in _WEIGHTS) or not (path / "config.json").exists():
        problem = f"holds no model: {_WEIGHTS[0]} or config.json is missing"
        raise InputError("checkpoints", str(path), problem, "leave it out, or save it anew with save_pretrained")


def _check_alike(checkpoints: Sequence[Checkpoint]) -> None:
    """All must be of one shape and read text by one vocabulary; a tokenizer that is not there is not asked for."""
    first = checkpoints[0]
    for name, read in (("vocab_size", _config), ("vocabulary", _vocabulary), ("hidden_size", _config)):
        expected = read(first.path, name)
        for other in checkpoints[1:]:
            told = read(other.path, name)
            if told is not None and expected is not None and told != expected:
                problem = f"its {name} is not that of {first.path}"
                raise InputError("checkpoints", str(other.path), problem, "give checkpoints of one training")


def _config(path: Path, name: str) -> Any:
    return json.loads((path / "config.json").read_text()).get(name)


def _vocabulary(path: Path, name: str) -> Any:
    file = path / _READ_BY
    return json.loads(file.read_text())["model"].get("vocab") if file.exists() else None


def _listed(steps: Sequence[int]) -> str:
    shown = ", ".join(map(str, steps[:6]))
    return shown if len(steps) <= 6 else f"{shown}, …"
