"""Questions in miniature: made-up texts with answers in them, a tokenizer of pairs, models that find answers, a whole job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers as hf
import yaml
from tokenizers import processors
from transformers import BertConfig, BertForQuestionAnswering, PreTrainedTokenizerFast

from tests.small_job import BAD, FILLER, GOOD, tiny_tokenizer
from tests.tiny import MODELS

LIMIT = 40
TELLING = {"good": GOOD, "bad": BAD}
HEADS = {
    "bert": hf.BertForQuestionAnswering,
    "roberta": hf.RobertaForQuestionAnswering,
    "xlm-roberta": hf.XLMRobertaForQuestionAnswering,
    "electra": hf.ElectraForQuestionAnswering,
    "distilbert": hf.DistilBertForQuestionAnswering,
    "mpnet": hf.MPNetForQuestionAnswering,
    "deberta-v2": hf.DebertaV2ForQuestionAnswering,
    "deberta-v2-own": hf.DebertaV2ForQuestionAnswering,
    "modernbert": hf.ModernBertForQuestionAnswering,
}


def asking_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the small job, of pairs of texts too."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.model_max_length = LIMIT
    return tokenizer


def asked_rows(rows: int, seed: int, unanswered: float = 0.2) -> pd.DataFrame:
    """Questions for the telling words, one or two together, of a text that may have none.

    Answers as SQuAD has them.
    """
    generator = np.random.default_rng(seed)
    made = []
    for number in range(rows):
        kind = str(generator.choice(list(TELLING)))
        answer = "" if generator.random() < unanswered else " ".join(_some(generator, TELLING[kind], 1, 3))
        text = " ".join([*_some(generator, FILLER, 1, 8), answer, *_some(generator, FILLER, 1, 8), f"{seed}x{number}"])
        text = " ".join(text.split())
        start = text.index(f" {answer} ") + 1 if answer else -1
        answers = {"text": [answer] if answer else [], "answer_start": [start] if answer else []}
        source = str(generator.choice(["web", "paper"]))
        question = str(generator.choice(["was the film good ?", "was the plot bad ?"]))
        made.append({"question": question, "context": text, "answers": answers, "source": source, "kind": kind})
    return pd.DataFrame(made)


def _some(generator: np.random.Generator, words: list[str], least: int, most: int) -> list[str]:
    return [str(word) for word in generator.choice(words, int(generator.integers(least, most)))]


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """The same with answers as texts, and where they begin in a column of its own."""
    first = [(answers["text"][:1] or [""])[0] for answers in frame["answers"]]
    starts = [(answers["answer_start"][:1] or [None])[0] for answers in frame["answers"]]
    return frame.assign(answers=first, answer_start=pd.array(starts, dtype="Int64"))


def nested(frame: pd.DataFrame) -> dict[str, Any]:
    """The same as one document in the form of SQuAD; columns besides those are lost."""
    paragraphs = []
    for row in frame.to_dict("records"):
        pairs = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        asks = {"id": row["context"], "question": row["question"],
                "answers": [{"text": text, "answer_start": start} for text, start in pairs]}  # fmt: skip
        paragraphs.append({"context": row["context"], "qas": [asks]})
    return {"version": "2.0", "data": [{"title": "films", "paragraphs": paragraphs}]}


def finder(family: str, seed: int = 0) -> Any:
    """A random model in evaluation mode whose every parameter matters, of the tiny options of a family."""
    tiny = MODELS[family]
    config = tiny.config(**{**tiny.options, "vocab_size": 60})
    config._attn_implementation = tiny.kernels[-1]
    model = HEADS[family](config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.25 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if "norm" in name.lower() and name.endswith("weight") else noise)
    return model.eval()


def trained_finder(tokenizer: PreTrainedTokenizerFast) -> BertForQuestionAnswering:
    """A two-layer BERT that has learned to find the telling words (a few seconds)."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=LIMIT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForQuestionAnswering(config)
    frame = asked_rows(400, seed=1)
    encoded = tokenizer(
        frame["question"].tolist(), frame["context"].tolist(), padding=True, return_offsets_mapping=True,
        return_tensors="pt",
    )  # fmt: skip
    places = encoded.pop("offset_mapping")
    bounds = torch.zeros(len(frame), 2, dtype=torch.long)
    for row, answers in enumerate(frame["answers"]):
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            second = torch.tensor([owner == 1 for owner in encoded.sequence_ids(row)])
            inside = second & (places[row, :, 0] >= start) & (places[row, :, 1] <= start + len(text))
            bounds[row] = inside.nonzero().flatten()[[0, -1]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        for rows in torch.randperm(len(frame)).split(40):
            optimizer.zero_grad()
            inputs = {name: values[rows] for name, values in encoded.items()}
            start, end = bounds[rows].T
            model(**inputs, start_positions=start, end_positions=end).loss.backward()
            optimizer.step()
    return model.eval()


def asking_job(folder: Path, model: Any | None = None, rows: int = 40) -> Path:
    """Model, data and configuration of a job that finds answers; its splits hold them in different forms."""
    tokenizer = asking_tokenizer()
    tokenizer.save_pretrained(folder / "model")
    (model or trained_finder(tokenizer)).save_pretrained(folder / "model")
    asked_rows(rows, 2).to_parquet(folder / "calibration.parquet")
    asked_rows(rows, 3).to_json(folder / "validation.jsonl", orient="records", lines=True)
    flat(asked_rows(rows, 4)).to_csv(folder / "test.csv", index=False)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return folder


CONFIG = {
    "model": "model",
    "task": "question-answering",
    "data": {
        "calibration": "calibration.parquet", "validation": "validation.jsonl", "test": "test.csv",
        "empty_answers": "allow", "longest_answer": 6,
    },
    "slices": {"source": {"column": "source"}, "kind": {"column": "kind"}},
    "strategies": [{"heads": {"share": 0.5, "rounds": 1}}, {"neurons": {"share": 0.7, "rounds": 1}}],
    "gates": [
        {"metric": "exact_match", "max_drop": 0.2, "rule": "point"},
        {"metric": "token_f1", "slice": "*", "max_drop": 0.3, "rule": "point"},
        {"metric": "agreement", "min": 0.5, "rule": "point"},
        {"metric": "nll", "max_rise": 0.3, "rule": "point"},
    ],
    "reinstatement": {"max_rounds": 3, "trims": 1, "step": 0.2},
    "audit": {"heads": 1, "neurons": 2, "rows": 12},
    "batch_size": 20,
    "registries": [],
    "out": "out",
}  # fmt: skip


def as_json(frame: pd.DataFrame, path: Path) -> Path:
    """Written as one document in the form of SQuAD."""
    path.write_text(json.dumps(nested(frame)))
    return path
