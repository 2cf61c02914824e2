"""Prices, audits and what carries a slice, for a person at a terminal."""

from __future__ import annotations

import numpy as np
import pandas as pd
from rich.table import Table

from compress_explain.pricing import Audit, Prices
from compress_explain.terminal.console import output

_ENDS = 3  # cheapest and dearest edits that are named


def print_prices(prices: Prices) -> None:
    """What there is to choose from: each kind of edit in one line, its cheapest and dearest, and whom they cost."""
    console = output()
    frame = prices.to_frame()
    overall = frame[frame["slice"] == "all"]
    overall = overall.assign(what=overall["kind"].where(overall["kind"] != "linear", "linear " + overall["edit"]))
    summary = _table(f"{len(prices):,} edits priced on n = {prices.counts[0]:,}", "kind", "edits", "help", "hurt",
                     "all flips to wrong ≤", "method")  # fmt: skip
    for what, part in overall.groupby("what", sort=False):
        loss, error = part["expected_loss_change"], part["expected_loss_change_se"]
        worst = part["expected_flips_to_wrong"].max()
        summary.add_row(
            str(what), f"{len(part):,}", f"{int((loss < -2 * error).sum()):,}", f"{int((loss > 2 * error).sum()):,}",
            "unknown" if np.isnan(worst) else f"{worst:.2%}", ", ".join(part["method"].unique()),
        )  # fmt: skip
    console.print(summary)
    console.print(
        "help, hurt: expected to lower or raise the loss by more than two standard errors.\n", highlight=False
    )
    for what, part in overall.groupby("what", sort=False):
        ordered = part.sort_values("expected_kl", kind="stable")
        ends = ordered if len(part) <= 2 * _ENDS else pd.concat([ordered[:_ENDS], ordered[-_ENDS:]])
        console.print(_ends(f"{what}: least and most change of the predictions", ends, frame))


def _ends(title: str, ends: pd.DataFrame, frame: pd.DataFrame) -> Table:
    slices = len(frame["slice"].unique()) > 1
    table = _table(title, "component", "KL, nats", "loss change, nats", "± se", "FLOPs saved", "bytes saved",
                   *(["hurts most"] if slices else []))  # fmt: skip
    for row in ends.to_dict("records"):
        mine = frame[
            (frame["component"] == row["component"]) & (frame["edit"] == row["edit"]) & (frame["slice"] != "all")
        ]
        cells = [
            row["component"],
            f"{row['expected_kl']:.2g}",
            f"{row['expected_loss_change']:+.2g}",
            f"{row['expected_loss_change_se']:.1g}",
            f"{row['flops_saved']:,}",
            f"{row['bytes_saved']:,}",
        ]
        if slices:
            worst = mine.loc[mine["expected_loss_change"].idxmax()]
            cells.append(f"{worst['slice']} {worst['expected_loss_change']:+.2g}")
        table.add_row(*cells)
    return table


def print_audit(audit: Audit) -> None:
    """How good the price was, overall and on each slice, and where it was furthest off."""
    console = output()
    quality, plain = audit.quality(), audit.quality("linear_loss_change")
    rows = quality[quality["slice"] == "all"]
    table = _table(f"expected against exact loss change, n = {int(rows['n'].iloc[0]):,}", "kind", "edits", "Spearman",
                   "95% interval", "Pearson", "same sign", "slope", "mean error, nats", "bare linearisation")  # fmt: skip
    for row, bare in zip(rows.itertuples(), plain[plain["slice"] == "all"].itertuples(), strict=True):
        table.add_row(
            str(row.what), f"{row.edits:,}", _number(row.spearman), f"{_number(row.low)} to {_number(row.high)}",
            _number(row.pearson), "–" if np.isnan(row.same_sign) else f"{row.same_sign:.0%}", _number(row.slope, 2),
            _number(row.error, 6), _number(bare.spearman),
        )  # fmt: skip
    console.print(table)
    slices = [name for name in quality["slice"].unique() if name != "all"]
    if slices:
        per_slice = _table("Spearman on each slice", "slice", "n", *quality["what"].unique())
        for name in slices:
            part = quality[quality["slice"] == name].set_index("what")
            per_slice.add_row(name, f"{int(part['n'].iloc[0]):,}", *[_number(value) for value in part["spearman"]])
        console.print(per_slice)
    worst = _table("furthest off", "component", "kind", "expected", "exact", "± se", "method")
    for row in audit.worst(5).itertuples():
        worst.add_row(
            row.component, row.what, f"{row.expected_loss_change:+.3g}", f"{row.exact_loss_change:+.3g}",
            f"{row.exact_loss_change_se:.1g}", row.method,
        )  # fmt: skip
    console.print(worst)


def print_bearing(frame: pd.DataFrame, slice_name: str, count: int) -> None:
    """Who carries a slice, and who carries it more than the rest."""
    console = output()
    for kind, part in frame.groupby("kind", sort=False):
        most = part.sort_values("inside", ascending=False, kind="stable")[:count]
        console.print(_carriers(f"{kind}s that carry {slice_name}: without them its loss would rise most", most))
        only = part[(part["inside"] > part["outside"]) & (part["inside"] > 0)].sort_values("p", kind="stable")
        sure = only[only["p"] < 0.05]
        if len(sure):
            console.print(_carriers(f"{kind}s that carry {slice_name} more than the rest (Holm, 5%)", sure[:count]))
        else:
            best = f"; the nearest is {only.iloc[0]['component']} (p = {only.iloc[0]['p']:.2g})" if len(only) else ""
            console.print(
                f"No single {kind} is shown to carry {slice_name} more than the rest (Holm over {len(part):,}, 5%){best}.\n",
                highlight=False, soft_wrap=True,
            )  # fmt: skip


def _carriers(title: str, part: pd.DataFrame) -> Table:
    table = _table(title, "component", "loss inside, nats", "outside", "share of decision inside", "outside", "p")
    for row in part.itertuples():
        table.add_row(
            row.component, f"{row.inside:+.3g} ± {row.inside_se:.1g}", f"{row.outside:+.3g} ± {row.outside_se:.1g}",
            f"{row.share_inside:.2%}", f"{row.share_outside:.2%}", f"{row.p:.2g}",
        )  # fmt: skip
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    return table


def _number(value: float, digits: int = 3) -> str:
    return "–" if np.isnan(value) else f"{value:.{digits}f}"
