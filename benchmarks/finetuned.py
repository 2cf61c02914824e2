"""A text encoder fine-tuned under a new head, once, and kept in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from compress_explain.progress import Progress

SEED = 0


@dataclass(frozen=True, kw_only=True)
class Schooling:
    """AdamW under a one-cycle rate over all weights; texts are cut to ``max_length`` tokens."""

    epochs: int = 3
    batch: int = 32
    rate: float = 1e-4
    max_length: int | None = None

    def model(
        self, encoder: Path, texts: Sequence[str], labels: Sequence[int], names: Sequence[str], folder: Path
    ) -> Path:
        """``folder``, with the model trained when it is not there yet; its presence says that all is there."""
        if not (folder / "model.safetensors").exists():
            torch.manual_seed(SEED)
            tokenizer = AutoTokenizer.from_pretrained(encoder)
            model = self._trained(_with_new_head(encoder, names), tokenizer, list(texts), torch.tensor(list(labels)))
            tokenizer.save_pretrained(folder)
            model.save_pretrained(folder)
        return folder

    def _trained(
        self, model: PreTrainedModel, tokenizer: AutoTokenizer, texts: list[str], labels: torch.Tensor
    ) -> PreTrainedModel:
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.rate, weight_decay=0.01)
        steps = self.epochs * -(-len(texts) // self.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.rate, total_steps=steps, pct_start=0.1)
        with Progress().track("fine-tuning", self.epochs * len(texts)) as advance:
            for _ in range(self.epochs):
                for chosen in torch.randperm(len(texts)).split(self.batch):
                    given = [texts[row] for row in chosen.tolist()]
                    inputs = tokenizer(
                        given, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
                    )
                    torch.nn.functional.cross_entropy(model(**inputs).logits, labels[chosen]).backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    schedule.step()
                    advance(len(chosen))
        return model.eval()


def _with_new_head(encoder: Path, names: Sequence[str]) -> PreTrainedModel:
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
    )
    return model.train()
