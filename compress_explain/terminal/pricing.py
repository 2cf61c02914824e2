"""The commands that only ask: what each edit would do, how good that price is, who carries a slice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from compress_explain.errors import InputError
from compress_explain.inquiry import Inquiry, Subjects
from compress_explain.models import quieten
from compress_explain.outcome import SUMMARY, Run
from compress_explain.pricing import (
    Engine,
    Local,
    Prices,
    RayWorkers,
    Refinement,
    Sample,
    audit,
    price,
    read_menu,
)
from compress_explain.progress import Progress
from compress_explain.slices import load_rules

EDITS = "heads,neurons"


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who computes, in the words of the command line."""

    engine: str
    workers: int
    threads: int | None
    address: str | None

    def build(self) -> Engine:
        """Raises InputError for an engine that does not exist."""
        if self.engine == "local":
            return Local(threads=self.threads)
        if self.engine == "ray":
            return RayWorkers(workers=self.workers, threads=self.threads or 1, address=self.address)
        raise InputError("engine", self.engine, "no such engine", "choose local or ray")


def price_model(
    inquiry: Inquiry,
    slices: Path | None,
    edits: str,
    refinement: Refinement,
    projections: int | None,
    workers: Workers,
    out: Path | None,
) -> None:
    """Price every edit and print the outcome; write the table to ``out``."""
    from compress_explain.terminal.price_tables import print_prices

    _check_out(out)
    engine, progress = workers.build(), Progress()
    asked, subjects = _opened(inquiry, slices, progress)
    menu = read_menu(subjects.masks.anatomy, edits)
    with _shards(out) as store, progress.track("pricing", len(subjects.examples)) as advance:
        prices = price(
            subjects.masks, subjects.examples, menu=menu, batch_size=subjects.batch_size,
            refinement=refinement, flow=True, projections=projections, engine=engine, store=store,
            seed=inquiry.seed, advance=advance,
        )  # fmt: skip
    asked = replace(asked, batch_size=subjects.batch_size)
    prices = replace(prices, facts={"inquiry": asked.facts(), "refinement": asdict(refinement), **subjects.facts()})
    print_prices(prices)
    if out is not None:
        prices.save(out)
        print(f"wrote {out} ({len(prices):,} edits x {len(prices.slices)} slices)")


def audit_price(source: Path, sample: Sample, rows: int | None, workers: Workers, out: Path | None) -> None:
    """Audit the price of a run or of a price table and print how good it was."""
    from compress_explain.terminal.price_tables import print_audit

    engine, progress = workers.build(), Progress()
    quieten()
    asked, prices, target = _priced(source, rows, progress)
    out = out or target
    _check_out(out)
    sampled = sample.of(prices)
    with _shards(out) as store, progress.track("auditing", len(asked.examples) * len(sampled)) as advance:
        audited = audit(
            asked.masks, asked.examples, prices, sample, batch_size=asked.batch_size, engine=engine, store=store,
            advance=advance,
        )  # fmt: skip
    audited.save(out)
    print_audit(audited)
    print(f"wrote {out}")


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


def explain_slice(
    inquiry: Inquiry, slices: Path | None, slice_name: str, edits: str, workers: Workers, count: int
) -> None:
    """Print which components carry a slice, and which carry it more than everything else."""
    from compress_explain.pricing.bearing import bearing
    from compress_explain.terminal.price_tables import print_bearing

    source = Path(inquiry.model)
    if source.is_file():
        prices = Prices.load(source)
    else:
        if not inquiry.data:
            raise InputError(
                "data", "nothing", "a model can only be asked on some data", "give --data, or a price table"
            )
        engine, progress = workers.build(), Progress()
        _, subjects = _opened(inquiry, slices, progress)
        menu = read_menu(subjects.masks.anatomy, edits)
        with progress.track("pricing", len(subjects.examples)) as advance:
            prices = price(
                subjects.masks, subjects.examples, menu=menu, batch_size=subjects.batch_size, refinement=Refinement(),
                engine=engine, seed=inquiry.seed, advance=advance,
            )  # fmt: skip
    print_bearing(bearing(prices, slice_name), slice_name, count)


