"""The ledger for a person: what happened in a run, and to one component."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from compress_explain.choosing.target import told
from compress_explain.deployment.forms import spoken
from compress_explain.editing.edits import VERBS, counted
from compress_explain.errors import InputError, did_you_mean
from compress_explain.model.embedding import TOKENS
from compress_explain.model.stream import CHANNELS
from compress_explain.record.ledger import Ledger, Record
from compress_explain.record.replay import applied_plans, read_ledger
from compress_explain.terminal.console import output


def print_ledger(folder: Path, console: Console | None = None) -> None:
    """One line a record of a verified ledger."""
    ledger = read_ledger(folder)
    table = Table(title=f"{len(ledger.records)} records, chain verified", title_justify="left", header_style="bold")
    for name in ("#", "time (UTC)", "step", "what happened", "hash"):
        table.add_column(name, no_wrap=name != "what happened")
    for record in ledger:
        table.add_row(str(record.seq), record.time[11:19], record.step, describe(record), record.hash[:8])
    (console or output()).print(table)


def describe(record: Record) -> str:
    """A record in words."""
    body = record.body
    match record.kind:
        case "started":
            return f"started on {body['model']['source']} ({body['model']['parameters']:,} parameters)"
        case "priced":
            return f"priced {body['components']:,} components on {body['rows']:,} rows of {body['split']}"
        case "audited":
            return f"audited the price of {body['edits']} edits on {body['rows']:,} rows: {_ranks(body['quality'])}"
        case "planned":
            time = f"; {body['milliseconds']:.3g} ms foretold" if "milliseconds" in body else ""
            return f"{body['author']} proposed to {body['action']}: {counted(body['counts']) or 'nothing'}{time}"
        case "applied":
            return f"masked; together expected loss {body['expected']['loss_change']:+.4f} nats"
        case "refitted":
            missing = f"{body['missing_before']:.1%} to {body['missing_after']:.1%}"
            return f"refitted {body['linears']} linears on {body['rows']:,} rows: missing at the sites, from {missing}"
        case "tuned":
            kl, accuracy = ((body[f"{name}_before"], body[f"{name}_after"]) for name in ("kl", "accuracy"))
            return (
                f"tuned {body['modules']} linears and norms on {body['rows_read']:,} rows: KL to the original on validation from "
                f"{kl[0]:.4f} to {kl[1]:.4f} nats, accuracy from {accuracy[0]:.4f} to {accuracy[1]:.4f}"
            )
        case "compensated":
            return f"compensation: loss {body['observed']['loss_change']:+.4f} nats"
        case "predicted":
            return f"evaluated on {body['rows']:,} rows of {body['split']}"
        case "observed":
            expected, observed = body["expected"]["loss_change"], body["observed"]["loss_change"]
            return f"loss expected {expected:+.4f}, observed {observed:+.4f} nats"
        case "judged":
            return f"judged on {body['split']}: {body['state']}" + _worst(body["verdicts"])
        case "ranked":
            return f"{body['considered']:,} pipelines {record.step}: {len(body['kept'])} go on" + _agreed(body)
        case "tried":
            return f"tried on {body['rows']:,} rows of {body['split']}: KL {body['kl']:.4f} nats, accuracy {body['accuracy_change']:+.4f}"
        case "trial":
            came = body["trouble"] or f"{body['state']} on validation, accuracy {body['accuracy_change']:+.4f}"
            return f"{body['pipeline']}, in {body['folder']}: {came}"
        case "named":
            chosen = "none" if body["number"] is None else f"trial {body['number']}"
            return f"named {chosen}: {body['why']}"
        case "reverted":
            return f"taken back: {body['why']}"
        case "materialized":
            return f"wrote the artifact: {body['parameters']:,} parameters, {body['bytes'] / 1e6:.1f} MB"
        case "measured":
            return f"fastest on {body['processor']}: {spoken(body)}"
        case "traced":
            return f"found {body['channels']:,} channels of the residual stream in {body['places']} parameters"
        case "ranged":
            return f"found what enters {body['linears']} linears, on {body['rows']:,} rows of {body['split']}"
        case "deployed":
            return f"what runs: {body['file']}, {body['runtime']} {body['scheme']}, {body['bytes'] / 1e6:.1f} MB"
        case "written":
            return f"wrote {record.step} beside it, {body['bytes'] / 1e6:.1f} MB, equal to the model up to {body['difference']:.1g}"
        case "compared":
            change = body["change"]["loss_change"]
            return f"what runs beside the masked model: same answer for {body['agreement']:.2%} of {body['n']:,} rows, loss {change:+.4f} nats"
        case "timed" if record.step == "start":
            whole, aim = body["whole"]["median"], body["aim"]
            return f"timed sublayers ({body['runtime']}): the whole takes {whole:.3g} ms; the target is {aim}"
        case "timed":
            return told(body)
        case "finished":
            return f"finished: {body['state']}"
        case _:
            return record.kind


def _agreed(body: dict[str, Any]) -> str:
    """How well a rung of a search agreed with what was expected of it."""
    told = body.get("agreement") or {"together": None}
    return "" if told["together"] is None else f"; expected and seen KL agree in rank at {told['together']:.2f}"


def print_component(folder: Path, component: str, console: Console | None = None) -> None:
    """What was expected of one component, what was done with it, when and why.

    Raises:
        InputError: the run knows no such component.
    """
    console = console or output()
    ledger = read_ledger(folder)
    tables = [name for record in ledger.of_kind("priced") for name in record.files]
    prices = pd.concat([pd.read_parquet(folder / name) for name in tables])
    mine = prices[prices["component"] == component]
    mine = mine[~mine.duplicated("slice")]  # as it was priced first
    if component.startswith((f"{TOKENS}.", f"{CHANNELS}.")):
        if not _print_story(console, ledger, component):
            kind = "token" if component.startswith(TOKENS) else "channel"
            console.print(f"No step removed it; a {kind} that stays has no price.")
        return
    if mine.empty:
        known = prices["component"].unique()
        raise InputError(
            "component", component, "this run knows no such component", did_you_mean(component, known[:2000])[:300]
        )
    first = mine.iloc[0]
    console.print(
        f"[bold]{component}[/] ({first['kind']}): {first['parameters_saved']:,} parameters, {first['flops_saved']:,} FLOPs"
    )
    console.print(_price_table(mine))
    if not _print_story(console, ledger, component):
        console.print("It was priced and kept.")


def _print_story(console: Console, ledger: Ledger, component: str) -> bool:
    """Every step that switched a component, with its reason; whether there was one."""
    times = {record.step: record.time for record in ledger.of_kind("applied")}
    touched = False
    for applied in applied_plans(ledger):
        for edit in (edit for edit in applied.plan.edits if f"{component}.".startswith(f"{edit.component}.")):
            touched = True
            inside = "" if edit.component == component else f" with {edit.component}"  # the sublayer or layer
            verb = VERBS[edit.action] + inside + (" on trial" if applied.reverted else "")
            console.print(
                f"{times[applied.plan.step]}  {verb} at step {applied.plan.step}: {edit.reason}",
                highlight=False,
                soft_wrap=True,
                markup=False,
            )
            _print_effect(console, ledger.find("observed", applied.plan.step), len(applied.plan))
    return touched


def _price_table(prices: pd.DataFrame) -> Table:
    table = Table(title="Expected if it alone were removed (first prices)", title_justify="left", header_style="bold")
    table.add_column("slice")
    for name in ("n", "loss change, nats", "± s.e.", "KL, nats", "newly wrong", "newly right"):
        table.add_column(name, justify="right")
    for row in prices.to_dict("records"):
        table.add_row(
            row["slice"], f"{row['n']:,}", f"{row['expected_loss_change']:+.5f}", f"{row['expected_loss_change_se']:.5f}",
            f"{row['expected_kl']:.5f}", f"{row['expected_flips_to_wrong']:.2%}", f"{row['expected_flips_to_right']:.2%}",
        )  # fmt: skip
    return table


def _print_effect(console: Console, record: Record | None, size: int) -> None:
    if record is None:
        return
    expected, observed = record.body["expected"], record.body["observed"]
    console.print(
        f"    the step's {size:,} edits together: loss expected {expected['loss_change']:+.4f}, observed "
        f"{observed['loss_change']:+.4f} nats; accuracy {observed['accuracy_change']:+.4f} on validation",
        highlight=False,
        soft_wrap=True,
    )


def _ranks(quality: list[dict[str, Any]]) -> str:
    known = [row for row in quality if row["spearman"] is not None]
    return ", ".join(f"{row['what']}s rank at {row['spearman']:.3f}" for row in known) or "too few to rank"


def _worst(verdicts: list[dict[str, Any]]) -> str:
    troubled = [row for row in verdicts if row["state"] != "pass"]
    if not troubled:
        return f", all {len(verdicts)} gates hold"
    worst = min(troubled, key=lambda row: row["slack"] if row["slack"] is not None else float("-inf"))
    return f", {len(troubled)} of {len(verdicts)} gates do not hold; worst: {worst['metric']} on {worst['slice']}"
