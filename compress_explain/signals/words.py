"""How signals and the figures behind a piece of advice are called."""

from __future__ import annotations

from compress_explain.signals.findings import Finding

_SPOKEN = {"task": "right answer", "decision": "the original's decision", "quality": "decision quality"}


def spoken_signal(name: str) -> str:
    """
    >>> spoken_signal("attribute.negation"), spoken_signal("task")
    ('negation', 'right answer')
    """
    return _SPOKEN.get(name, name.removeprefix("attribute."))


def figures(finding: Finding, digits: int = 3) -> str:
    """A value, its interval and n.

    >>> figures(Finding(part="cka", figure="cka", value=0.5, unit="CKA", n=1300, low=0.25, high=0.75), 2)
    '0.50 (0.25 to 0.75, n = 1,300)'
    """
    value, low, high = (
        f"{each:.{digits}f}".replace("-", "\N{MINUS SIGN}") for each in (finding.value, finding.low, finding.high)
    )
    return f"{value} ({low} to {high}, n = {finding.n:,})"
