"""YAML documents from people: read, checked against a schema, and every fault put in our words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from compress_explain.errors import InputError, InputErrors, did_you_mean

Location = tuple[int | str, ...]  # keys and list positions that lead to a value


class Section(BaseModel):
    """A mapping of known keys; a key that it does not know is a fault."""

    model_config = ConfigDict(extra="forbid", strict=False, arbitrary_types_allowed=True)


def read_yaml(where: str, path: Path, remedy: str) -> Any:
    """The document in ``path``; ``remedy`` says what to do when there is no such file.

    Raises:
        InputError: the file is missing, unreadable, or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(where, str(path), "no such file", remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(where, str(path), f"cannot be read ({error})", "give a YAML file in UTF-8") from None
    except yaml.YAMLError as error:
        raise InputError(
            where, str(path), f"not valid YAML ({' '.join(str(error).split())})", "mend that line"
        ) from None


def explain(error: ValidationError, known: Callable[[Location], Iterable[str]]) -> InputError:
    """What a schema found wrong, all of it; ``known`` lists the keys that a place may hold."""
    faults = []
    for fault in error.errors():
        where = ".".join(map(str, fault["loc"])) or "config"
        if fault["type"] == "extra_forbidden":
            remedy = did_you_mean(str(fault["loc"][-1]), known(fault["loc"]))
            faults.append(InputError(where, fault["input"], "no such key", remedy))
        elif fault["type"] == "missing":
            faults.append(InputError(where, None, "this key is needed", f"add {fault['loc'][-1]}: …"))
        else:
            faults.append(
                InputError(where, fault["input"], fault["msg"], "see the commented file of: compress-explain init")
            )
    return together(faults)


def together(faults: list[InputError]) -> InputError:
    """One fault as it is, several as one error that shows them all."""
    return faults[0] if len(faults) == 1 else InputErrors(faults)
