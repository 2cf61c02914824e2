"""Decision quality: the same statistic given more and more, and wrong decisions that a probe flags beside what chance would."""

from __future__ import annotations

from dataclasses import dataclass

from compress_explain.report.numbers import count, plain
from compress_explain.report.signal_words import interval_of, layer_in_words
from compress_explain.signals.findings import COMPRESSED, ORIGINAL, Finding
from compress_explain.signals.found import Found, SignalFound, has_interval
from compress_explain.stats import rate_interval

_GIVEN = {
    "rho": "confidence and the length of the state",
    "rho_entropy": "entropy too",
    "rho_output": "what the answer and the last layer foretell of the loss too",
    "rho_error": "the same, of right and wrong in place of the loss",
}
_STRICTEST = "rho_output"
_MODELS = (ORIGINAL, COMPRESSED)


@dataclass(frozen=True, kw_only=True)
class GivenRow:
    """One statistic of both models at the same layer."""

    figure: str
    given: str
    original: Finding | None
    compressed: Finding | None


@dataclass(frozen=True, kw_only=True)
class CatchRow:
    """Wrong decisions that are flagged at one rate; ``low`` and ``high`` bound how many only the probe flags."""

    rate: str
    model: str
    both: int
    exclusive: int
    low: float
    high: float
    chance: float
    only_confidence: int
    n: int

    @property
    def beyond(self) -> bool:
        """Whether more are flagged than chance would."""
        return self.low > self.chance


@dataclass(frozen=True, kw_only=True)
class QualitySection:
    """Everything about decision quality at the layer at which it is told."""

    sentence: str
    layer: str
    given: tuple[GivenRow, ...]
    catches: tuple[CatchRow, ...]
    n: int


def quality_section(found: Found, confidence: float) -> QualitySection | None:
    """None where it was not looked for."""
    signal = next((each for each in found.signals if each.name == "quality"), None)
    if signal is None or not signal.curve(ORIGINAL, _STRICTEST):
        return None
    layer = signal.layer or list(signal.curve(ORIGINAL, _STRICTEST))[-1]
    given = tuple(
        GivenRow(figure=figure, given=words, original=_at(signal, figure, ORIGINAL, layer),
                 compressed=_at(signal, figure, COMPRESSED, layer))
        for figure, words in _GIVEN.items()
    )  # fmt: skip
    catches = tuple(_catches(found, confidence))
    return QualitySection(
        sentence=_sentence(given, catches),
        layer=layer_in_words(layer, found.depths),
        given=tuple(row for row in given if row.original is not None or row.compressed is not None),
        catches=catches,
        n=max(each.n for each in signal.findings),
    )


def _at(signal: SignalFound, figure: str, model: str, layer: str) -> Finding | None:
    return signal.reached(signal.curve(model, figure), layer)


def _sentence(given: tuple[GivenRow, ...], catches: tuple[CatchRow, ...]) -> str:
    """Catches are told only of a model of which the strictest statistic says that there is something to catch with."""
    strictest = next(row for row in given if row.figure == _STRICTEST)
    told = [(name, getattr(strictest, name)) for name in _MODELS]
    said = [_hidden(name, each) for name, each in told if each is not None]
    holding = [name for name, each in told if each is not None and _holds(each)]
    catches = tuple(row for row in catches if row.model in holding)
    beyond = [row for row in catches if row.beyond]
    if beyond:
        row = max(beyond, key=lambda each: each.low - each.chance)
        said.append(
            f"At a rate of {row.rate} its probe flags {count(row.exclusive)} wrong decisions of the {row.model} model that "
            f"confidence misses, where chance would flag {plain(row.chance, 1)}"
        )
    elif catches:
        said.append("At no rate does a probe flag surely more wrong decisions that confidence misses than chance would")
    return " ".join(f"{each}." for each in said)


def _hidden(name: str, finding: Finding) -> str:
    figures = f"{interval_of(finding, 3)}, n = {count(finding.n)} decisions"
    if _holds(finding):
        return f"The {name} model holds more of which decisions will be wrong than its answers show: {figures}"
    return (
        f"The {name} model is not seen to hold more of which decisions will be wrong than its answers show: {figures}"
    )


def _holds(finding: Finding) -> bool:
    return has_interval(finding) and finding.low > 0


def _catches(found: Found, confidence: float) -> list[CatchRow]:
    table: dict[tuple[str, str], dict[str, Finding]] = {}
    for each in found.of("catches"):
        if each.value == each.value:
            table.setdefault((each.other, each.model), {})[each.figure] = each
    whole = {"both", "exclusive", "only_confidence", "chance"}
    return [_caught(*key, told, confidence) for key, told in table.items() if whole <= told.keys()]


def _caught(rate: str, model: str, told: dict[str, Finding], confidence: float) -> CatchRow:
    n, exclusive = told["exclusive"].n, round(told["exclusive"].value)
    low, high = rate_interval(exclusive, n, confidence)
    return CatchRow(
        rate=rate, model=model, both=round(told["both"].value), exclusive=exclusive, low=low * n, high=high * n,
        chance=told["chance"].value, only_confidence=round(told["only_confidence"].value), n=n,
    )  # fmt: skip
