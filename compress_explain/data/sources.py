"""Where rows come from: a CSV, JSON, JSONL or Parquet file, or a data set of the Hugging Face hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from compress_explain.data.questions import flattened
from compress_explain.errors import InputError, did_you_mean

SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")


def read_rows(where: str, source: str, limit: int | None = None, seed: int = 0) -> pd.DataFrame:
    """The rows of ``source``: a file path, or ``dataset_id:split`` such as ``stanfordnlp/sst2:train[:2000]``.

    A file may carry a range of rows like a split does: ``rows.csv[:50%]``, ``rows.csv[200:400]``.
    With ``limit``, that many rows are drawn without replacement. ``where`` names the configuration
    key in messages. A cell "NA" stays the text "NA".

    Raises:
        InputError: the source is missing, unreadable, of an unknown type, or empty.
    """
    path, part = _split_range(source)
    if path.suffix in SUFFIXES:
        frame = _read_file(where, path)
        frame = frame[slice(*(_row(bound, len(frame)) for bound in part))]
    else:
        frame = _read_hub(where, source)
    if frame.empty:
        raise InputError(where, source, "no rows", "give a file with at least two rows a class")
    if limit is not None and limit < len(frame):
        frame = frame.sample(limit, random_state=seed)
    return frame.reset_index(drop=True)


def read_texts(where: str, source: str, column: str) -> list[str]:
    """The texts of ``source``: every line of a ``.txt`` file that is not empty, or a column of what :func:`read_rows` reads.

    Raises:
        InputError: the source cannot be read, has no texts, or no such column.
    """
    if Path(source).suffix != ".txt":
        frame = read_rows(where, source)
        if column not in frame.columns:
            known = did_you_mean(column, map(str, frame.columns))
            raise InputError(where, column, f"no such column in {source}", known)
        return frame[column].dropna().astype(str).tolist()
    try:
        lines = [line.strip() for line in Path(source).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read ({str(error).splitlines()[0]})"
        raise InputError(where, source, problem, "give a file of UTF-8 text") from None
    if not any(lines):
        raise InputError(where, source, "no texts", "give a file with a text on each line")
    return [line for line in lines if line]


_RANGE = re.compile(r"(?P<path>.+)\[(?P<start>\d*%?):(?P<stop>\d*%?)\]")


def _split_range(source: str) -> tuple[Path, tuple[str, str]]:
    match = _RANGE.fullmatch(source)
    return (Path(match["path"]), (match["start"], match["stop"])) if match else (Path(source), ("", ""))


def _row(bound: str, rows: int) -> int | None:
    """
    >>> _row("50%", 300), _row("20", 300), _row("", 300)
    (150, 20, None)
    """
    if not bound.rstrip("%"):
        return None
    return round(rows * int(bound[:-1]) / 100) if bound.endswith("%") else int(bound)


def _read_file(where: str, path: Path) -> pd.DataFrame:
    if not path.exists():
        raise InputError(where, str(path), "no such file", f"check the path (from {Path.cwd()})")
    try:
        match path.suffix:
            case ".csv":
                return pd.read_csv(path, keep_default_na=False, na_values=[""])
            case ".json":
                return _of_json(json.loads(path.read_text(encoding="utf-8")))
            case ".jsonl":
                return pd.read_json(path, lines=True, dtype_backend="numpy_nullable")
            case _:
                return pd.read_parquet(path)
    except PermissionError:
        raise InputError(where, str(path), "may not be read", "change its permissions") from None
    except IsADirectoryError:
        raise InputError(where, str(path), "is a folder", "name the file in it") from None
    except (KeyError, TypeError, AttributeError) as error:  # of JSON that has another form
        problem = f"neither a list of rows nor questions in the form of SQuAD ({type(error).__name__}: {error})"
        raise InputError(where, str(path), problem, "write one JSON object a line, as .jsonl") from None
    except (ValueError, OSError) as error:  # parser and Arrow errors are both
        problem = f"cannot be read as {path.suffix[1:]} ({str(error).splitlines()[0]})"
        raise InputError(where, str(path), problem, "check that the file is complete and UTF-8") from None


def _of_json(document: Any) -> pd.DataFrame:
    """A list of rows, or the questions of a document as SQuAD has them."""
    rows = document if isinstance(document, list) else flattened(document)
    return pd.DataFrame.from_records(rows).convert_dtypes()


def _read_hub(where: str, source: str) -> pd.DataFrame:
    identifier, _, split = source.partition(":")
    if not split or identifier.startswith((".", "/")):
        remedy = f"give a {', '.join(SUFFIXES)} file, or a hub data set as id:split"
        raise InputError(where, source, "neither a known file type nor a hub data set", remedy)
    import datasets

    try:
        loaded = datasets.load_dataset(identifier, split=split)
    except Exception as error:  # the hub client raises many unrelated types
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            where,
            source,
            f"the hub data set could not be loaded ({first})",
            "check id, split and network, or give a file",
        ) from None
    return loaded.to_pandas()
