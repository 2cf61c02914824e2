"""The embedded job: a small vision transformer on real handwritten digits, trained here and compressed.

The digits are the 1,797 scans of 8 x 8 pixels that ship with scikit-learn (Alpaydin and Kaynak
1998, UCI Optical Recognition of Handwritten Digits). Nothing is downloaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification

from compress_explain.api import compress, publish
from compress_explain.comparison.gates import Gate
from compress_explain.data.loading import DataSpec, Splits, encode_splits
from compress_explain.data.slices import SliceRule
from compress_explain.errors import Exit
from compress_explain.model.loading import Subject, load_subject, quieten
from compress_explain.plugins.catalog import EVALUATORS, REGISTRIES, STRATEGIES
from compress_explain.plugins.evaluator import DEFAULT
from compress_explain.progress import Progress
from compress_explain.record.folder import free_folder
from compress_explain.record.outcome import Run
from compress_explain.running.reinstate import Reinstatement

EPOCHS = 40
SEED = 7
_BATCH = 32
_SPLIT = (797, 500, 500)  # training (calibration is drawn from it), validation, test


def quickstart(out: Path) -> Exit:
    """Train or load the digits model, compress it into ``out``, and show what happened."""
    from compress_explain.terminal.summary import print_places, print_run

    quieten()
    progress = Progress()
    registry = REGISTRIES.build("mlflow", {})
    registry.check()
    frames = digits_frames()
    model = digits_model(frames["training"], progress)
    run = compress_digits(model, frames, free_folder(out), progress)
    print_run(run)
    print_places(publish(run, [registry], progress))
    return run.exit_code


def compress_digits(model: Path, frames: dict[str, pd.DataFrame], out: Path, progress: Progress) -> Run:
    """The job itself: heads and neurons, slices by digit and ink, and gates that the first cut fails."""
    subject = load_subject(str(model), "image-classification")
    return compress(
        subject,
        digits_splits(frames, subject),
        strategies=[
            STRATEGIES.build("heads", {"share": 0.4, "rounds": 2}),
            STRATEGIES.build("neurons", {"share": 0.85, "rounds": 3}),
        ],
        evaluators=[EVALUATORS.build(name, {}) for name in DEFAULT],
        gates=[
            Gate(metric="accuracy", max_drop=0.06),
            Gate(metric="accuracy", slice="*", max_drop=0.1, rule="point"),
        ],
        compensation=None,
        # a digit has some fifty rows: leave room for the next fifty
        reinstatement=Reinstatement(reserve=0.75, step=0.03),
        out=out,
        seed=SEED,
        batch_size=64,
        progress=progress,
    )


def digits_frames() -> dict[str, pd.DataFrame]:
    """Training, validation and test rows: pixels ``(1, 8, 8)`` in [-1, 1], the digit, and its ink.

    ``ink`` is the share of the page that is dark, a measure of how thick the pen was.
    """
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    pixels = (digits.images[order] / 8.0 - 1.0).astype(np.float32)[:, None]
    frame = pd.DataFrame(
        {"image": list(pixels), "digit": digits.target[order], "ink": (pixels.mean((1, 2, 3)) + 1) / 2}
    )
    edges = np.cumsum(_SPLIT)
    parts = {"training": frame[: edges[0]], "validation": frame[edges[0] : edges[1]], "test": frame[edges[1] :]}
    return {name: part.reset_index(drop=True) for name, part in parts.items()}


def digits_splits(frames: dict[str, pd.DataFrame], subject: Subject) -> Splits:
    """The three splits, sliced by digit and by ink thickness."""
    spec = DataSpec(
        calibration="digits", validation="digits", test="digits", input="image", label="digit", overlap="drop"
    )
    rules = [SliceRule(name="digit", column="digit"), SliceRule(name="ink", column="ink", quantiles=4)]
    named = {"calibration": frames["training"], "validation": frames["validation"], "test": frames["test"]}
    return encode_splits(named, spec, rules, subject)


def digits_model(training: pd.DataFrame, progress: Progress) -> Path:
    """The folder of the trained model: from the cache, or trained now (about a minute)."""
    folder = _cache() / f"digits-vit-{EPOCHS}-{SEED}"
    if (folder / "model.safetensors").exists():
        progress.say(f"model: digits vision transformer, trained before ({folder})")
        return folder
    pixels = torch.from_numpy(np.stack(list(training["image"])))
    labels = torch.tensor(training["digit"].to_numpy())
    torch.manual_seed(SEED)
    model = ViTForImageClassification(_config())
    with progress.track("training a vision transformer on digits", EPOCHS * len(labels)) as advance:
        _train(model, pixels, labels, advance)
    from transformers import ViTImageProcessorPil

    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def _config() -> ViTConfig:
    return ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=256,
        num_labels=10,
        id2label={digit: str(digit) for digit in range(10)},
        label2id={str(digit): digit for digit in range(10)},
        initializer_range=0.1,  # the usual 0.02 suits wide models; at width 64 training would crawl
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def _train(model: ViTForImageClassification, pixels: torch.Tensor, labels: torch.Tensor, advance: Any) -> None:
    """AdamW under a one-cycle rate; in every other batch images are shifted by up to one pixel."""
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = EPOCHS * -(-len(labels) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    model.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels), generator=generator).split(_BATCH):
            shift = bool(torch.rand(1, generator=generator) < 0.5)
            images = _shifted(pixels[rows], generator) if shift else pixels[rows]
            loss = torch.nn.functional.cross_entropy(
                model(pixel_values=images).logits, labels[rows], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(len(rows))
    model.eval()


def _shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    offsets = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + 8, x : x + 8] for image, (y, x) in zip(padded, offsets, strict=True)])


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "compress-explain"
