"""The rows, by their ``model_type``, and the architectures that are refused."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from compress_explain.errors import InputError, did_you_mean
from compress_explain.families.parts import Family

_FAMILIES: dict[str, Family] = {}
_REFUSED: dict[str, str] = {}


def register(family: Family) -> None:
    """Add a row. A ``model_type`` that is already there is a mistake, not an override.

    Raises:
        ValueError: the ``model_type`` is taken.
    """
    _must_be_free(family.model_type)
    _FAMILIES[family.model_type] = family


def refuse(model_type: str, reason: str) -> None:
    """Say why an architecture cannot have a row.

    Raises:
        ValueError: the ``model_type`` is taken.
    """
    _must_be_free(model_type)
    _REFUSED[model_type] = reason


def families() -> Mapping[str, Family]:
    """Every known family by its ``model_type``, read-only."""
    return MappingProxyType(_FAMILIES)


def refused() -> Mapping[str, str]:
    """Why some architectures are refused, by ``model_type``, read-only."""
    return MappingProxyType(_REFUSED)


def family_of(model_type: str) -> Family:
    """The row for ``model_type``.

    Raises:
        InputError: no such row; the message lists the rows and how to add one, or says why there is none.
    """
    if model_type in _REFUSED:
        raise InputError("model", model_type, _REFUSED[model_type], f"give one of: {', '.join(sorted(_FAMILIES))}")
    try:
        return _FAMILIES[model_type]
    except KeyError:
        raise InputError(
            "model",
            model_type,
            "this architecture's anatomy is not known",
            f"{did_you_mean(model_type, _FAMILIES)}; to add one, describe where its linears lie in a "
            "compress_explain.families.Family and call compress_explain.families.register(family)",
        ) from None


def _must_be_free(model_type: str) -> None:
    if model_type in _FAMILIES or model_type in _REFUSED:
        raise ValueError(f"family {model_type!r} is already registered")
