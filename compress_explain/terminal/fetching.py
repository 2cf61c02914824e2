"""What commands bring from a registry: models by their address, and the champion."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compress_explain.evaluating.opening import Fetch
from compress_explain.plugins.catalog import REGISTRIES
from compress_explain.plugins.registry import Fetching
from compress_explain.progress import Progress
from compress_explain.record.champion import Champion, read_champion


@dataclass(frozen=True, kw_only=True)
class Store:
    """The MLflow store; what comes from it lies in ``folder``."""

    folder: Path

    @property
    def model(self) -> Fetch:
        return lambda address: _fetcher().fetch_model(address, self.folder)

    def champion(self, source: str | None, progress: Progress) -> Champion | None:
        """What ``source`` names; None, and said so, where nothing has been released under that name yet."""
        if source is None or Path(source).exists():
            return None if source is None else read_champion(Path(source), source)
        found = _fetcher().fetch_predictions(source, self.folder)
        if found is None:
            progress.say(f"champion: {source} names no version yet, so gates against it are left out")
            return None
        return read_champion(found, source)


def _fetcher() -> Fetching:
    registry: Fetching = REGISTRIES.build("mlflow", {})
    return registry


@contextmanager
def fetching() -> Iterator[Store]:
    """The store, with a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Store(folder=Path(folder))
