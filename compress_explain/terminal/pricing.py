"""The commands that only ask: what each edit would do, and which components carry a slice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from compress_explain.data.slices import load_rules
from compress_explain.errors import InputError
from compress_explain.inquiry import Inquiry, Subjects
from compress_explain.model.loading import quieten
from compress_explain.pricing import (
    Engine,
    Local,
    Prices,
    RayWorkers,
    Refinement,
    price,
    read_menu,
)
from compress_explain.progress import Progress


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

    check_out(out)
    engine, progress = workers.build(), Progress()
    asked, subjects = _opened(inquiry, slices, progress)
    menu = read_menu(subjects.masks.anatomy, edits)
    with shards(out) as store, progress.track("pricing", len(subjects.examples)) as advance:
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


def check_out(out: Path | None) -> None:
    if out is not None and not out.absolute().parent.is_dir():
        raise InputError("out", str(out), f"there is no folder {out.absolute().parent}", "make it, or choose another")


@contextmanager
def shards(out: Path | None) -> Iterator[Path | None]:
    """Where finished shards are kept until the whole is done, so that a stopped command goes on there."""
    if out is None:
        yield None
        return
    folder = out.with_name(out.name + ".shards")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
