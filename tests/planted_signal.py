"""A text model into which two signals were planted by hand, each carried to the first token by one head of its own.

Head 0 of layers 0 and 1 carries the task: whether a word of praise or of blame is there. Head 1 of layer 1 carries an attribute that the task
does not need: whether somebody is named. There are more words than the stream has coordinates, so that which of them are names is
something that a model has to know. Every other head, and all feed-forward sublayers, do a little of nothing in particular.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from tests.small_job import BAD, GOOD, word_tokenizer

TASK_HEADS = ("encoder.layer.0.attention.head.0", "encoder.layer.1.attention.head.0")
ATTRIBUTE_HEAD = "encoder.layer.1.attention.head.1"
LAYERS, HEADS, SIZE = 3, 4, 8
NAMES, OTHERS = [f"name{number}" for number in range(120)], [f"word{number}" for number in range(240)]
WIDTH = HEADS * SIZE
_PRAISE, _NAME, _CARRIED, _NAMED = range(4)  # coordinates of the stream
_GAIN = 12.0


def sentences(rows: int, seed: int) -> pd.DataFrame:
    """Sentences with one telling word; in half of them there is a name, whatever the label."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(rows):
        label, named = int(rng.integers(2)), bool(rng.integers(2))
        words = list(rng.choice(OTHERS, int(rng.integers(8, 14))))
        for word in (rng.choice(GOOD if label else BAD), rng.choice(NAMES if named else OTHERS)):
            words.insert(int(rng.integers(len(words) + 1)), str(word))
        made.append({"text": f"{' '.join(words)} {seed}x{index}", "label": label, "named": named})
    return pd.DataFrame(made)


def planted_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    return word_tokenizer([*GOOD, *BAD, *NAMES, *OTHERS])


def planted_model() -> BertForSequenceClassification:
    """Three layers of four heads, width 32."""
    torch.manual_seed(0)
    tokenizer = planted_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=32,
        max_position_embeddings=32, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1},
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.05 * torch.randn_like(parameter))
        words = model.bert.embeddings.word_embeddings.weight
        words.copy_(0.6 * torch.randn_like(words))
        words[:, :4] = 0.0
        for word in GOOD + BAD:
            words[tokenizer.convert_tokens_to_ids(word), _PRAISE] = 2.0 if word in GOOD else -2.0
        words[tokenizer.convert_tokens_to_ids(NAMES), _NAME] = 2.0
        model.bert.embeddings.position_embeddings.weight.mul_(0.2)
        for layer in range(LAYERS):
            attention = model.bert.encoder.layer[layer].attention
            for linear in (attention.self.query, attention.self.key, attention.self.value, attention.output.dense):
                linear.bias.zero_()
            attention.output.dense.weight[:4].zero_()
            model.bert.encoder.layer[layer].output.dense.weight[:4].zero_()
        for head in TASK_HEADS:
            _carry(model, head, _PRAISE, _CARRIED)
        _carry(model, ATTRIBUTE_HEAD, _NAME, _NAMED)
        model.bert.pooler.dense.weight.zero_()
        model.bert.pooler.dense.bias.zero_()
        model.bert.pooler.dense.weight[0, _CARRIED] = 2.0
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        model.classifier.weight[:, 0] = torch.tensor([-3.0, 3.0])
    return model


def _carry(model: BertForSequenceClassification, head: str, source: int, target: int) -> None:
    """Let a head look everywhere alike and write one coordinate of what it sees to another."""
    layer, number = int(head.split(".")[2]), int(head.split(".")[-1])
    rows = slice(number * SIZE, (number + 1) * SIZE)
    attention = model.bert.encoder.layer[layer].attention
    for linear in (attention.self.query, attention.self.key, attention.self.value):
        linear.weight[rows].zero_()
    attention.self.value.weight[number * SIZE, source] = 1.0
    attention.output.dense.weight[:, rows].zero_()
    attention.output.dense.weight[target, number * SIZE] = _GAIN


def planted_job(folder: Path, *, heads: float, gates: list[dict[str, object]]) -> Path:
    """Model, data and a configuration that removes a share of all heads, the cheapest first."""
    planted_model().save_pretrained(folder / "model")
    planted_tokenizer().save_pretrained(folder / "model")
    for name, rows, seed in (("calibration", 400, 1), ("validation", 300, 2), ("test", 300, 3)):
        sentences(rows, seed).to_csv(folder / f"{name}.csv", index=False)
    config = {
        "model": str(folder / "model"),
        "task": "text-classification",
        "data": {name: str(folder / f"{name}.csv") for name in ("calibration", "validation", "test")},
        "slices": {"named": {"where": "named"}},
        "strategies": [{"heads": {"share": heads, "rounds": 1}}],
        "evaluators": ["quality", {"signals": {"parts": ["probes", "cka", "patching"], "resamples": 200}}],
        "gates": gates,
        "out": str(folder / "run"),
        "registries": [],
        "compensation": None,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
