"""Which keys lie beside each other, and which letters look like others."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_ROWS = (
    (0.0, "qwertyuiop"),
    (0.25, "asdfghjkl"),
    (0.75, "zxcvbnm"),
)  # of a QWERTY keyboard, each with its shift in keys
_REACH = 1.2  # keys between the middles of two that count as neighbours

_ALIKE = (
    ("acehijopsxy", "асеһіјорѕху"),  # Cyrillic
    ("v", "ν"),  # Greek
    ("ABCEHIJKMOPSTXY", "АВСЕНІЈКМОРЅТХУ"),  # Cyrillic
    ("NZ", "ΝΖ"),  # Greek
)


def _neighbours() -> dict[str, str]:
    places = {
        key: (shift + column, line) for line, (shift, keys) in enumerate(_ROWS) for column, key in enumerate(keys)
    }
    return {
        key: "".join(
            other
            for other, (x, y) in places.items()
            if other != key and (x - at[0]) ** 2 + (y - at[1]) ** 2 <= _REACH**2
        )
        for key, at in places.items()
    }


NEIGHBOURS: Mapping[str, str] = MappingProxyType(_neighbours())
LOOK_ALIKES: Mapping[str, str] = MappingProxyType(
    {letter: twin for letters, twins in _ALIKE for letter, twin in zip(letters, twins, strict=True)}
)
