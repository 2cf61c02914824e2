"""What probes find in the original, the compressed model and the controls, and what share of each signal is retained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Int

from compress_explain.signals.findings import CHOSEN, COMPRESSED, ORIGINAL, RANDOM, SHUFFLED, Finding
from compress_explain.signals.probing.asked import QUALITY, Asked
from compress_explain.signals.probing.catches import exclusive_catches
from compress_explain.signals.probing.parts import turned
from compress_explain.signals.probing.quality import FEW, FIGURES, GIVEN_OUTPUT, Quality, quality_of
from compress_explain.signals.probing.reading_off import CHANCE, read_off, too_few
from compress_explain.signals.probing.resampling import Draws, Estimate, Readings, averaged
from compress_explain.signals.stream.states import States

RATES = (0.05, 0.10, 0.20)
_FEW_WRONG = 20  # decisions, below which nothing is told of which are wrong
_SHUFFLES = 3
_UNITS = {"auc": "AUC"}


@dataclass(frozen=True, kw_only=True)
class Held:
    """What three models hold at the same decisions: ``random`` has the original's shape and weights that learned nothing.

    ``reached`` says, for each depth of the original, which of the compressed model's is as far: the last one that is not
    beyond it, where layers are gone.
    """

    original: States = field(repr=False)
    compressed: States = field(repr=False)
    random: States = field(repr=False)

    @property
    def reached(self) -> Int[np.ndarray, " depths"]:
        depths = self.original.depths
        places = np.array([depths.index(name) for name in self.compressed.depths])
        return np.array([np.flatnonzero(places <= place)[-1] for place in range(len(depths))])


@dataclass(frozen=True, kw_only=True)
class Probing:
    """How probes are fitted and told: ``strength`` is scikit-learn's C, ``confidence`` that of two-sided intervals."""

    draws: Draws = field(repr=False)
    strength: float
    confidence: float
    seed: int

    @property
    def shuffles(self) -> range:
        """Seeds by which answers are shuffled, the figures of which are averaged."""
        return range(self.seed, self.seed + _SHUFFLES)


def probe_all(held: Held, questions: Sequence[Asked], probing: Probing, *, quality: bool = True) -> Iterator[Finding]:
    """Every figure of every signal: probes, selectivity, retention; with ``quality`` also whether wrong decisions are known."""
    for asked in questions:
        yield from _of_question(held, asked, probing)
    if quality:
        yield from _of_quality(held, probing)


def _of_question(held: Held, asked: Asked, probing: Probing) -> Iterator[Finding]:
    if note := too_few(asked, probing.draws):
        yield from _untold(asked.signal, note, probing)
        return
    draws, strength = probing.draws, probing.strength
    read = {
        ORIGINAL: read_off(held.original, asked, draws, strength),
        COMPRESSED: read_off(held.compressed, asked, draws, strength),
        RANDOM: read_off(held.random, asked, draws, strength),
        SHUFFLED: averaged(
            [read_off(held.original, asked, draws, strength, shuffled=each) for each in probing.shuffles]
        ),
    }
    yield from told_of_signal(held, asked.signal, "auc", read, CHANCE, probing)


def _untold(signal: str, why: str, probing: Probing) -> Iterator[Finding]:
    for figure in ("retained", "retained_above_chance"):
        yield Finding(
            part="retention", figure=figure, value=math.nan, unit="share", n=probing.draws.reported, signal=signal, other=CHOSEN,
            note=why,
        )  # fmt: skip


def _of_quality(held: Held, probing: Probing) -> Iterator[Finding]:
    wrong = min(
        int(states.wrong[part.report].sum())
        for states in (held.original, held.compressed) for part in probing.draws.parts
    ) * len(probing.draws.parts)  # fmt: skip
    if wrong < _FEW_WRONG:
        yield from _untold(
            QUALITY, f"about {wrong} of the decisions that are reported are wrong, too few to tell", probing
        )
        return
    probing = _with_enough_to_learn(held, probing)
    draws, strength, seed = probing.draws, probing.strength, probing.seed
    own = {
        ORIGINAL: quality_of(held.original, held.original, draws, strength, seed=seed),
        COMPRESSED: quality_of(held.compressed, held.compressed, draws, strength, seed=seed),
    }
    read = {model: each.readings[GIVEN_OUTPUT] for model, each in own.items()} | _controls_of_quality(held, probing)
    for figure in FIGURES:
        if figure != GIVEN_OUTPUT:
            for model, quality in own.items():
                yield from _curve(held, model, QUALITY, figure, quality.readings[figure], probing)
    yield from told_of_signal(held, QUALITY, GIVEN_OUTPUT, read, 0.0, probing)
    for model, states in ((ORIGINAL, held.original), (COMPRESSED, held.compressed)):
        yield from _catches(model, states, own[model], draws)


def _with_enough_to_learn(held: Held, probing: Probing) -> Probing:
    """Probes learn from the decisions that are reported, by turns, where too few of those to learn from are wrong.

    A model is wrong about few of the rows that it was trained on.
    """
    draws, rows = probing.draws, held.original.rows
    wrong = min(
        int(states.wrong[part.fit].sum()) for states in (held.original, held.compressed) for part in draws.parts
    )
    if wrong >= FEW or held.original.many or len(draws.parts) > 1:
        return probing
    parts = turned(draws.parts, rows, probing.seed)
    return replace(probing, draws=Draws.of(parts, rows, draws.resamples, probing.seed))


