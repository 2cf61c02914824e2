"""Every strategy in its smallest form, the families that it is tried on, and what is written of what it leaves."""

from __future__ import annotations

from compress_explain.editing.dense import refuse_norms_after
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.plugins.strategy import Quantizing, Strategy
from compress_explain.strategies import (
    Distill,
    Half,
    Heads,
    Int8Dynamic,
    Int8Static,
    Layers,
    MixedPrecision,
    Neurons,
    Structured,
    Sublayers,
    WeightOnly,
)
from tests.tiny import CLASSIFIERS, EXPORTED, EXPORTED_LIKE, MODELS, NOT_EXPORTED, tiny_model, tiny_tokens
from tests.words import KINDS

SMALL: dict[str, Strategy] = {
    "heads": Heads(share=0.5, rounds=1),
    "neurons": Neurons(share=0.5, rounds=1),
    "structured": Structured(flops_kept=0.6),
    "sublayers": Sublayers(count=1),
    "layers": Layers(count=1),
    "distill": Distill(epochs=10, batch_size=12, learning_rate=5e-3, layers=2),
    "int8_dynamic": Int8Dynamic(),
    "int8_static": Int8Static(smooth=0.5),
    "weight_only": WeightOnly(block=16),
    "half": Half(embeddings=False),
    "mixed_precision": MixedPrecision(float_kept=0.4),
}
ELSEWHERE = {
    "vocabulary": "tests/test_vocabulary.py",  # it needs a tokenizer, of which the families share four kinds
    "low_rank": "tests/test_low_rank.py",  # it needs to know what enters linears
    "width": "tests/test_width.py",  # it needs to know where channels lie
}
NOT_NARROWED = {  # by the strategy width, and why
    "deberta-v2-own": "its convolution both reads the stream and writes to it",
    "clip-pair": "two towers with a stream each",
}
REMOVING = ("heads", "neurons", "structured", "sublayers", "layers")
QUANTIZING = tuple(name for name, strategy in SMALL.items() if isinstance(strategy, Quantizing))
UNLABELLED = "no labels to price on"


def artifacts(strategy: str, family: str) -> str:
    """What is tested of a strategy on a family, or why nothing is."""
    if family not in CLASSIFIERS:
        return f"no: {UNLABELLED}"
    if strategy == "vocabulary":
        if MODELS[family].reads != ("text",):
            return "no: it reads no tokens"
        return "checkpoint" if family in KINDS else "like those of its kind of tokenizer"
    if strategy == "width" and family in NOT_NARROWED:
        return f"no: {NOT_NARROWED[family]}"
    if strategy == "distill":
        return "cut out"
    if strategy in QUANTIZING:
        return _file(family) if family in EXPORTED else f"simulation; file {_file(family)}"
    dense = "no dense" if strategy == "width" or (strategy == "layers" and norms_after(family)) else "dense"
    return f"checkpoint, {dense}, {_file(family)}"


def norms_after(family: str) -> bool:
    """Whether a twin of zeros cannot stand for a layer that is gone."""
    try:
        refuse_norms_after(read_anatomy(tiny_model(family), tiny_tokens(family)))
    except InputError:
        return True
    return False


def _file(family: str) -> str:
    if family in EXPORTED:
        return "ONNX"
    return f"ONNX like {EXPORTED_LIKE[family]}" if family in EXPORTED_LIKE else f"no ONNX: {NOT_EXPORTED[family]}"
