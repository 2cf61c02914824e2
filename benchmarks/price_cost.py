"""What a price costs, in evaluations of the model on the same rows, beside what others' scores cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import peers
import torch
from clock import Action, Timing, interleaved
from figures import Bar, Row, beside
from subjects import Case

from compress_explain.comparison.predictions import predict
from compress_explain.data.examples import ALL, Examples
from compress_explain.pricing import Prices, Refinement, price, read_menu

_LINEARS, _HEADS, _WHOLES = "price heads + neurons + int8 + int4", "price heads, two-phase", "price sublayers + layers"


def cost(case: Case, repeats: int) -> list[Row]:
    """One row a step: its seconds, and how many evaluations would have taken as long."""
    timings = interleaved(_steps(case), lambda: evaluate(case, case.examples), repeats)
    return [_row(case, *each) for each in timings.items()]


def evaluate(case: Case, examples: Examples) -> None:
    """One evaluation pass: the logits of every row."""
    if not case.tokenwise:
        predict(case.model, examples, case.batch_size)
        return
    with torch.inference_mode():
        for batch in examples.batches(case.batch_size):
            case.model(**batch.inputs)


def pricing(case: Case, examples: Examples, menu: str, refinement: Refinement | None = None) -> Callable[[], Prices]:
    """Pricing of ``menu``, yet to be done."""
    chosen = read_menu(case.masks.anatomy, menu)
    return lambda: price(case.masks, examples, menu=chosen, batch_size=case.batch_size, refinement=refinement)


def _steps(case: Case) -> dict[str, Action]:
    whole = replace(case.examples, slices={ALL: case.examples.slices[ALL]}, token_slices={})
    ours: dict[str, Action] = {
        "price heads + neurons": pricing(case, case.examples, "heads,neurons"),
        _LINEARS: pricing(case, case.examples, "heads,neurons,linears:int8,linears:int4", Refinement(heads=0)),
        _WHOLES: pricing(case, case.examples, "sublayers,layers"),
    }
    if case.tokenwise:
        ours["price heads + neurons, no slices of tokens"] = pricing(case, whole, "heads,neurons")
    else:
        ours[_HEADS] = pricing(case, case.examples, "heads", Refinement())
    how = {"loss": case.loss, "batch_size": case.batch_size}
    return ours | {
        "Michel et al., no slices": lambda: peers.michel(case.masks, whole, **how),
        "Torch-Pruning Taylor, no slices": lambda: peers.taylor(case.masks, whole, **how),
        "Torch-Pruning magnitude": lambda: peers.magnitude(case.masks, whole),
    }


def _row(case: Case, what: str, timing: Timing) -> Row:
    return {
        "case": case.name,
        "what": what,
        "rows": len(case.examples),
        "seconds": timing.median,
        "evaluations": timing.ratio,
        "from": min(timing.ratios),
        "to": max(timing.ratios),
        **beside(timing.ratio, _bar(case, what)),
        "in CPU time": timing.cpu.ratio,
    }


def _bar(case: Case, what: str) -> Bar | None:
    limits = {_WHOLES: 12.0}
    if case.classes == 2:
        limits |= {_LINEARS: 4.5, _HEADS: 8.0}
    elif not case.tokenwise and case.classes <= 16:
        limits |= {_LINEARS: 3 + 1.3 * case.classes}
    return Bar(limits[what], at_least=False) if what in limits else None
