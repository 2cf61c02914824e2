"""A small language model of docstrings, trained here, once, from the standard library that comes with Python."""

from __future__ import annotations

import ast
import platform
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from compress_explain.progress import Progress

STEPS, BATCH, CONTEXT = 1500, 16, 128
VOCABULARY = 2000
HELD_OUT = 400
CALIBRATION = 512
SEED = 0
_END, _PAD = "<|end|>", "<|pad|>"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model folder, with tokenizer, the CSV of texts that it was not trained on, and one of some that it was."""

    model: Path
    data: Path
    calibration: Path


def docstrings_model(cache: Path) -> Trained:
    """A small GPT-2 and 400 docstrings of Python's standard library, with ``domain``, their top-level module.

    It is trained on the other docstrings when ``cache`` does not hold it (some five minutes on one thread).
    """
    folder = cache / "compress-explain" / f"docstrings-gpt2-{STEPS}-{SEED}-python-{platform.python_version()}"
    trained = Trained(model=folder / "model", data=folder / "held_out.csv", calibration=folder / "calibration.csv")
    if trained.calibration.exists() and (trained.model / "model.safetensors").exists():
        return trained
    rows = library_docstrings()
    rows = rows.sample(frac=1, random_state=SEED, ignore_index=True)
    folder.mkdir(parents=True, exist_ok=True)
    rows[HELD_OUT : HELD_OUT + CALIBRATION].to_csv(trained.calibration, index=False)
    if (trained.model / "model.safetensors").exists():
        return trained
    tokenizer = _tokenizer(rows["text"][HELD_OUT:].tolist())
    model = _train(tokenizer(rows["text"][HELD_OUT:].tolist())["input_ids"])
    trained.model.mkdir(parents=True, exist_ok=True)
    _commonest(rows[:HELD_OUT], "domain", 5).to_csv(trained.data, index=False)
    tokenizer.save_pretrained(trained.model)
    model.save_pretrained(trained.model)  # last: its presence says that all is there
    return trained


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
