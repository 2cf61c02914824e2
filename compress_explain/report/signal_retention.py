"""Which signals survive: one row a signal at its chosen layer, and the sentences that say it first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compress_explain.report.numbers import count, share
from compress_explain.report.signal_words import interval_of_share, layer_in_words
from compress_explain.signals.findings import COMPRESSED, ORIGINAL, Finding
from compress_explain.signals.found import Found, SignalFound, can_be_told
from compress_explain.signals.words import spoken_signal

SURVIVES, WEAKER, MOSTLY_LOST, OPEN, UNTOLD = "survives", "weaker", "mostly lost", "open", "cannot be told"
WORDS = {SURVIVES: "pass", WEAKER: "fail", MOSTLY_LOST: "fail", OPEN: "inconclusive", UNTOLD: "inconclusive"}
_ENOUGH, _HALF = 0.95, 0.5


@dataclass(frozen=True, kw_only=True)
class RetentionRow:
    """One signal where it was chosen to be told: what both models and the control show there, and the share that is left."""

    name: str
    attribute: bool
    layer: str
    unit: str
    original: Finding | None
    compressed: Finding | None
    control: Finding | None
    retained: Finding
    above_chance: Finding
    word: str
    why: str

    @property
    def state(self) -> str:
        """Which sign stands beside the word."""
        return WORDS[self.word]


def retention_rows(found: Found) -> tuple[RetentionRow, ...]:
    """Every signal, in the order of the table."""
    return tuple(_row(found, signal) for signal in found.signals)


def verdict(retained: Finding) -> str:
    """What the interval of the share that is left says.

    >>> def left(value, low, high, note=""):
    ...     return verdict(Finding(part="", figure="", unit="share", n=9, value=value, low=low, high=high, note=note))
    >>> left(1, 0.97, 1.02), left(0.8, 0.7, 0.9), left(0.2, 0.1, 0.4), left(0.9, 0.7, 1.1), left(1, 1, 1, "too little")
    ('survives', 'weaker', 'mostly lost', 'open', 'cannot be told')
    """
    if not can_be_told(retained):
        return UNTOLD
    if retained.low >= _ENOUGH:
        return SURVIVES
    if retained.high < _HALF:
        return MOSTLY_LOST
    return WEAKER if retained.high < 1 else OPEN


def retention_sentences(rows: Sequence[RetentionRow], confidence: float) -> tuple[str, ...]:
    """Which survive and which do not, in figures; what cannot be told and why."""
    told = [row for row in rows if row.word != UNTOLD]
    sentences = list(_of_told(told, len(rows), confidence)) if told else []
    untold = [row for row in rows if row.word == UNTOLD]
    if untold:
        reasons = "; ".join(f"{', '.join(names)}, since {why}" for why, names in _by_reason(untold).items())
        sentences.append(f"Whether these survive cannot be told: {reasons}.")
    return tuple(sentences)


def _by_reason(rows: Sequence[RetentionRow]) -> dict[str, list[str]]:
    """Names of signals by why they cannot be told; figures of a reason stand in the table."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reasons.setdefault(row.why.partition(" (")[0], []).append(row.name)
    return reasons


def _of_told(told: Sequence[RetentionRow], asked: int, confidence: float) -> Iterator[str]:
    parts = [_named(word, [row for row in told if row.word == word]) for word in (SURVIVES, WEAKER, MOSTLY_LOST, OPEN)]
    n = sorted({row.retained.n for row in told})
    rows = count(n[0]) if len(n) == 1 else f"{count(n[0])} to {count(n[-1])}"
    signals = "signal" if asked == 1 else "signals"
    yield (
        f"Of {count(asked)} {signals} that were looked for, {'; '.join(part for part in parts if part)}. Intervals are at "
        f"{share(confidence)}, n = {rows} decisions."
    )


_SAID = {
    SURVIVES: "{n} {survive} in the compressed model",
    WEAKER: "{n} {are} weaker there",
    MOSTLY_LOST: "{n} {are} mostly lost",
    OPEN: "of {n} the figures leave open whether anything was lost",
}


def _named(word: str, rows: Sequence[RetentionRow]) -> str:
    if not rows:
        return ""
    one = len(rows) == 1
    said = _SAID[word].format(n=count(len(rows)), survive="survives" if one else "survive", are="is" if one else "are")
    return f"{said}: {', '.join(f'{row.name} {interval_of_share(row.retained)}' for row in rows)}"


def _row(found: Found, signal: SignalFound) -> RetentionRow:
    layer, retained = signal.layer, signal.retained
    original = signal.curve(ORIGINAL).get(layer)
    word = verdict(retained)
    return RetentionRow(
        name=spoken_signal(signal.name),
        attribute=signal.name.startswith("attribute."),
        layer=layer_in_words(layer, found.depths) if layer else "",
        unit="" if original is None else original.unit,
        original=original,
        compressed=signal.reached(signal.curve(COMPRESSED), layer),
        control=signal.control(layer),
        retained=retained,
        above_chance=signal.above_chance,
        word=word,
        why=(retained.note or "too few rows gave a figure") if word == UNTOLD else "",
    )
