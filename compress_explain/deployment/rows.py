"""Calibration rows as ONNX Runtime's quantizers ask for them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnxruntime.quantization import CalibrationDataReader

from compress_explain.data.examples import Examples

Feed = dict[str, np.ndarray]


class Rows(CalibrationDataReader):
    """Examples one by one, without padding, which is not data."""

    def __init__(self, examples: Examples, inputs: list[str]) -> None:
        self.feeds: list[Feed] = [
            {name: batch.inputs[name].numpy() for name in inputs} for batch in examples.batches(1)
        ]
        self.rewind()

    def __len__(self) -> int:
        return len(self.feeds)

    def get_next(self) -> Feed | None:
        return next(self._left, None)

    def rewind(self) -> None:
        self.set_range(0, len(self))

    def set_range(self, start_index: int, end_index: int) -> None:
        """Give only these rows: calibrators that stack what they see cannot take rows of different lengths at once."""
        self._left: Iterator[Feed] = iter(self.feeds[start_index:end_index])
