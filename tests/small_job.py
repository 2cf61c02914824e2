"""A whole job in miniature: a tiny text model trained on made-up sentences, its data, its configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from compress_explain.config import Config, load_config
from compress_explain.data.loading import Splits, load_splits
from compress_explain.model.loading import Subject, load_subject

GOOD = ["good", "great", "fine", "lovely", "bright"]
BAD = ["bad", "poor", "dull", "dreary", "grim"]
FILLER = ["the", "a", "film", "plot", "scene", "actor", "was", "is", "and", "very", "quite", "not"]


def sentences(rows: int, seed: int) -> pd.DataFrame:
    """Sentences whose label is that of their one telling word, turned around by a "not"."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        label = int(generator.integers(2))
        length = int(generator.integers(4, 14))
        words = list(generator.choice(FILLER[:-1], length))
        negated = generator.random() < 0.25
        telling = str(generator.choice(GOOD if label != negated else BAD))
        words.insert(int(generator.integers(length)), f"not {telling}" if negated else telling)
        source = str(generator.choice(["web", "paper"]))
        made.append({"text": f"{' '.join(words)} {seed}{len(made)}", "label": label, "source": source})
    return pd.DataFrame(made)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer([*GOOD, *BAD, *FILLER])


def word_tokenizer(known: list[str]) -> PreTrainedTokenizerFast:
    """One token a word, all others unknown."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *known]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    )


def trained_model(tokenizer: PreTrainedTokenizerFast) -> BertForSequenceClassification:
    """A two-layer BERT that has learned the sentences (a few seconds)."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=32, num_labels=2, id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1}, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    frame = sentences(600, seed=1)
    encoded = tokenizer(frame["text"].tolist(), padding=True, return_tensors="pt")
    labels = torch.tensor(frame["label"].to_numpy())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(12):
        for rows in torch.randperm(len(labels)).split(50):
            inputs = {name: values[rows] for name, values in encoded.items()}
            optimizer.zero_grad()
            model(**inputs, labels=labels[rows]).loss.backward()
            optimizer.step()
    return model.eval()


def small_job_files(folder: Path) -> Path:
    """Write model, data and ``config.yaml`` into ``folder``; the job takes a few seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "model")
    trained_model(tokenizer).save_pretrained(folder / "model")
    torch.set_num_threads(threads)
    for name, rows, seed in (("calibration", 200, 2), ("validation", 160, 3), ("test", 160, 4)):
        sentences(rows, seed).to_csv(folder / f"{name}.csv", index=False)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return folder


def loaded_small_job(folder: Path) -> tuple[Config, Subject, Splits]:
    """Its files, written into ``folder`` and read again."""
    small_job_files(folder)
    splits = [f"data.{name}={folder / name}.csv" for name in ("calibration", "validation", "test")]
    config = load_config(folder / "config.yaml", [*splits, f"model={folder / 'model'}"])
    subject = load_subject(config.model, config.task)
    return config, subject, load_splits(config.data_spec(), config.slice_rules(), subject, seed=0)


CONFIG = {
    "model": "model",
    "data": {"calibration": "calibration.csv", "validation": "validation.csv", "test": "test.csv"},
    "slices": {"label": {"column": "label"}, "source": {"column": "source"}, "long": {"where": "words > 9"}},
    "strategies": [{"heads": {"share": 0.5}}, {"neurons": {"share": 0.8, "rounds": 2}}],
    "gates": [
        {"metric": "accuracy", "max_drop": 0.1, "rule": "point"},
        {"metric": "accuracy", "slice": "*", "max_drop": 0.1, "rule": "point"},
    ],
    "compensation": None,
    "registries": [],
    "out": "out",
}
