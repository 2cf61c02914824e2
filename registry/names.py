"""Names that MLflow accepts, and the values that it stores under them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

LONGEST_VALUE = 500  # characters of a parameter; longer ones are in run.json
_PREFIX = "compress_explain."


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a metric: a headline figure has one at step 0, a curve has one a layer or step."""

    key: str
    value: float
    step: int = 0


def tag(name: str) -> str:
    """Our name for a tag: ``compress_explain.state``."""
    return _PREFIX + name


def slug(text: str) -> str:
    """``text`` with every character that a metric or model name may not hold replaced.

    >>> slug("label=très bien / 5%")
    'label_tr_s_bien_5'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-") or "unnamed"


def slugs(texts: Iterable[str]) -> dict[str, str]:
    """A slug for each text, numbered where two would be the same.

    >>> slugs(["words>5", "words<5"])
    {'words>5': 'words_5', 'words<5': 'words_5-2'}
    """
    chosen: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        name, number = slug(text), 1
        while name in chosen.values():
            number += 1
            name = f"{slug(text)}-{number}"
        chosen[text] = name
    return chosen


def points(values: dict[str, Any], limit: int | None = None) -> list[Point]:
    """The finite numbers among ``values`` as headline figures, the first ``limit`` of them."""
    finite = [Point(key=key, value=float(value)) for key, value in values.items() if is_finite(value)]
    return finite[:limit]


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def flattened(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as short parameters; positions in lists count from 1, what is None is left out.

    >>> dict(flattened({"seed": 0, "strategies": [{"name": "heads", "share": 0.5, "floor": None}]}))
    {'seed': '0', 'strategies.1.name': 'heads', 'strategies.1.share': '0.5'}
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flattened(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for position, inner in enumerate(value, start=1):
            yield from flattened(inner, f"{name}.{position}")
    elif value is not None and len(str(value)) <= LONGEST_VALUE:
        yield ".".join(slug(part) for part in name.split(".")), str(value)
