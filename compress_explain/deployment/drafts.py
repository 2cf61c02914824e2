"""ONNX Runtime's quantizers write files, print and log to the root logger: here they do none of it."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import ModelProto


def drafted(quantizer: Callable[[Path], object]) -> ModelProto:
    """What ``quantizer`` writes to the path that it is given, in memory."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            draft = Path(folder) / "draft.onnx"
            quantizer(draft)
            return onnx.load(draft)
    finally:
        logging.disable(before)
