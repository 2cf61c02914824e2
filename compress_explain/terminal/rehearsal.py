"""What a run would remove, without removing it: the price, the plans and their expected effect."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compress_explain.choosing.activations import Ranges, find_activations
from compress_explain.choosing.channel_worth import worth_of
from compress_explain.choosing.latency_table import LatencyTable
from compress_explain.choosing.spectra import find_spectra, menu_now
from compress_explain.choosing.target import Target, threads_in_words
from compress_explain.comparison.predictions import predict
from compress_explain.compensation import Compensator
from compress_explain.data.examples import ALL, Examples
from compress_explain.editing.depgraph import find_stream
from compress_explain.editing.edits import Edit, Plan, counted
from compress_explain.editing.masks import Masks
from compress_explain.inquiry import tokens_of
from compress_explain.model.anatomy import read_anatomy
from compress_explain.plugins.strategy import (
    Factorizing,
    Narrowing,
    Situation,
    Strategy,
    Tuning,
    check_fit,
    ranges_of,
    rounds_of,
    wants_prices,
)
from compress_explain.pricing import MOVES, Joint, Menu, Prices, Refinement, expected_joint, price
from compress_explain.pricing.exact import masked
from compress_explain.progress import Progress
from compress_explain.running.job import Job
from compress_explain.running.timing import latency_of
from compress_explain.terminal.console import output
from compress_explain.vocabulary import Lexicon
from compress_explain.weight_edits import Activations, Spectrum


def rehearse(job: Job, progress: Progress) -> list[Edit]:
    """Print what each strategy would do, in order, and return the edits. The model is left as it was."""
    console = output()
    calibration = job.splits.calibration
    anatomy = read_anatomy(job.subject.model, tokens_of(job.subject, calibration))
    if any(isinstance(strategy, Narrowing) for strategy in job.strategies):
        anatomy = anatomy.with_stream(find_stream(job.subject.model, anatomy, next(calibration.batches(2)).inputs))
    check_fit(job.strategies, anatomy)
    proposed: list[Edit] = []
    joints: list[dict[str, Joint]] = []
    latency = None if job.target is None else latency_of(job, job.target, anatomy, progress)
    with Masks(job.subject.model, anatomy) as masks:
        lexicon = job.lexicon(masks)
        compensator = None
        if job.compensation is not None:
            compensator = Compensator(masks, calibration, job.compensation, job.batch_size)
        start = _priced(job, masks, calibration, progress, "start")
        for strategy in job.strategies:
            author = type(strategy).__name__.lower()
            if isinstance(strategy, Tuning):
                console.print(
                    f"{author}: what is left then will be tuned; what that gives back is only seen in a run\n"
                )
                continue
            rounds = rounds_of(strategy, _situation(job, masks, start, lexicon, latency))
            for round_number in range(rounds):
                read = calibration if masks.removed_tokens is None else lexicon.read(calibration).examples
                label, prices = f"{author} {round_number + 1}", start
                if ranges := ranges_of(strategy):
                    masks.activations = _found(masks, read, ranges, job.batch_size)
                if isinstance(strategy, Factorizing):
                    masks.spectra = _spectra(masks, read, strategy, job.batch_size)
                if wants_prices(strategy, anatomy, changed=bool(proposed)):
                    prices = _priced(job, masks, read, progress, label, menu_now(masks, strategy))
                worth = None
                if isinstance(strategy, Narrowing):
                    worth = worth_of(masks, read, strategy, batch_size=job.batch_size, seed=job.seed)
                situation = replace(
                    _situation(job, masks, prices, lexicon, latency), round=round_number, rounds=rounds, channels=worth
                )
                edits = strategy.plan(situation)
                if not edits:
                    continue
                plan = Plan(step=label, author=author, edits=edits)
                if lexicon.rehearsals:
                    joints.append(lexicon.rehearsals.pop().expected)
                else:
                    present = predict(job.subject.model, read, job.batch_size)
                    expected = expected_joint(
                        masks, read, plan.of_components, present, job.batch_size, linears=plan.edits_of_linears
                    )
                    joints.append(expected)
                _print_step(console, f"{author}, round {round_number + 1}", plan, joints[-1][ALL])
                masks.remove(plan.of("remove"))
                masks.quantize(plan.quantized)
                masks.factorize({name: masks.factors_of(name, into) for name, into in plan.factored.items()})
                proposed += edits
                if compensator is not None and plan.calls_for_refits:
                    with progress.track(f"compensating ({author} {round_number + 1})", len(anatomy.layers)) as advance:
                        compensator.refit(advance)
        predicted = None if latency is None else latency.predict(masks.removed)
    _print_slices(console, joints)
    if latency is not None and job.target is not None and predicted is not None:
        _print_time(console, job.target, latency, predicted)
    _print_total(console, anatomy.flops, anatomy.parameters, proposed)
    return proposed


def _found(masks: Masks, examples: Examples, ranges: Ranges, batch_size: int) -> dict[str, Activations]:
    """What enters the linears of the model as it would be then."""
    with masked(masks):
        return find_activations(masks, examples, ranges, batch_size=batch_size)


def _spectra(masks: Masks, examples: Examples, strategy: Strategy, batch_size: int) -> dict[str, Spectrum]:
    """The weights of linears of the model as it would be then, taken apart."""
    with masked(masks):
        return find_spectra(masks, examples, menu_now(masks, strategy), batch_size=batch_size)


def _situation(job: Job, masks: Masks, prices: Prices, lexicon: Lexicon, latency: LatencyTable | None) -> Situation:
    return Situation(
        anatomy=masks.anatomy, prices=prices, removed=masks.removed, round=0, quantized=masks.quantized,
        lexicon=lexicon, storage=job.storage, latency=latency, ranks=masks.ranks, spectra=masks.spectra,
        milliseconds=None if job.target is None or latency is None else job.target.milliseconds(latency),
    )  # fmt: skip


def _print_time(console: Console, target: Target, latency: LatencyTable, predicted: float) -> None:
    original = latency.original.median
    console.print(
        f"Target: {target.words}. Foretold: {predicted:.3g} ms against {original:.3g} ms of the original in float32, "
        f"{original / predicted:.2f} times as fast ({latency.runtime}, {latency.batch} x {latency.tokens} tokens, "
        f"{threads_in_words(latency.threads)})",
        highlight=False,
        soft_wrap=True,
    )


def _priced(
    job: Job, masks: Masks, examples: Examples, progress: Progress, label: str, menu: Menu | None = None
) -> Prices:
    with progress.track(f"pricing ({label})", len(examples)) as advance:
        return price(
            masks,
            examples,
            menu=menu,
            batch_size=job.batch_size,
            refinement=Refinement(),
            moves=MOVES,
            advance=advance,
        )


def _print_step(console: Console, title: str, plan: Plan, joint: Joint) -> None:
    edits = plan.edits
    table = Table(
        title=f"{title}: {counted(plan.counts())} to be {plan.verb}", title_justify="left", header_style="bold"
    )
    table.add_column("component")
    table.add_column("why")
    for edit in edits[:5]:
        table.add_row(edit.component, escape(edit.reason))
    if len(edits) > 5:
        table.add_row("…", f"and {len(edits) - 5:,} more")
    console.print(table)
    console.print(
        f"expected together: loss {joint.loss_change:+.4f} nats, KL {joint.kl:.4f} nats, "
        f"{joint.flips_to_wrong:.2%} of answers newly wrong, {joint.flips_to_right:.2%} newly right (calibration, n = {joint.n:,})\n",
        highlight=False,
        soft_wrap=True,
    )


def _print_total(console: Console, flops: int, parameters: int, edits: list[Edit]) -> None:
    saved = sum(edit.flops_saved for edit in edits)
    lighter = sum(edit.parameters_saved for edit in edits)
    console.print(
        f"In all {len(edits):,} edits: {saved / flops:.1%} of layer FLOPs and {lighter / parameters:.1%} of parameters. "
        "Nothing was changed.",
        highlight=False,
        soft_wrap=True,
    )


def _print_slices(console: Console, joints: list[dict[str, Joint]]) -> None:
    """The expected effect of all rounds on each slice: a sum over the rounds, each expected where it starts."""
    table = Table(title="Whom it is expected to cost (calibration)", title_justify="left", header_style="bold")
    table.add_column("slice")
    for name in ("n", "loss change, nats", "newly wrong", "newly right", "accuracy change"):
        table.add_column(name, justify="right")
    for name in joints[0] if joints else ():
        rounds = [joint[name] for joint in joints]
        table.add_row(
            "all rows" if name == ALL else name,
            f"{rounds[0].n:,}",
            f"{sum(joint.loss_change for joint in rounds):+.4f}",
            f"{sum(joint.flips_to_wrong for joint in rounds):.2%}",
            f"{sum(joint.flips_to_right for joint in rounds):.2%}",
            f"{sum(joint.accuracy_change for joint in rounds):+.2%}",
        )
    console.print(table)
