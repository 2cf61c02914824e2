"""The same question for what is no removal of a part: weights of linears, and sublayers and layers as wholes."""

from __future__ import annotations

import numpy as np
from figures import Row, beside
from price_quality import MEMBERS, agreement, bar_of, first_order
from subjects import Case

from compress_explain.data.examples import ALL
from compress_explain.pricing.audit import Audit


def linears(case: Case, result: Audit) -> list[Row]:
    """Spearman for the weight edits of all linears; one row an edit x slice."""
    quality = result.quality()
    bare = Audit(frame=result.frame.assign(bare=first_order(case, result.frame))).quality("bare")
    chosen = quality[quality["what"].str.startswith("linear ") & (quality["n"] >= MEMBERS)]
    rows = []
    for index, each in chosen.iterrows():
        facts = {
            "case": case.name,
            "edit": each["what"],
            "slice": each["slice"],
            "n": each["n"],
            "edits": each["edits"],
        }
        told = {"ours": each["spearman"], **beside(each["spearman"], bar_of(case, each["what"], each["slice"]))}
        rows.append(facts | told | {"ours, linear only": bare.loc[index, "spearman"], "slope": each["slope"]})
    return rows


def wholes(case: Case, result: Audit) -> list[Row]:
    """Sublayers and layers: their prices are exact, and what a linearisation would have said of them."""
    rows = []
    for kind in ("sublayer", "layer"):
        part = result.frame[(result.frame["kind"] == kind) & (result.frame["slice"] == ALL)]
        exact = part["exact_loss_change"].to_numpy()
        ours, linear = part["expected_loss_change"].to_numpy(), part["linear_loss_change"].to_numpy()
        rows.append(
            {
                "case": case.name,
                "kind": kind,
                "edits": len(part),
                "ours, largest error": float(np.abs(ours - exact).max()),
                "linear, Spearman": agreement(linear, exact),
                "linear, mean error": float(np.abs(linear - exact).mean()),
                "exact, mean size": float(np.abs(exact).mean()),
            }
        )
    return rows


def calibration(case: Case, result: Audit) -> list[Row]:
    """Over all examples, how well each kind of edit is priced in nats and not just in order."""
    quality = result.quality()
    return [
        {"case": case.name, **each}
        for each in quality[quality["slice"] == ALL].drop(columns="slice").to_dict("records")
    ]