def _controls_of_quality(held: Held, probing: Probing) -> dict[str, Readings]:
    """What random weights, and probes of shuffled targets, say of the original's loss by the strictest statistic."""
    draws, strength, seed, strictest = probing.draws, probing.strength, probing.seed, (GIVEN_OUTPUT,)
    random = quality_of(held.random, held.original, draws, strength, figures=strictest, seed=seed)
    shuffled = [
        quality_of(held.original, held.original, draws, strength, figures=strictest, seed=seed, shuffled=each)
        for each in probing.shuffles
    ]
    return {
        RANDOM: random.readings[GIVEN_OUTPUT],
        SHUFFLED: averaged([each.readings[GIVEN_OUTPUT] for each in shuffled]),
    }


def told_of_signal(
    held: Held, signal: str, figure: str, read: dict[str, Readings], chance: float, probing: Probing
) -> Iterator[Finding]:
    """Figures of one signal by depth: of all models, above the control, and as a share of the original's."""
    for model, readings in read.items():
        yield from _curve(held, model, signal, figure, readings, probing)
    depths, best = held.original.depths, read[ORIGINAL].best
    usual = int(np.bincount(best).argmax())
    for place, depth in enumerate(depths):
        at = best if place == usual else np.full_like(best, place)
        control = _control(read, at, chance)
        left = {
            ORIGINAL: read[ORIGINAL].at(at).minus(control),
            COMPRESSED: read[COMPRESSED].at(held.reached[at]).minus(control),
        }
        for model, estimate in left.items():
            yield _finding(
                "probe", "selectivity", estimate, _UNITS.get(figure, "rank correlation"), probing, signal, model, depth
            )
        retained = left[COMPRESSED].share_of(left[ORIGINAL])
        note = _too_little(left[ORIGINAL], probing.confidence)
        other = CHOSEN if place == usual else ""
        yield _finding("retention", "retained", retained, "share", probing, signal, "", depth, other, note)
        yield _above_chance(held, signal, read, at, chance, probing, depth, other)


def _above_chance(
    held: Held, signal: str, read: dict[str, Readings], at: Int[np.ndarray, " parts"], chance: float, probing: Probing, depth: str,
    other: str,
) -> Finding:  # fmt: skip
    """The same share where chance is all that counts as nothing: of what can be read off, learned or not."""
    nothing = Estimate(value=chance, draws=np.full(read[RANDOM].draws.shape[-1], chance))
    original, compressed = read[ORIGINAL].at(at).minus(nothing), read[COMPRESSED].at(held.reached[at]).minus(nothing)
    note = _too_little(original, probing.confidence, "chance gives")
    return _finding(
        "retention",
        "retained_above_chance",
        compressed.share_of(original),
        "share",
        probing,
        signal,
        "",
        depth,
        other,
        note,
    )


def _control(read: dict[str, Readings], at: Int[np.ndarray, " parts"], chance: float) -> Estimate:
    """The highest of what random weights give, what shuffled answers give, and chance."""
    nothing = Estimate(value=chance, draws=np.full(read[RANDOM].draws.shape[-1], chance))
    found = [read[name].at(at) for name in (RANDOM, SHUFFLED)]
    for each in found:
        nothing = each.or_more(nothing)
    return nothing


def _too_little(left: Estimate, confidence: float, than: str = "a control does") -> str:
    low, high = left.interval(confidence)
    if low > 0:
        return ""
    if math.isnan(low):
        return "the original's probe has no figure here"
    return f"the original shows no more of it than {than} ({left.value:+.3f}, {low:+.3f} to {high:+.3f})"


def _curve(held: Held, model: str, signal: str, figure: str, readings: Readings, probing: Probing) -> Iterator[Finding]:
    depths = held.compressed.depths if model == COMPRESSED else held.original.depths
    for place, depth in enumerate(depths):
        yield _finding(
            "probe", figure, readings.at(place), _UNITS.get(figure, "rank correlation"), probing, signal, model, depth
        )


def _finding(
    part: str, figure: str, estimate: Estimate, unit: str, probing: Probing, signal: str, model: str, depth: str,
    other: str = "", note: str = "",
) -> Finding:  # fmt: skip
    low, high = estimate.interval(probing.confidence)
    return Finding(
        part=part, figure=figure, value=estimate.value, low=low, high=high, unit=unit, n=probing.draws.reported,
        signal=signal, model=model, layer=depth, other=other, note=note,
    )  # fmt: skip


def _catches(model: str, states: States, quality: Quality, draws: Draws) -> Iterator[Finding]:
    """Of wrong decisions, at the depth that other rows chose; scores are ranked within each part, whose probe is its own."""
    best = quality.readings[GIVEN_OUTPUT].best
    ranked = [
        np.argsort(np.argsort(scores[depth], kind="stable"), kind="stable") / len(part.report)
        for scores, depth, part in zip(quality.scores, best, draws.parts, strict=True)
    ]
    reported = np.concatenate([part.report for part in draws.parts])
    for rate in RATES:
        counted = exclusive_catches(np.concatenate(ranked), states.confidence[reported], states.wrong[reported], rate)
        for figure, value in zip(("both", "exclusive", "only_confidence", "chance"), counted, strict=True):
            yield Finding(
                part="catches", figure=figure, value=float(value), unit="decisions", n=len(reported), signal=QUALITY, model=model,
                other=f"{rate:.0%}",
            )  # fmt: skip
