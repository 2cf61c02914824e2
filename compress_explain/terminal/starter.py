"""A commented configuration to start from, filled in for a given model and data file."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader

from compress_explain.data.sources import read_rows
from compress_explain.errors import InputError
from compress_explain.model.loading import read_config
from compress_explain.model.tasks import TASKS, task_of

_INPUTS = ("text", "sentence", "sentence1", "content", "review", "image", "path")
_COLUMNS = {
    "tokens": ("tokens", "words", "text", "sentence"),
    "tags": ("tags", "ner_tags", "pos_tags", "labels", "label"),
    "question": ("question", "query"),
    "answers": ("answers", "answer"),
}
_LABELS = ("label", "labels", "class", "target", "label_name")


def starter_config(model: str, data: Path) -> str:
    """YAML text. The three splits are parts of the one file given.

    Raises:
        InputError: the model or the file cannot be read, or no text and label columns are found.
    """
    config = read_config(model)
    frame = read_rows("data", str(data))
    task = TASKS["image-classification"] if config.model_type == "vit" else task_of((config.architectures or [""])[0])
    text = _find(frame, data, _COLUMNS.get(task.input, _INPUTS), "input")
    label = None if task.label is None else _find(frame, data, _COLUMNS.get(task.label, _LABELS), "label")
    template = Environment(
        loader=PackageLoader("compress_explain.terminal"), trim_blocks=True, autoescape=False
    ).get_template("starter.yaml")
    return template.render(
        model=json.dumps(model), task=task.name, data=data, text=json.dumps(text), label=label and json.dumps(label),
        decides=task.decides, reads=task.reads, columns=_slice_columns(frame, {text, label}), rows=len(frame),
    )  # fmt: skip


def _find(frame: pd.DataFrame, path: Path, names: tuple[str, ...], key: str) -> str:
    for name in names:
        if name in frame.columns:
            return name
    columns = ", ".join(map(str, frame.columns))
    raise InputError(
        "data",
        str(path),
        f"no {key} column found among {columns}",
        f"rename one to {names[0]}, or write data.{key} by hand",
    )


def _slice_columns(frame: pd.DataFrame, taken: set[str | None]) -> list[str]:
    """Columns with few values and none missing: what people usually want to see apart."""
    return [
        str(name)
        for name in frame.columns
        if name not in taken
        and name not in _LABELS
        and pd.api.types.is_scalar(frame[name].iloc[0])
        and 2 <= frame[name].nunique() <= 12
        and not frame[name].isna().any()
    ]
