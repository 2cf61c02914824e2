"""The compressed model as MLflow serves it. MLflow runs this file itself: nothing is pickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from transformers import AutoConfig, AutoTokenizer

from compress_explain import load_deployed
from compress_explain.checkpoint import read_manifest

BATCH = 32


class CompressedModel(PythonModel):
    """What was judged. Texts (a column ``text``) or pixels ``(n, channels, height, width)`` in, logits and a label a row out."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = context.artifacts["compressed"]
        self.compute = load_deployed(folder)
        self.config = AutoConfig.from_pretrained(folder)
        named = self.config.id2label or {}
        self.labels = [str(name) for _, name in sorted(named.items(), key=lambda entry: int(entry[0]))]
        self.reads_text = (
            getattr(transformers, read_manifest(Path(folder))["model_class"]).main_input_name == "input_ids"
        )
        self.tokenizer = AutoTokenizer.from_pretrained(folder) if self.reads_text else None

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,  # an array of pixels for images; MLflow accepts no union here
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        rows = self._rows(model_input)
        batches = [self._logits(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
        logits = np.concatenate(batches) if batches else np.zeros((0, len(self.labels)), dtype=np.float32)
        table = pd.DataFrame(logits, columns=[f"logit:{label}" for label in self.labels])
        return table.assign(label=[self.labels[best] for best in logits.argmax(1)])

    def _rows(self, model_input: Any) -> Any:
        if not self.reads_text:
            return np.asarray(model_input, dtype=np.float32)
        if not isinstance(model_input, pd.DataFrame):
            model_input = pd.DataFrame([row if isinstance(row, dict) else {"text": row} for row in model_input])
        texts = model_input["text"].explode()  # MLflow makes one cell of {"text": [several]}
        return [str(text) for text in texts]

    def _logits(self, rows: Any) -> np.ndarray:
        return self.compute(self._encoded(rows))

    def _encoded(self, rows: Any) -> dict[str, torch.Tensor]:
        if self.tokenizer is None:
            return {"pixel_values": torch.from_numpy(rows)}
        longest = getattr(self.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        limit = min(longest, self.tokenizer.model_max_length)
        return dict(self.tokenizer(rows, truncation=True, max_length=limit, padding=True, return_tensors="pt"))


set_model(CompressedModel())
