"""Gates and waivers as people write them, in a configuration or in a file of their own."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from compress_explain.comparison.gates import Against, Gate, Undecided
from compress_explain.comparison.waivers import Waiver
from compress_explain.documents import Section, explain, read_yaml
from compress_explain.errors import InputError


class GateSection(Section):
    """The keys of one gate."""

    metric: str
    slice: str = "all"
    max_drop: float | None = None
    max_rise: float | None = None
    max_change: float | None = None
    min: float | None = None
    max: float | None = None
    rule: Literal["non-inferiority", "equivalence", "point"] | None = None
    against: Against = "original"
    on_inconclusive: Undecided = "hold"

    def build(self) -> Gate:
        """Raises InputError when the keys contradict each other."""
        return Gate(**self.model_dump())


class WaiverSection(Section):
    """The keys of one waiver."""

    metric: str
    slice: str = "all"
    who: str
    why: str
    until: str | date

    def build(self) -> Waiver:
        """Raises InputError when a key says nothing, or ``until`` is no day."""
        return Waiver(**{**self.model_dump(), "until": str(self.until)})


class _GateFile(Section):
    gates: list[GateSection] = Field(min_length=1)


def load_gates(path: Path) -> list[Gate]:
    """The gates of a YAML file: a list of them, or a mapping that has them under ``gates``, as a configuration does.

    Raises:
        InputError: the file cannot be read, holds no gates, or any of them is wrong.
    """
    document: Any = read_yaml("gates", path, f"check the path (from {Path.cwd()})")
    listed = document.get("gates") if isinstance(document, dict) else document
    if not isinstance(listed, list) or not listed:
        raise InputError("gates", str(path), "holds no gates", "write e.g. - {metric: accuracy, max_drop: 0.02}")
    try:
        sections = _GateFile.model_validate({"gates": listed}).gates
    except ValidationError as error:
        raise explain(error, lambda _: GateSection.model_fields) from None
    return [section.build() for section in sections]
