"""A table of findings as the evaluator on signals stores one, drawn up by hand: five signals, one of them lost late, one not to be told."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from compress_explain.signals.findings import Finding, as_table

HOSTILE = "attribute.<b>x</b>"
TASK, DECISION, QUALITY, NEGATION = "task", "decision", "quality", "attribute.negation"
UNTOLD = "the original shows no more of it than a control does (+0.001, -0.010 to +0.012)"
N, ROWS, HALF = 872, 128, 0.02


def depths(layers: int) -> list[str]:
    return ["embedding", *(f"encoder.layer.{number}" for number in range(layers))]


def findings(layers: int = 6) -> list[Finding]:
    """Everything; layers from the fifth on are what was compressed."""
    every = depths(layers)
    return [
        *_signal(TASK, every, top=0.95, left=0.93), *_signal(DECISION, every, top=1.0, left=0.998),
        *_signal(NEGATION, every, top=0.92, left=0.65), *_signal(HOSTILE, every, top=0.6, left=0.6, note=UNTOLD),
        *_quality(every), *_catches(), *_cka(every), *_patching(every), *_ablation(layers), *_attribution(), *_flow(every),
    ]  # fmt: skip


def table(layers: int = 6) -> pd.DataFrame:
    return as_table(findings(layers))


def told(part: str, figure: str, value: float, unit: str, n: int = ROWS, half: float = HALF, **more: str) -> Finding:
    """One finding with an interval of ``half`` to either side."""
    return Finding(part=part, figure=figure, value=value, low=value - half, high=value + half, unit=unit, n=n, **more)


def _rise(place: int, count: int) -> float:
    return 1 - math.exp(-4 * place / max(1, count - 1))


def _signal(name: str, every: list[str], top: float, left: float, note: str = "") -> Iterator[Finding]:
    count = len(every)
    for place, depth in enumerate(every):
        lost = (top - left) * max(0.0, place / (count - 1) - 0.5) * 2
        original = 0.5 + (top - 0.5) * _rise(place, count)
        shown = {
            "original": original,
            "compressed": original - lost,
            "random": 0.5 + 0.1 * _rise(place, count),
            "shuffled": 0.5,
        }
        for model, value in shown.items():
            yield told("probe", "auc", value, "AUC", N, signal=name, model=model, layer=depth)
        for model in ("original", "compressed"):
            above = shown[model] - shown["random"]
            yield told("probe", "selectivity", above, "AUC", N, signal=name, model=model, layer=depth)
        yield from _left(name, depth, lost, shown, "chosen" if place == count - 1 else "", note)


def _left(name: str, depth: str, lost: float, shown: dict[str, float], other: str, note: str) -> Iterator[Finding]:
    above = shown["original"] - shown["random"]
    why = note or (UNTOLD if above <= HALF else "")
    strict = 1 - lost / above if above > 0 else math.nan
    same = {"part": "retention", "unit": "share", "n": N, "signal": name, "layer": depth, "other": other}
    low, high = (math.nan, math.nan) if why else (strict - HALF, min(strict + HALF, 1.0 if lost else 2.0))
    yield Finding(figure="retained", value=math.nan if why else strict, low=low, high=high, note=why, **same)
    loose = 1 - lost / max(0.01, shown["original"] - 0.5)
    yield Finding(figure="retained_above_chance", value=loose, low=loose - HALF, high=loose + HALF, **same)


def _quality(every: list[str]) -> Iterator[Finding]:
    above = {"rho": 0.28, "rho_entropy": 0.14, "rho_output": 0.1, "rho_error": 0.08}
    for figure, top in above.items():
        models = (
            ("original", "compressed", "random", "shuffled") if figure == "rho_output" else ("original", "compressed")
        )
        for place, depth in enumerate(every):
            for model in models:
                value = top * _rise(place, len(every)) if model in ("original", "compressed") else 0.0
                yield told("probe", figure, value * (0.8 if model == "compressed" else 1), "rank correlation", N, 0.05,
                           signal=QUALITY, model=model, layer=depth)  # fmt: skip
    yield Finding(part="retention", figure="retained", value=0.8, low=0.4, high=1.3, unit="share", n=N, signal=QUALITY,
                  layer=every[-1], other="chosen")  # fmt: skip


def _catches() -> Iterator[Finding]:
    for rate, both, alone, chance, other in (("5%", 12, 2, 1.8, 20), ("10%", 20, 6, 3.2, 22), ("20%", 31, 25, 6.1, 12)):
        for model in ("original", "compressed"):
            for figure, value in zip(
                ("both", "exclusive", "only_confidence", "chance"), (both, alone, other, chance), strict=True
            ):
                yield Finding(
                    part="catches",
                    figure=figure,
                    value=value,
                    unit="decisions",
                    n=N,
                    signal=QUALITY,
                    model=model,
                    other=rate,
                )


def _cka(every: list[str]) -> Iterator[Finding]:
    count = len(every)
    for model in ("", "original", "compressed", "reference"):
        for i, one in enumerate(every):
            for j, other in enumerate(every):
                value = math.exp(-abs(i - j) / count * 2.5)
                value *= {"reference": 0.6, "": 1 - 0.35 * max(0.0, max(i, j) / (count - 1) - 0.6)}.get(model, 1.0)
                half = 0.01 if i == j and model in ("", "reference") else math.nan
                yield told("cka", "cka", value, "CKA", N, half, model=model, layer=one, other=other)


def _patching(every: list[str]) -> Iterator[Finding]:
    for name in ("all", "flipped", "negation"):
        for place, depth in enumerate(every):
            late = max(0.0, place / (len(every) - 1) - 0.6) / 0.4
            for site in ("layer", "attention", "feed_forward"):
                share = 1.0 if site == "layer" else 0.1
                if site == "layer" or place:
                    yield told("patching", "recovered", share * late, "share", 20 if name == "flipped" else ROWS, 0.06,
                               layer=depth, other=site, slice=name)  # fmt: skip
                    yield told("patching", "broken", share * late, "share", 20 if name == "flipped" else ROWS, 0.06,
                               layer=depth, other=site, slice=name)  # fmt: skip


def _ablation(layers: int) -> Iterator[Finding]:
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        for place, part in enumerate(
            [*(f"attention.head.{head}" for head in range(4)), "ffn.neuron.0-191", "attention", "ffn"]
        ):
            weight = 0.2 if (number, place) == (layers - 1, 2) else 0.002 * (place + 1)
            for model in ("original", "compressed"):
                if model == "original" or (number, place) != (layers - 1, 2):
                    for how, more in (("mean", 1.0), ("zero", 1.6)):
                        value, where = weight * more, {"model": model, "layer": layer, "other": f"{layer}.{part}"}
                        yield told("ablation", f"kl.{how}", value, "nats", 64, 0.3 * value, **where)
                        yield told("ablation", f"flips.{how}", value / 2, "share", 64, 0.2 * value, **where)


def _attribution() -> Iterator[Finding]:
    for name in ("all", "flipped"):
        for method in ("integrated_gradients", "input_x_gradient"):
            yield told("attribution", f"agreement.{method}", 0.71, "rank correlation", 32, 0.05, slice=name)
            yield told("attribution", f"overlap.{method}", 0.66, "share", 32, 0.05, slice=name)
        yield told("attribution", "overlap_by_chance", 0.31, "share", 32, 0.01, slice=name)
    for model in ("original", "compressed"):
        for figure, value in (
            ("deletion.integrated_gradients", 0.31),
            ("deletion.random", 0.09),
            ("deletion.gain", 0.22),
            ("completeness", 0.03),
        ):
            yield told("attribution", figure, value, "probability", 32, 0.04, model=model)


def _flow(every: list[str]) -> Iterator[Finding]:
    for model in ("original", "compressed"):
        for place, depth in enumerate(every):
            late = 8.0 * max(0.0, place / (len(every) - 1) - 0.6) if model == "compressed" else 0.0
            yield told(
                "flow",
                "effective_rank",
                40 - 3 * place * 6 / len(every) - late,
                "dimensions",
                128,
                1.0,
                model=model,
                layer=depth,
            )
            yield told(
                "flow",
                "participation_ratio",
                20 - place * 6 / len(every),
                "dimensions",
                128,
                1.0,
                model=model,
                layer=depth,
            )
            yield told("flow", "norm", 10 + place, "length", 128, 0.2, model=model, layer=depth)
            if place:
                for figure, value in (("dead", 0.08), ("saturated", 0.01), ("constant", 0.02), ("sparsity", 0.4)):
                    yield told("flow", figure, value, "share", 128, 0.005, model=model, layer=depth)
                for head in range(4):
                    yield told(
                        "flow",
                        "attention_entropy",
                        2.1,
                        "nats",
                        128,
                        0.1,
                        model=model,
                        layer=depth,
                        other=f"{depth}.attention.head.{head}",
                    )
    for place, depth in enumerate(every[1:]):
        for head in range(3):
            yield told(
                "flow",
                "attention_js",
                0.01 * (head + place),
                "bits",
                128,
                0.003,
                layer=depth,
                other=f"{depth}.attention.head.{head}",
            )
    gone, heir = (f"{every[-1]}.attention.head.{head}" for head in (3, 1))
    yield told("flow", "taken_over", 0.12, "bits", 128, 0.02, layer=every[-1], other=gone, note=heir)
    yield told("flow", "taken_over_nearer", 0.05, "bits", 128, 0.02, layer=every[-1], other=gone, note=heir)
    yield Finding(part="flow", figure="norm_position", value=0, unit="", n=0, note="norms stand after each sublayer")
