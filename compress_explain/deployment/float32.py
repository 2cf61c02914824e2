"""Linears as they are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from compress_explain.data.examples import Examples
from compress_explain.deployment.embeddings import EmbeddingBits
from compress_explain.deployment.facts import LinearFacts
from compress_explain.deployment.scheme import finish, open_source


@dataclass(frozen=True, kw_only=True)
class Float32:
    """Every linear in float32; ``embeddings`` is the bits of the tables."""

    embeddings: EmbeddingBits = 32

    @property
    def name(self) -> str:
        return "float32"

    def quantize(
        self, source: Path, target: Path, *, keep: Collection[str] = (), calibration: Examples | None = None
    ) -> dict[str, LinearFacts]:
        """Write ``target``; see :class:`~compress_explain.deployment.scheme.Scheme`. Needs no examples."""
        opened = open_source(source, keep)
        return finish(opened, opened.copy(), target, self.name, self.embeddings)
