"""The report: one HTML file that says what was taken out, what that did, to whom, and what was put back.

It needs no script and loads nothing from outside. Every string from data, labels or names is
escaped by the template engine; figures are drawn as SVG by the templates.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from compress_explain.deployment.targets import targets_of
from compress_explain.report import numbers, signal_words
from compress_explain.report.attributed import attributed, in_words
from compress_explain.report.audited import audited
from compress_explain.report.channels import channels
from compress_explain.report.compared import compared
from compress_explain.report.deployed import deployed
from compress_explain.report.judgement import final_judgement, first_judgement
from compress_explain.report.labels import answers
from compress_explain.report.parts import parts
from compress_explain.report.provenance import provenance
from compress_explain.report.reinstated import reinstated
from compress_explain.report.removed import removed
from compress_explain.report.steps import effects
from compress_explain.report.tokens import tokens
from compress_explain.report.tuned import tuned
from compress_explain.report.units import units
from compress_explain.report.verdict import opening

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run

_TEMPLATES = Path(__file__).parent / "templates"


def render_report(run: Run, texts: dict[str, tuple[str, ...]] | None, labels: dict[int, str]) -> str:
    """The whole page. The same run gives the same bytes.

    ``texts`` maps each split to its rows' texts; None shows "redacted" in their place. ``labels``
    names the classes.
    """
    final, first = final_judgement(run), first_judgement(run)
    page: dict[str, Any] = {
        "opening": opening(run, final),
        "removed": removed(run),
        "units": units(run),
        "deployed": deployed(run),
        "tokens": tokens(run),
        "channels": channels(run),
        "parts": parts(run),
        "audit": audited(run),
        "effects": effects(run, first),
        "attributed": attributed(run, texts),
        "tuned": tuned(run),
        "reinstated": reinstated(run),
        "provenance": provenance(run),
        "unit": answers(run),
        **compared(run.summary["settings"], final, first, texts, labels, targets_of(run.folder)),
    }
    return environment().get_template("report.html").render(page)


def environment() -> Environment:
    """Templates, with everything from outside escaped, and how figures are written."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": numbers.count,
        "signed": numbers.signed,
        "small": numbers.small,
        "plain": numbers.plain,
        "share": numbers.share,
        "magnitude": numbers.magnitude,
        "kinds": numbers.kinds,
        "blame": in_words,
        "interval": signal_words.interval_of,
        "percent": signal_words.percent,
    }
    return environment
