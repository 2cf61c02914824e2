"""What the two models look at: how far their attributions agree, and whether those point at what they use."""

from __future__ import annotations

from dataclasses import dataclass

from compress_explain.report.numbers import count
from compress_explain.report.signal_words import interval_of, spoken_slice
from compress_explain.signals.findings import COMPRESSED, ORIGINAL, Finding
from compress_explain.signals.found import Found, has_interval

_METHODS = {"integrated_gradients": "integrated gradients", "input_x_gradient": "input × gradient"}
_BEST = "integrated_gradients"


@dataclass(frozen=True, kw_only=True)
class AgreementRow:
    """Of one method on one slice: rank correlation over a row's tokens, and the share of the top ones in common."""

    method: str
    slice: str
    agreement: Finding
    overlap: Finding | None
    chance: Finding | None


@dataclass(frozen=True, kw_only=True)
class DeletionRow:
    """Of one model: how far the decided class falls when the named tokens go, and when as many others do."""

    model: str
    named: Finding
    at_random: Finding | None
    gain: Finding | None
    completeness: Finding | None


@dataclass(frozen=True, kw_only=True)
class ReadingSection:
    """Agreement of both models, and what attributions of each are worth; ``note`` says which rows were left out."""

    sentence: str
    agreement: tuple[AgreementRow, ...]
    deletion: tuple[DeletionRow, ...]
    note: str


def reading_section(found: Found) -> ReadingSection | None:
    """None where attributions were not asked for, or nothing came of them."""
    told = [each for each in found.of("attribution") if each.value == each.value]
    agreement = tuple(_agreement(told))
    deletion = tuple(row for model in (ORIGINAL, COMPRESSED) if (row := _deletion(told, model)) is not None)
    if not agreement:
        return None
    return ReadingSection(
        sentence=_sentence(agreement[0], deletion),
        agreement=agreement,
        deletion=deletion,
        note=next((each.note for each in told if each.note), ""),
    )


def _agreement(told: list[Finding]) -> list[AgreementRow]:
    by_key = {(each.figure, each.slice): each for each in told if not each.model}
    return [
        AgreementRow(
            method=_METHODS[method],
            slice=spoken_slice(name),
            agreement=each,
            overlap=by_key.get((f"overlap.{method}", name)),
            chance=by_key.get(("overlap_by_chance", name)),
        )
        for (figure, name), each in by_key.items()
        for method in _METHODS
        if figure == f"agreement.{method}"
    ]


def _deletion(told: list[Finding], model: str) -> DeletionRow | None:
    own = {each.figure: each for each in told if each.model == model}
    named = own.get(f"deletion.{_BEST}")
    if named is None:
        return None
    return DeletionRow(
        model=model,
        named=named,
        at_random=own.get("deletion.random"),
        gain=own.get("deletion.gain"),
        completeness=own.get("completeness"),
    )


def _sentence(row: AgreementRow, deletion: tuple[DeletionRow, ...]) -> str:
    sentence = (
        f"By {row.method} the two models rank a row's tokens alike to {interval_of(row.agreement, 2)} (rank correlation, "
        f"n = {count(row.agreement.n)} rows)"
    )
    weak = [each.model for each in deletion if each.gain is None or not has_interval(each.gain) or each.gain.low <= 0]
    if weak:
        return (
            f"{sentence}; of the {' and the '.join(weak)} model the attributions are not seen to point at what it uses, "
            "so little hangs on that."
        )
    return f"{sentence}." if not deletion else f"{sentence}, and attributions of both point at what they use."
