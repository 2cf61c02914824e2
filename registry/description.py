"""The Markdown that stands on top of a run's page."""

from __future__ import annotations

from typing import Any

from compress_explain.editing.edits import counted
from compress_explain.record.outcome import Run

from .names import LONGEST_VALUE

VERDICTS = 15  # rows of the table; overview/1_gates.json has all
_MEANING = {
    "pass": "Every gate held on the file that would be deployed",
    "fail": "At least one gate failed: do not release",
    "inconclusive": "No gate failed, but the examples do not suffice to say that every gate holds",
}
_CONTENTS = """\
### Where to look
- **Artifacts → report.html**: the whole story on one page
- **Artifacts → overview**: gates, scores, steps, layers, components and ledger as tables
- **Model metrics**: `test/…` compares the models, `layer/…` shows what each layer keeps (step = layer), \
`course/…` what each step did (step = its position), `signals/…` what both models still know (step = depth), if that was measured
- **Child runs**: one a step, each with its expected and its observed effect
- **Logged models**: the compressed model, ready to be loaded"""


def describe(run: Run, model_uri: str | None) -> str:
    """What was compressed, whether it may be released, and where to read on."""
    facts = run.summary
    parts = [
        f"## Verdict: {facts['state']}\n{_MEANING[facts['state']]} (judged on {facts['judged_split']}). {_sizes(facts)}",
        _changes(facts),
        verdict_table(facts["verdicts"]),
        _CONTENTS,
    ]
    if model_uri:
        parts.append(f"### Use the compressed model\n```python\nmlflow.pyfunc.load_model({model_uri!r})\n```")
    return "\n\n".join(part for part in parts if part)


def model_name(run: Run) -> str:
    """The last part of the model's folder or hub id."""
    return str(run.summary["settings"]["model"]).rstrip("/").rpartition("/")[2] or "model"


def _sizes(facts: dict[str, Any]) -> str:
    parameters, flops = (_change(facts[quantity]) for quantity in ("parameters", "flops"))
    return f"{parameters} parameters, {flops} FLOPs an example of {facts['tokens']} tokens."


def _change(quantity: dict[str, int]) -> str:
    original, compressed = quantity["original"], quantity["compressed"]
    share = f" ({compressed / original - 1:+.0%})" if original else ""
    return f"{_large(original)} → {_large(compressed)}{share}"


def _large(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)


def _changes(facts: dict[str, Any]) -> str:
    removed, restored = (
        {kind: counts[status] for kind, counts in facts["components"].items() if counts[status]}
        for status in ("removed", "restored")
    )
    text = f"Removed: {counted(removed) or 'nothing'}."
    text += f" Put back because a gate asked for it: {counted(restored)}." if restored else ""
    runs = facts["deployed"]
    text += f" What runs: {runs['file']} ({runs['runtime']} {runs['scheme']})." if runs else ""
    return f"{text} From: {_plain(str(facts['settings']['model'])[:LONGEST_VALUE])}."


def verdict_table(verdicts: list[dict[str, Any]]) -> str:
    """Those with the least room first, :data:`VERDICTS` of them."""
    ranked = sorted(verdicts, key=lambda verdict: float("-inf") if verdict["slack"] is None else verdict["slack"])
    rows = [_row(verdict) for verdict in ranked[:VERDICTS]]
    head = "| verdict | gate | slice | estimate | interval | examples |\n|---|---|---|---|---|---|\n"
    more = f"\n\n… and {len(ranked) - VERDICTS} more, with more room." if len(ranked) > VERDICTS else ""
    return head + "\n".join(rows) + more


def _row(verdict: dict[str, Any]) -> str:
    interval = f"{_figure(verdict['low'])} to {_figure(verdict['high'])}"
    cells = (
        verdict["state"],
        _plain(verdict["gate"]),
        _plain(verdict["slice"]),
        _figure(verdict["estimate"]),
        interval,
        f"{verdict['n']:,}",
    )
    return f"| {' | '.join(cells)} |"


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.4f}"


def _plain(text: str) -> str:
    """Text that neither Markdown nor HTML reads as anything else."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + char if char in "\\|`*_[]" else char for char in escaped)