def _opened(inquiry: Inquiry, slices: Path | None, progress: Progress) -> tuple[Inquiry, Subjects]:
    """The inquiry with its slice rules, and what it asks about."""
    quieten()
    asked = inquiry if slices is None else replace(inquiry, rules=load_rules(slices))
    progress.say(f"model: {asked.model}")
    subjects = asked.open()
    unit = "tokens" if subjects.examples.tokenwise else "rows"
    counts = subjects.examples.counts
    progress.say(f"data: {counts['all']:,} {unit} in {len(counts) - 1} slices")
    return asked, subjects


def _priced(source: Path, rows: int | None, progress: Progress) -> tuple[Subjects, Prices, Path]:
    """What is to be audited, loaded again; its prices, on a sample of ``rows`` when asked; where the audit goes."""
    if (source / SUMMARY).exists():
        subjects, prices, target = _of_run(Run(source))
    elif source.is_file():
        prices = Prices.load(source)
        if "inquiry" not in prices.facts:
            raise InputError(
                "audit", str(source), "does not say which model and data it prices", "audit its run instead"
            )
        subjects = Inquiry.of(prices.facts["inquiry"]).open()
        subjects.check(prices.facts)
        target = source.with_suffix(".audit.parquet")
    else:
        raise InputError("audit", str(source), "neither a run's folder nor a price table", "make one with price --out")
    if rows is not None and rows < len(subjects.examples):
        subjects = replace(subjects, examples=subjects.examples.draw(rows, 0))
        menu = read_menu(subjects.masks.anatomy, _edits_of(prices))
        with progress.track("pricing the rows of the audit", len(subjects.examples)) as advance:
            again = price(
                subjects.masks, subjects.examples, menu=menu, batch_size=subjects.batch_size,
                refinement=Refinement(**prices.facts.get("refinement", {})), advance=advance,
            )  # fmt: skip
        prices = replace(again, facts=prices.facts)
    return subjects, prices, target


def _of_run(run: Run) -> tuple[Subjects, Prices, Path]:
    """The calibration split of a run, which its start was priced on."""
    from compress_explain.anatomy import read_anatomy
    from compress_explain.data import DataSpec, load_splits
    from compress_explain.inquiry import tokens_of
    from compress_explain.masks import Masks
    from compress_explain.models import load_subject
    from compress_explain.slices import SliceRule

    settings = run.summary["settings"]
    if settings["data"] is None:
        raise InputError(
            "audit", str(run.folder), "its data were given in memory, not as files", "audit it where it was made"
        )
    subject = load_subject(settings["model"], settings["task"])
    rules = [SliceRule(**rule) for rule in settings["slices"]]
    examples = load_splits(DataSpec(**settings["data"]), rules, subject, settings["seed"]).calibration
    expected = run.summary["splits"]["calibration"]["digest"]
    if examples.digest != expected:
        raise InputError("data", settings["data"]["calibration"], "has changed since the run", "restore the files")
    masks = Masks(subject.model, read_anatomy(subject.model, tokens_of(subject, examples)))
    subjects = Subjects(subject=subject, examples=examples, masks=masks, batch_size=settings["batch_size"])
    prices = Prices.load(run.folder / "tables" / "prices-start.parquet")
    return subjects, prices, run.folder / "tables" / "audit-of-all.parquet"


def _edits_of(prices: Prices) -> str:
    """The menu of a table in the words of the command line."""
    words = {"head": "heads", "kv_group": "heads", "neuron": "neurons", "sublayer": "sublayers", "layer": "layers"}
    kinds = dict.fromkeys(zip(prices.kinds, prices.edits, strict=True))
    return ",".join(dict.fromkeys(words.get(kind, f"linears:{edit}") for kind, edit in kinds))


def _check_out(out: Path | None) -> None:
    if out is not None and not out.absolute().parent.is_dir():
        raise InputError("out", str(out), f"there is no folder {out.absolute().parent}", "make it, or choose another")


@contextmanager
def _shards(out: Path | None) -> Iterator[Path | None]:
    """Where finished shards are kept until the whole is done, so that a stopped command goes on there."""
    if out is None:
        yield None
        return
    folder = out.with_name(out.name + ".shards")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
