"""Makes transformers smaller and says what was taken out, what that did, to whom, and what was put back.

Names are imported when they are first asked for, so that the command line, and what needs no more than numpy, start
at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress_explain.api import compress
    from compress_explain.choosing.target import Target
    from compress_explain.comparison.gates import Gate, Verdict, judge
    from compress_explain.comparison.predictions import Pairs
    from compress_explain.comparison.scores import Score
    from compress_explain.compensation import Compensation
    from compress_explain.data.examples import Examples
    from compress_explain.data.loading import DataSpec, Splits, load_splits
    from compress_explain.data.slices import SliceRule
    from compress_explain.editing.edits import Edit, Plan
    from compress_explain.editing.masks import Masks
    from compress_explain.errors import EditError, Exit, InputError, LedgerError, RunInterrupted
    from compress_explain.model.anatomy import Anatomy, read_anatomy
    from compress_explain.model.loading import Subject, load_subject
    from compress_explain.plugins.evaluator import Evaluator, check_evaluator
    from compress_explain.plugins.strategy import Situation, Strategy, check_strategy
    from compress_explain.pricing import Prices, price
    from compress_explain.record.checkpoint import load_compressed
    from compress_explain.record.ledger import Ledger
    from compress_explain.record.outcome import Run
    from compress_explain.record.replay import replay
    from compress_explain.running.opening import load_deployed
    from compress_explain.running.reinstate import Reinstatement
    from compress_explain.signals.training.callback import SignalsCallback

__all__ = [
    "Anatomy",
    "Compensation",
    "DataSpec",
    "Edit",
    "EditError",
    "Evaluator",
    "Examples",
    "Exit",
    "Gate",
    "InputError",
    "Ledger",
    "LedgerError",
    "Masks",
    "Pairs",
    "Plan",
    "Prices",
    "Reinstatement",
    "Run",
    "RunInterrupted",
    "Score",
    "SignalsCallback",
    "Situation",
    "SliceRule",
    "Splits",
    "Strategy",
    "Subject",
    "Target",
    "Verdict",
    "check_evaluator",
    "check_strategy",
    "compress",
    "judge",
    "load_compressed",
    "load_deployed",
    "load_splits",
    "load_subject",
    "price",
    "read_anatomy",
    "replay",
]

_HOMES = {
    "api": ("compress",),
    "choosing.target": ("Target",),
    "comparison.gates": ("Gate", "Verdict", "judge"),
    "comparison.predictions": ("Pairs",),
    "comparison.scores": ("Score",),
    "compensation": ("Compensation",),
    "data.examples": ("Examples",),
    "data.loading": ("DataSpec", "Splits", "load_splits"),
    "data.slices": ("SliceRule",),
    "editing.edits": ("Edit", "Plan"),
    "editing.masks": ("Masks",),
    "errors": ("EditError", "Exit", "InputError", "LedgerError", "RunInterrupted"),
    "model.anatomy": ("Anatomy", "read_anatomy"),
    "model.loading": ("Subject", "load_subject"),
    "plugins.evaluator": ("Evaluator", "check_evaluator"),
    "plugins.strategy": ("Situation", "Strategy", "check_strategy"),
    "pricing": ("Prices", "price"),
    "record.checkpoint": ("load_compressed",),
    "record.ledger": ("Ledger",),
    "record.outcome": ("Run",),
    "record.replay": ("replay",),
    "running.opening": ("load_deployed",),
    "running.reinstate": ("Reinstatement",),
    "signals.training.callback": ("SignalsCallback",),
}  # of every public name, the module


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            found: object = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
