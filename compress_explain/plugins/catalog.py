"""Finding strategies, evaluators and registries by name, ours through the same door as anybody's.

A package announces its own in ``[project.entry-points."compress_explain.strategies"]`` (or
``.evaluators``, ``.registries``). Names exist only in YAML and on the command line; the Python API
takes objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

from compress_explain.errors import InputError, did_you_mean
from compress_explain.plugins.evaluator import check_evaluator
from compress_explain.plugins.registry import check_registry
from compress_explain.plugins.strategy import check_strategy


class Catalog:
    """The plugins of one kind, loaded when they are first asked for."""

    def __init__(self, kind: str, check: Callable[[object], None]) -> None:
        self.kind, self.check = kind, check

    @cached_property
    def entries(self) -> dict[str, Any]:
        """Every announced name.

        Raises:
            InputError: two packages announce the same name.
        """
        found: dict[str, Any] = {}  # EntryPoints, of the standard library or of its backport
        for entry in entry_points(group=f"compress_explain.{self.kind}"):
            if entry.name in found and found[entry.name].value != entry.value:
                owners = f"{found[entry.name].value} and {entry.value}"
                raise InputError(
                    self.kind, entry.name, f"announced twice, by {owners}", "uninstall one of the packages"
                )
            found[entry.name] = entry
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.entries))

    def load(self, name: str) -> type:
        """The class behind ``name``.

        Raises:
            InputError: unknown, or its package does not import.
        """
        entry = self.entries.get(name) or self._of_class(name)
        if entry is None:
            raise InputError(self.kind, name, f"no such {self.kind}", did_you_mean(name, self.entries))
        try:
            loaded: Any = entry.load()
        except (ImportError, AttributeError) as error:
            raise InputError(
                self.kind, name, f"{entry.value} cannot be loaded ({error})", "repair its package"
            ) from None
        if not (isinstance(loaded, type) and is_dataclass(loaded)):
            raise InputError(f"{self.kind}: {name}", entry.value, "must be a frozen dataclass", "repair its package")
        return loaded

    def _of_class(self, name: str) -> Any:
        """What a record calls by its class, in small letters: ``coldstart`` is ``cold_start``."""
        return next((entry for known, entry in self.entries.items() if known.replace("_", "") == name), None)

    def build(self, name: str, options: dict[str, Any]) -> Any:
        """An object of the class behind ``name`` with ``options``, checked to be what it should be.

        Raises:
            InputError: an unknown option, a bad value, or a class that does not conform.
        """
        cls = self.load(name)
        known = [option.name for option in fields(cls)]
        for option in options:
            if option not in known:
                raise InputError(f"{self.kind}: {name}", option, "no such option", did_you_mean(option, known))
        try:
            built = cls(**options)
            self.check(built)
        except InputError:
            raise
        except TypeError as error:
            raise InputError(
                f"{self.kind}: {name}", options, str(error), "compare with the class's docstring"
            ) from None
        return built


def named(kind: str, entry: str | Mapping[str, dict[str, Any] | None]) -> tuple[str, dict[str, Any]]:
    """The name and the options of an entry in a list of YAML: a name alone, or a mapping of one name.

    Raises:
        InputError: it names several.
    """
    if isinstance(entry, str):
        return entry, {}
    if len(entry) != 1:
        raise InputError(kind, entry, "each entry names exactly one", "put each on a line of its own, after a dash")
    [(name, options)] = entry.items()
    return name, options or {}


STRATEGIES = Catalog("strategies", check_strategy)
EVALUATORS = Catalog("evaluators", check_evaluator)
REGISTRIES = Catalog("registries", check_registry)
