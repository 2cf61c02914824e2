"""How features flow through both models: what heads look at, how far the stream spreads, which neurons speak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from transformers import PreTrainedModel

from compress_explain.data.examples import Examples
from compress_explain.progress import Advance
from compress_explain.signals.findings import Finding
from compress_explain.signals.flow import geometry as spread
from compress_explain.signals.flow import units_alive as alive
from compress_explain.signals.flow.attention_flow import Rounds, attention_flow
from compress_explain.signals.flow.pace import Pace
from compress_explain.signals.stream.layers import Layers
from compress_explain.signals.stream.watched import Watched


def flow(
    original: PreTrainedModel,
    compressed: PreTrainedModel,
    examples_original: Examples,
    examples_compressed: Examples,
    layers_original: Layers,
    layers_compressed: Layers,
    *,
    kept: Mapping[str, Sequence[int]] = MappingProxyType({}),
    rows: int = 300,
    batch_size: int = 32,
    confidence: float = 0.95,
    seed: int = 0,
    advance: Advance = lambda rows: None,
) -> list[Finding]:
    """Attention, geometry and neurons of both models on at most ``rows`` rows, the same for both.

    ``layers_compressed`` are named as in the original. ``kept`` says, by layer, which of the original's heads are
    left, in order; a layer that is not in it has all of its heads. ``n`` of the findings counts rows.
    """
    watched = (
        Watched(name="original", model=original, examples=examples_original.draw(rows, seed), layers=layers_original),
        Watched(
            name="compressed", model=compressed, examples=examples_compressed.draw(rows, seed), layers=layers_compressed
        ),
    )
    pace = Pace(advance=advance, passes=1 + 2 * (spread.PASSES + alive.PASSES), rows=len(watched[0].examples))
    rounds = Rounds(kept=kept, batch_size=batch_size, confidence=confidence, seed=seed)
    found = attention_flow(*watched, rounds, pace)
    for each in watched:
        found += spread.geometry(each, batch_size=batch_size, confidence=confidence, seed=seed, advance=pace)
        found += alive.units_alive(each, batch_size=batch_size, confidence=confidence, seed=seed, advance=pace)
    pace.done()
    return [*found, norm_position(layers_original, layers_compressed)]


def norm_position(original: Layers, compressed: Layers) -> Finding:
    """Where norms stand: 1 before what they are for, 0 after it, NaN where nobody knows; as the original has it."""
    words = {"before": "before each sublayer", "after": "after each sublayer", None: "where nobody knows"}
    note = f"norms stand {words[original.norm]}"
    if original.norm != compressed.norm:
        note += f" in the original, {words[compressed.norm]} in the compressed model"
    value = math.nan if original.norm is None else float(original.norm == "before")
    return Finding(part="flow", figure="norm_position", value=value, unit="", n=0, note=note)
