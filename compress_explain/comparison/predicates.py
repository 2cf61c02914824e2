"""Predicates over features of rows, as data: what discovery finds, and what can be checked anywhere in plain Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

Value = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One feature against one value.

    >>> str(Condition(feature="tokens", op=">", value=32)), str(Condition(feature="negation", op="=", value=True))
    ('tokens > 32', 'negation = yes')
    """

    feature: str
    op: Literal["=", ">", "<="]
    value: Value

    def __str__(self) -> str:
        return f"{self.feature} {self.op} {self.spoken}"

    @property
    def spoken(self) -> str:
        """The value as it is read: yes and no, numbers without needless digits."""
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        return f"{self.value:g}" if isinstance(self.value, float) else str(self.value)

    def of(self, values: np.ndarray) -> Bool[np.ndarray, " n"]:
        """Whether each of the feature's values meets it."""
        if self.op == "=":
            return np.asarray(values == self.value, dtype=bool)
        return np.asarray(values > self.value if self.op == ">" else values <= self.value, dtype=bool)


@dataclass(frozen=True, kw_only=True)
class Predicate:
    """Conditions that all hold.

    >>> both = (Condition(feature="words", op=">", value=20), Condition(feature="source", op="=", value="web"))
    >>> str(Predicate(conditions=both))
    'words > 20 & source = web'
    """

    conditions: tuple[Condition, ...]

    def __str__(self) -> str:
        return " & ".join(map(str, self.conditions))

    def of(self, features: Mapping[str, np.ndarray]) -> Bool[np.ndarray, " n"]:
        """The rows in which it holds."""
        return reduce(np.logical_and, (each.of(features[each.feature]) for each in self.conditions))

    def within(self, other: Predicate) -> bool:
        """Whether it says all that ``other`` says, and more."""
        return set(other.conditions) < set(self.conditions)

    def facts(self) -> list[dict[str, Any]]:
        """As plain values, one mapping a condition."""
        return [asdict(each) for each in self.conditions]

    @classmethod
    def of_facts(cls, facts: Iterable[Mapping[str, Any]]) -> Predicate:
        return cls(
            conditions=tuple(Condition(feature=each["feature"], op=each["op"], value=each["value"]) for each in facts)
        )
