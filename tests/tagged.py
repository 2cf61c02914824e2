"""Whole jobs in miniature for tasks that decide on words and tokens: tiny models, made-up rows, configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from tests.small_job import BAD, FILLER, GOOD, sentences, tiny_tokenizer

TAGS = ("O", "B-GOOD", "I-GOOD", "B-BAD", "I-BAD")
_NUMBER = {tag: number for number, tag in enumerate(TAGS)}
SPLITS = (("calibration", 80, 2), ("validation", 60, 3), ("test", 60, 4))


def tagged(rows: int, seed: int) -> pd.DataFrame:
    """Rows of words in which telling words, one or two in a row, are entities."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(rows):
        words, tags = [], []
        for _ in range(int(generator.integers(3, 6))):
            for word in generator.choice(FILLER, int(generator.integers(1, 3))):
                words, tags = [*words, str(word)], [*tags, "O"]
            kind, telling = ("GOOD", GOOD) if generator.random() < 0.5 else ("BAD", BAD)
            for place in range(int(generator.integers(1, 3))):
                words, tags = [*words, str(generator.choice(telling))], [*tags, f"{'BI'[place > 0]}-{kind}"]
        words, tags = [*words, f"{seed}x{number}"], [*tags, "O"]
        made.append({"tokens": words, "tags": tags, "source": str(generator.choice(["web", "paper"]))})
    return pd.DataFrame(made)


def trained_tagger(tokenizer: PreTrainedTokenizerFast) -> BertForTokenClassification:
    """A two-layer BERT that has learned the tags (a few seconds)."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=32, id2label=dict(enumerate(TAGS)), label2id=_NUMBER,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForTokenClassification(config)
    frame = tagged(200, seed=1)
    encoded = tokenizer(frame["tokens"].tolist(), is_split_into_words=True, padding=True, return_tensors="pt")
    labels = torch.full(encoded["input_ids"].shape, -100)
    for row, tags in enumerate(frame["tags"]):
        for place, word in enumerate(encoded.word_ids(row)):
            if word is not None:
                labels[row, place] = _NUMBER[tags[word]]
    _learn(model, dict(encoded), labels)
    return model.eval()


def _learn(model: Any, encoded: dict[str, torch.Tensor], labels: torch.Tensor, epochs: int = 8) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(25):
            optimizer.zero_grad()
            model(**{name: values[rows] for name, values in encoded.items()}, labels=labels[rows]).loss.backward()
            optimizer.step()


def tagging_job(folder: Path) -> Path:
    """Model, data and configuration of a job that tags words; some splits hold lists, some texts with spaces."""
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "model")
    trained_tagger(tokenizer).save_pretrained(folder / "model")
    tagged(*SPLITS[0][1:]).to_parquet(folder / "calibration.parquet")
    tagged(*SPLITS[1][1:]).to_json(folder / "validation.jsonl", orient="records", lines=True)
    texts = tagged(*SPLITS[2][1:])
    texts.assign(tokens=texts["tokens"].str.join(" "), tags=texts["tags"].str.join(" ")).to_csv(
        folder / "test.csv", index=False
    )
    endings = {"calibration": "parquet", "validation": "jsonl", "test": "csv"}
    config = _config("token-classification", {name: f"{name}.{ending}" for name, ending in endings.items()})
    config["gates"] = [
        {"metric": "entity_f1", "max_drop": 0.1, "rule": "point"},
        {"metric": "accuracy", "slice": "*", "max_drop": 0.1, "rule": "point"},
        {"metric": "nll", "max_rise": 0.05, "rule": "point"},
    ]
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def _config(task: str, data: dict[str, str]) -> dict[str, Any]:
    return {
        "model": "model",
        "task": task,
        "data": data,
        "slices": {"source": {"column": "source"}, "long": {"where": "words > 11"}},
        "strategies": [{"heads": {"share": 0.5, "rounds": 1}}, {"neurons": {"share": 0.8, "rounds": 1}}],
        "gates": [],
        "reinstatement": {"max_rounds": 3, "trims": 1, "step": 0.2},
        "audit": {"heads": 2, "neurons": 4, "rows": 16},
        "batch_size": 20,
        "registries": [],
        "out": "out",
    }


def rewriting_job(folder: Path, model: Any, tokenizer: Any, rows: int = 40) -> Path:
    """The same for a model that makes one text of another: the telling word, and what the row begins with."""
    tokenizer.save_pretrained(folder / "model")
    frame = rewritten(200, seed=1)
    encoded = tokenizer(frame["text"].tolist(), padding=True, return_tensors="pt")
    goals = tokenizer(text_target=frame["target"].tolist(), padding=True, return_tensors="pt")["input_ids"]
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    _learn(model.train(), inputs, torch.where(goals == tokenizer.pad_token_id, -100, goals), epochs=4)
    model.eval().save_pretrained(folder / "model")
    for name, _, seed in SPLITS:
        rewritten(rows, seed).to_csv(folder / f"{name}.csv", index=False)
    config = _config("text2text-generation", {name: f"{name}.csv" for name, _, _ in SPLITS})
    config["slices"]["long"] = {"where": "words > 9"}
    config["gates"] = [
        {"metric": "nll", "max_rise": 0.3, "rule": "point"},
        {"metric": "accuracy", "slice": "*", "max_drop": 0.2, "rule": "point"},
    ]
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def rewritten(rows: int, seed: int) -> pd.DataFrame:
    frame = sentences(rows, seed)
    telling = [next(word for word in text.split() if word in {*GOOD, *BAD}) for text in frame["text"]]
    return frame.drop(columns="label").assign(
        target=[f"{word} {text.split()[0]}" for word, text in zip(telling, frame["text"], strict=True)]
    )


def generation_job(folder: Path, model: Any, tokenizer: Any, rows: int = 40) -> Path:
    """The same for a causal language model."""
    tokenizer.save_pretrained(folder / "model")
    frame = sentences(200, seed=1)
    encoded = tokenizer(frame["text"].tolist())["input_ids"]
    width = max(map(len, encoded))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in encoded])
    seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in encoded])
    _learn(model.train(), {"input_ids": ids, "attention_mask": seen}, torch.where(seen == 1, ids, -100), epochs=4)
    model.eval().save_pretrained(folder / "model")
    for name, _, seed in SPLITS:
        sentences(rows, seed).drop(columns="label").to_csv(folder / f"{name}.csv", index=False)
    config = _config("text-generation", {name: f"{name}.csv" for name, _, _ in SPLITS})
    config["slices"]["long"] = {"where": "words > 9"}
    config["gates"] = [
        {"metric": "nll", "max_rise": 0.05, "rule": "point"},
        {"metric": "perplexity", "slice": "*", "max_rise": 0.8, "rule": "point"},
        {"metric": "accuracy", "max_drop": 0.1, "rule": "point"},
    ]
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder
