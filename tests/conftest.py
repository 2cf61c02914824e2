"""Every test runs offline, and on one thread: sums come out in the same order everywhere."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that one process is not left with them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("shared") is None)
