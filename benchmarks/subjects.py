"""What the benchmarks of pricing run on: three classifiers and a language model, each with its examples.

Two of the classifiers are fine-tuned text encoders that the caller has; the digits and the language
model are trained here, once, from data that comes with scikit-learn and with Python itself.
"""

from __future__ import annotations

import ast
import os
import platform
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

from compress_explain.data import DataSpec, encode_splits
from compress_explain.examples import Examples
from compress_explain.models import Subject, load_subject
from compress_explain.progress import Progress
from compress_explain.quickstart import digits_frames, digits_model, digits_splits
from compress_explain.slices import SliceRule
from compress_explain.sources import read_rows

STEPS, BATCH, CONTEXT = 1500, 16, 128  # of the language model's training
VOCABULARY = 2000
HELD_OUT = 400
SEED = 0
_END, _PAD = "<|end|>", "<|pad|>"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and the rows to price it on; ``tokenwise`` when every token is a prediction."""

    name: str
    model: PreTrainedModel = field(repr=False)
    examples: Examples = field(repr=False)
    tokenwise: bool = False


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model folder, with tokenizer, and the CSV of texts that it was not trained on."""

    model: Path
    data: Path


def sst2(models: Path, data: Path) -> Case:
    """Sentiment of film reviews: ``minilm-sst2`` on the 872 rows of ``sst2/dev.csv``."""
    frame = read_rows("data", str(data / "sst2" / "dev.csv"))
    return _text_case("sst2", models / "minilm-sst2", frame, ("label", "negation", "contrast", "len_bin"), 64)


def agnews(models: Path, data: Path, rows: int = 1000) -> Case:
    """Topic of news: ``minilm-agnews`` on ``rows`` rows drawn from ``agnews/test.csv``."""
    frame = read_rows("data", str(data / "agnews" / "test.csv"), limit=rows, seed=SEED)
    return _text_case("agnews", models / "minilm-agnews", frame, ("label", "wire"), 96)


def digits(cache: Path) -> Case:
    """The quickstart's vision transformer on its 500 test digits; trained into ``cache`` when it is not there."""
    frames = digits_frames()
    with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(cache)}):
        folder = digits_model(frames["training"], Progress())
    subject = load_subject(str(folder), "image-classification")
    return Case(name="digits", model=subject.model, examples=digits_splits(frames, subject).test)


def docstrings(cache: Path) -> Trained:
    """A small GPT-2 and 400 docstrings of Python's standard library, with ``domain``, their top-level module.

    It is trained on the other docstrings when ``cache`` does not hold it (some five minutes on one thread).
    """
    folder = cache / "compress-explain" / f"docstrings-gpt2-{STEPS}-{SEED}-python-{platform.python_version()}"
    trained = Trained(model=folder / "model", data=folder / "held_out.csv")
    if (trained.model / "model.safetensors").exists():
        return trained
    rows = library_docstrings()
    rows = rows.sample(frac=1, random_state=SEED, ignore_index=True)
    tokenizer = _tokenizer(rows["text"][HELD_OUT:].tolist())
    model = _train(tokenizer(rows["text"][HELD_OUT:].tolist())["input_ids"])
    trained.model.mkdir(parents=True, exist_ok=True)
    _commonest(rows[:HELD_OUT], "domain", 5).to_csv(trained.data, index=False)
    tokenizer.save_pretrained(trained.model)
    model.save_pretrained(trained.model)  # last: its presence says that all is there
    return trained


def _text_case(name: str, model: Path, frame: pd.DataFrame, columns: Sequence[str], max_length: int) -> Case:
    subject = load_subject(str(model), "text-classification")
    rules = [SliceRule(name=column, column=column) for column in columns]
    return Case(name=name, model=subject.model, examples=_one_split(frame, rules, max_length, subject))


def _one_split(frame: pd.DataFrame, rules: Sequence[SliceRule], max_length: int, subject: Subject) -> Examples:
    """All rows as one split; beside it stand two that exist only because three are asked for."""
    spec = DataSpec(calibration="-", validation="-", test="-", max_length=max_length)
    few = frame.drop_duplicates("label")
    aside = {name: few.assign(text=few["text"] + f" {name}") for name in ("calibration", "validation")}
    parts = {name: part.reset_index(drop=True) for name, part in {**aside, "test": frame}.items()}
    return encode_splits(parts, spec, rules, subject).test


def library_docstrings() -> pd.DataFrame:
    """Every docstring of the standard library longer than 60 characters, once, in order: ``text`` and ``domain``."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if skipped.isdisjoint(parts):
            for text in _docstrings_in(path):
                found.setdefault(text, parts[0].removesuffix(".py"))
    return pd.DataFrame(sorted(found.items()), columns=["text", "domain"])


def _docstrings_in(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a file that is broken on purpose
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if len(text) > 60:
                yield text


def _commonest(frame: pd.DataFrame, column: str, kept: int) -> pd.DataFrame:
    """The same rows with all but the ``kept`` commonest values of ``column`` called "other"."""
    counts = Counter(frame[column])
    common = sorted(counts, key=lambda value: (-counts[value], value))[:kept]
    return frame.assign(**{column: frame[column].where(frame[column].isin(common), "other")})


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE; every text begins with the token that ends the one before."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[_END, _PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{_END} $A", special_tokens=[(_END, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_END, eos_token=_END, pad_token=_PAD, model_max_length=CONTEXT
    )


def _train(encoded: list[list[int]]) -> GPT2LMHeadModel:
    """AdamW under a one-cycle rate on windows drawn from all texts in a row; no dropout."""
    stream = torch.tensor([token for tokens in encoded for token in tokens])
    generator = np.random.default_rng(SEED)
    torch.manual_seed(SEED)
    model = GPT2LMHeadModel(_config()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=STEPS)
    with Progress().track("training a language model on docstrings", STEPS) as advance:
        for _ in range(STEPS):
            starts = generator.integers(0, len(stream) - CONTEXT, BATCH).tolist()
            windows = torch.stack([stream[start : start + CONTEXT] for start in starts])
            logits = model(input_ids=windows, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            advance(1)
    return model.eval()


def _config() -> GPT2Config:
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=128,
        n_layer=4,
        n_head=8,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
