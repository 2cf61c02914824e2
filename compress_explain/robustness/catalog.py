"""Every change of an input by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from compress_explain.robustness.images import IMAGE_CHANGES, ImageChange
from compress_explain.robustness.texts import TEXT_CHANGES, TextChange

CHANGES: Mapping[str, TextChange | ImageChange] = MappingProxyType({**TEXT_CHANGES, **IMAGE_CHANGES})
