"""What is known before a plan is made: prices, their audit, and what else a strategy asks of the model as it is now."""

from __future__ import annotations

from dataclasses import asdict

from compress_explain.choosing.activations import (
    Ranges,
    find_activations,
    load_activations,
    passes_of,
    save_activations,
)
from compress_explain.choosing.channel_worth import worth_of
from compress_explain.choosing.spectra import find_spectra, menu_now
from compress_explain.data.examples import Examples
from compress_explain.data.perturbed import perturbed
from compress_explain.plugins.strategy import Factorizing, Narrowing, Situation, Stepwise, Strategy
from compress_explain.pricing import (
    MOVES,
    Menu,
    Prices,
    Refinement,
    Sample,
    audit,
    price,
)
from compress_explain.running.session import Session

REFINEMENT = Refinement()


def prices_for(session: Session, step: str, strategy: Strategy) -> tuple[Prices, Prices | None]:
    """What ``strategy`` chooses from, on calibration and, if it goes in small steps, on unfamiliar texts too."""
    menu = menu_now(session.masks, strategy)
    if not isinstance(strategy, Stepwise):
        return price_edits(session, step, session.read(session.priced), menu), None
    some = session.read(session.priced.draw(strategy.rows, session.job.seed))
    new = perturbed(some, session.job.seed)
    if new is some:
        return price_edits(session, step, some, menu, refinement=None), None
    prices = price_edits(session, step, some, menu, refinement=None, moves=0)
    return prices, price_edits(session, f"{step}-unfamiliar", new, menu, refinement=None)


def price_edits(
    session: Session,
    step: str,
    examples: Examples,
    menu: Menu | None = None,
    *,
    refinement: Refinement | None = REFINEMENT,
    moves: int = MOVES,
) -> Prices:
    """Price every edit of ``menu``, or one on every component, in the present state, on examples as it reads them."""
    path, record = session.table(f"prices-{step}"), session.ledger.find("priced", step)
    if record and any(plan.seq > record.seq for plan in session.ledger.of_kind("planned")):
        return Prices.load(path)  # without the moves, which only a plan that is still to be made needs
    with session.progress.track(f"pricing ({step})", len(examples)) as advance:
        prices = price(
            session.masks, examples, menu=menu, batch_size=session.job.batch_size, refinement=refinement,
            flow=step == "start", moves=moves, advance=advance,
        )  # fmt: skip
    if record:
        return prices
    prices.save(path)
    body = {"split": examples.name, "rows": len(examples), "components": len(prices.components)}
    session.ledger.append("priced", step, body, (path,))
    return prices


def range_activations(session: Session, step: str, ranges: Ranges | None) -> None:
    """Find out what enters the linears of the model as it is now, where an edit asks for it."""
    if ranges is None:
        return
    path = session.folder / "tensors" / f"activations-{step}.safetensors"
    if not session.ledger.find("ranged", step):
        rows = session.read(session.job.splits.calibration)
        with session.progress.track(f"ranges of activations ({step})", len(rows) * passes_of(ranges)) as advance:
            found = find_activations(session.masks, rows, ranges, batch_size=session.job.batch_size, advance=advance)
        save_activations(found, path)
        body = {"split": rows.name, "rows": len(rows), "linears": len(found), **asdict(ranges)}
        session.ledger.append("ranged", step, body, (path,))
    session.masks.activations = load_activations(path)


def take_spectra(session: Session, step: str, strategy: Strategy) -> None:
    """Take the weights of linears apart along what enters them, where a strategy may factor them."""
    session.masks.spectra = {}
    if not isinstance(strategy, Factorizing) or session.ledger.find("applied", step):
        return
    rows, menu = session.read(session.job.splits.calibration), menu_now(session.masks, strategy)
    with session.progress.track(f"what enters linears ({step})", len(rows)) as advance:
        session.masks.spectra = find_spectra(
            session.masks, rows, menu, batch_size=session.job.batch_size, advance=advance
        )


def weigh_channels(session: Session, step: str, strategy: Strategy) -> None:
    """Find out what the channels of the stream are worth, where a strategy removes some."""
    session.worth = None
    if not isinstance(strategy, Narrowing) or session.ledger.find("planned", step):
        return
    rows, job = session.read(session.job.splits.calibration), session.job
    with session.progress.track(f"what channels are worth ({step})", min(len(rows), strategy.gradient_rows)) as advance:
        session.worth = worth_of(
            session.masks, rows, strategy, batch_size=job.batch_size, seed=job.seed, advance=advance
        )


def audit_price(session: Session) -> None:
    """Make a sample of the edits one by one on some calibration rows, beside what was expected there."""
    plan, path = session.job.audit, session.table("audit")
    if plan.empty or session.ledger.find("audited", "start"):
        return
    rows = session.job.splits.calibration.draw(plan.rows, session.job.seed)
    with session.progress.track("pricing the rows of the audit", len(rows)) as advance:
        prices = price(session.masks, rows, batch_size=session.job.batch_size, refinement=Refinement(), advance=advance)
    sample = Sample(heads=plan.heads, neurons=plan.neurons, seed=session.job.seed)
    with session.progress.track("auditing the price", len(rows) * len(sample.of(prices))) as advance:
        audited = audit(session.masks, rows, prices, sample, batch_size=session.job.batch_size, advance=advance)
    audited.save(path)
    body = {"split": rows.name, "rows": len(rows), "edits": len(sample.of(prices)), "quality": audited.summary()}
    session.ledger.append("audited", "start", body, (path,))


def situation(
    session: Session, prices: Prices, unfamiliar: Prices | None = None, round_number: int = 0, rounds: int | None = None
) -> Situation:
    """What a strategy decides on in this round of so many."""
    return Situation(
        anatomy=session.anatomy, prices=prices, unfamiliar=unfamiliar, removed=session.masks.removed, round=round_number, rounds=rounds,
        quantized=session.masks.quantized, lexicon=session.lexicon, storage=session.job.storage, latency=session.latency,
        milliseconds=session.milliseconds, ranks=session.masks.ranks, spectra=session.masks.spectra,
        channels=session.worth,
    )  # fmt: skip
