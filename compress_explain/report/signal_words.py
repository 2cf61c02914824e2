"""How signals, layers and their figures are called in the report."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from compress_explain.data.examples import ALL
from compress_explain.report.numbers import MISSING, count, plain
from compress_explain.signals.findings import FLIPPED, Finding
from compress_explain.signals.found import has_interval

_NUMBER = re.compile(r"\.(\d+)$")
_NOTHING_BEFORE = "embedding"


def spoken_slice(name: str) -> str:
    """
    >>> spoken_slice("flipped"), spoken_slice("negation")
    ('decided otherwise', 'negation')
    """
    return {ALL: "all rows", FLIPPED: "decided otherwise"}.get(name, name)


def layer_in_words(name: str, depths: Sequence[str]) -> str:
    """
    >>> layer_in_words("encoder.layer.3", ["embedding", "encoder.layer.3"])
    'layer 3'
    """
    return "the embedding" if name == _NOTHING_BEFORE else f"layer {short_depth(name, depths)}"


def short_depth(name: str, depths: Sequence[str]) -> str:
    """A depth by its number, and by its stack where there are several of that number.

    >>> short_depth("encoder.layer.3", ["encoder.layer.3"]), short_depth("embedding", []), short_depth("a.3", ["a.3", "b.3"])
    ('3', 'emb.', 'a.3')
    """
    if name == _NOTHING_BEFORE:
        return "emb."
    found = _NUMBER.search(name)
    if found is None:
        return name
    alike = [each for each in depths if each.endswith(found[0])]
    return found[1] if len(alike) < 2 else f"{name.partition('.')[0]}.{found[1]}"


def interval_of(finding: Finding, digits: int = 3) -> str:
    """A value and its interval, or the value alone where it has none.

    >>> interval_of(Finding(part="cka", figure="cka", value=0.5, unit="CKA", n=3, low=0.25, high=0.75), 2)
    '0.50 (0.25 to 0.75)'
    """
    if not has_interval(finding):
        return plain(finding.value, digits)
    return f"{plain(finding.value, digits)} ({plain(finding.low, digits)} to {plain(finding.high, digits)})"


def interval_of_share(finding: Finding) -> str:
    """The same in percent.

    >>> interval_of_share(Finding(part="p", figure="f", value=0.5, unit="share", n=3, low=-0.254, high=1.75))
    '50.0% (−25.4% to 175.0%)'
    """
    if not has_interval(finding):
        return percent(finding.value)
    return f"{percent(finding.value)} ({percent(finding.low)} to {percent(finding.high)})"


def percent(value: float) -> str:
    """With one decimal, so that a value and its interval have as many.

    >>> percent(0.9942), percent(-0.2)
    ('99.4%', '−20.0%')
    """
    return plain(100 * value, 1) + "%" if math.isfinite(value) else MISSING


def told_with_n(finding: Finding) -> str:
    """What a mark says when it is pointed at."""
    return f"{interval_of(finding)}, n = {count(finding.n)}"
