"""The command that checks a price: exact leave-one-out of a price table, or of the price that a run began with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from compress_explain.editing.masks import Masks
from compress_explain.errors import InputError
from compress_explain.inquiry import Inquiry, Subjects, tokens_of
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import quieten
from compress_explain.pricing import Prices, Refinement, Sample, audit, price, read_menu
from compress_explain.progress import Progress
from compress_explain.record.outcome import SUMMARY, Run
from compress_explain.terminal.price_tables import print_audit
from compress_explain.terminal.pricing import Workers, check_out, shards
from compress_explain.terminal.reopening import renew_report, reopened


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What is audited, loaded again; where its audit belongs; what to do once it is there."""

    subjects: Subjects = field(repr=False)
    prices: Prices
    target: Path
    renew: Callable[[], None] = lambda: None


def audit_price(source: Path, sample: Sample, rows: int | None, workers: Workers, out: Path | None) -> None:
    """Audit the price of a run or of a price table and print how good it was."""
    engine, progress = workers.build(), Progress()
    quieten()
    found = _drawn(_found(source), rows, progress)
    out = out or found.target
    check_out(out)
    subjects, examples = found.subjects, found.subjects.examples
    edits = len(sample.of(found.prices))
    with shards(out) as store, progress.track(f"auditing {edits:,} edits", len(examples) * edits) as advance:
        audited = audit(
            subjects.masks, examples, found.prices, sample, batch_size=subjects.batch_size, engine=engine,
            store=store, advance=advance,
        )  # fmt: skip
    audited.save(out)
    print_audit(audited)
    print(f"wrote {out}")
    if out == found.target:
        found.renew()


def how_many(what: str, text: str) -> int | None:
    """``all`` as None, or a number.

    Raises:
        InputError: neither.
    """
    if text == "all":
        return None
    if not text.isdecimal():
        raise InputError(what, text, "not a number", "give a number, or all")
    return int(text)


def _found(source: Path) -> _Source:
    if (source / SUMMARY).exists():
        return _of_run(Run(source))
    if not source.is_file():
        raise InputError("audit", str(source), "neither a run's folder nor a price table", "make one with price --out")
    prices = Prices.load(source)
    if "inquiry" not in prices.facts:
        raise InputError("audit", str(source), "does not say which model and data it prices", "audit its run instead")
    subjects = Inquiry.of(prices.facts["inquiry"]).open()
    subjects.check(prices.facts)
    return _Source(subjects=subjects, prices=prices, target=source.with_suffix(".audit.parquet"))


def _of_run(run: Run) -> _Source:
    """The calibration split of a run, on which its start was priced."""
    settings = run.summary["settings"]
    subject, splits = reopened(run)
    examples = splits.calibration
    masks = Masks(subject.model, read_anatomy(subject.model, tokens_of(subject, examples)))

    return _Source(
        subjects=Subjects(subject=subject, examples=examples, masks=masks, batch_size=settings["batch_size"]),
        prices=Prices.load(run.folder / "tables" / "prices-start.parquet"),
        target=run.folder / "tables" / "audit-of-all.parquet",
        renew=partial(renew_report, run, subject, splits),
    )


def _drawn(source: _Source, rows: int | None, progress: Progress) -> _Source:
    """The same on some of the rows only, priced again on these."""
    subjects = source.subjects
    if rows is None or rows >= len(subjects.examples):
        return source
    subjects = replace(subjects, examples=subjects.examples.draw(rows, 0))
    menu = read_menu(subjects.masks.anatomy, _edits_of(source.prices))
    with progress.track("pricing the rows of the audit", len(subjects.examples)) as advance:
        prices = price(
            subjects.masks, subjects.examples, menu=menu, batch_size=subjects.batch_size,
            refinement=Refinement(**source.prices.facts.get("refinement", {})), advance=advance,
        )  # fmt: skip
    return replace(source, subjects=subjects, prices=replace(prices, facts=source.prices.facts))


def _edits_of(prices: Prices) -> str:
    """The menu of a table in the words of the command line."""
    words = {"head": "heads", "kv_group": "heads", "neuron": "neurons", "sublayer": "sublayers", "layer": "layers"}
    kinds = dict.fromkeys(zip(prices.kinds, prices.edits, strict=True))
    return ",".join(dict.fromkeys(words.get(kind, f"linears:{edit}") for kind, edit in kinds))
