"""The compressed model as MLflow serves it. MLflow runs this file itself: nothing is pickled."""

from __future__ import annotations

from dataclasses import asdict
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
from compress_explain.deployment.answering import answered, continued, embedded, found_in, loss_of, of_words
from compress_explain.model.pooling import Pooling
from compress_explain.model.tasks import TEXT_TO_TEXT, task_of
from compress_explain.record.checkpoint import read_manifest

BATCH = 32
NEW_TOKENS = 20


class CompressedModel(PythonModel):
    """What was judged. Texts (a column ``text``) or pixels ``(n, channels, height, width)`` in, logits and a label a row out.

    What tags words gives one line a word, split at spaces, with the number of its ``row``. A language model
    gives the mean loss of each text (``nll``, nats a token) and its likeliest ``continuation`` of up to
    ``max_new_tokens``; what makes one text of another, its ``answer`` and the mean loss of that.
    Of a ``question`` and its ``context`` come the ``answer`` that stands there, its first character (``start``), the one after its last
    (``end``), and the mean loss of its first and last token. What embeds gives an array, a row a text.
    """

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
        self.task = task_of(read_manifest(Path(folder))["model_class"])
        made = read_manifest(Path(folder)).get("provenance", {}).get("pooling")
        self.pooling = None if made is None else Pooling(**made)
        self.how = read_manifest(Path(folder)).get("provenance", {}).get("answers", {})

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,  # an array of pixels for images; MLflow accepts no union here
        params: dict[str, Any] | None = None,
    ) -> Any:  # a table, or an array of embeddings
        if self.task.decides == "bound":
            return self._found(pd.DataFrame(model_input))
        rows = self._rows(model_input)
        if self.pooling is not None:
            given = self.compute, self.tokenizer
            return np.stack([embedded(*given, text, self._limit, self.pooling) for text in rows])
        if self.task.decides == "word":
            return self._tagged(rows)
        if self.task.decides == "token":
            return self._told(rows, int((params or {}).get("max_new_tokens", NEW_TOKENS)))
        batches = [self._logits(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
        logits = np.concatenate(batches) if batches else np.zeros((0, len(self.labels)), dtype=np.float32)
        table = pd.DataFrame(logits, columns=[f"logit:{label}" for label in self.labels])
        return table.assign(label=[self.labels[best] for best in logits.argmax(1)])

    def _found(self, asked: pd.DataFrame) -> pd.DataFrame:
        rows = asked[["question", "context"]].explode(["question", "context"])  # one cell may hold several
        found = [
            found_in(self.compute, self.tokenizer, str(question), str(context), self._limit, **self.how)
            for question, context in rows.itertuples(index=False)
        ]
        return pd.DataFrame([asdict(each) for each in found], columns=["answer", "start", "end", "nll"])

    def _tagged(self, texts: list[str]) -> pd.DataFrame:
        columns = [f"logit:{label}" for label in self.labels]
        parts = [pd.DataFrame({"row": [], "word": [], **{name: [] for name in columns}, "label": []})]
        for row, text in enumerate(texts):
            if not text.split():
                continue
            words, logits = of_words(self.compute, self.tokenizer, text, self._limit)
            part = pd.DataFrame(logits, columns=columns)
            part.insert(0, "word", words)
            part.insert(0, "row", row)
            parts.append(part.assign(label=[self.labels[best] for best in logits.argmax(1)]))
        return pd.concat(parts[1:] or parts, ignore_index=True)

    def _told(self, texts: list[str], tokens: int) -> pd.DataFrame:
        given = self.compute, self.tokenizer
        if self.task.name == TEXT_TO_TEXT:
            start = self.config.decoder_start_token_id
            made = [answered(*given, text, self._limit, tokens, start) for text in texts]
            return pd.DataFrame({"answer": [answer for answer, _ in made], "nll": [loss for _, loss in made]})
        return pd.DataFrame(
            {
                "nll": [loss_of(*given, text, self._limit) for text in texts],
                "continuation": [continued(*given, text, self._limit, tokens) for text in texts],
            }
        )

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
        encoded = self.tokenizer(rows, truncation=True, max_length=self._limit, padding=True, return_tensors="pt")
        return dict(encoded)

    @property
    def _limit(self) -> int:
        """How many tokens it reads at once."""
        assert self.tokenizer is not None, "only texts have tokens"
        longest = getattr(self.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        return int(min(longest, self.tokenizer.model_max_length))


set_model(CompressedModel())
