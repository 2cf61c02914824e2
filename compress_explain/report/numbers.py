"""How figures are written in the report: signs, thousands, shares, counts of components."""

from __future__ import annotations

import math
from collections.abc import Mapping

MISSING = "–"
_MINUS = "\N{MINUS SIGN}"
_SPOKEN = {"kv_group": "key-value group"}


def count(value: int | None) -> str:
    """
    >>> count(1821)
    '1,821'
    """
    return MISSING if value is None else f"{value:,}"


def signed(value: float | None, digits: int = 4) -> str:
    """A change, always with its sign; what rounds to nothing has none.

    >>> signed(-0.01812), signed(0.5, 2), signed(-0.00001)
    ('−0.0181', '+0.50', '0.0000')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if round(value, digits) == 0:
        return f"{0:.{digits}f}"
    return f"{value:+.{digits}f}".replace("-", _MINUS)


def plain(value: float | None, digits: int = 4) -> str:
    """
    >>> plain(0.89676, 3), plain(None), plain(-0.001, 2)
    ('0.897', '–', '0.00')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if round(value, digits) == 0:
        value = 0.0
    return f"{value:.{digits}f}".replace("-", _MINUS)


def correlation(value: float | None) -> str:
    """Two decimals, or three where two would show a perfect one that is none.

    >>> correlation(0.9712), correlation(0.99962), correlation(1.0), correlation(-0.998)
    ('0.97', '0.999', '1.00', '−0.998')
    """
    if value is None or not 0.995 <= abs(value) < 1:
        return plain(value, 2)
    return plain(math.copysign(math.floor(1000 * abs(value) + 1e-9) / 1000, value), 3)


def small(value: float | None, *, signs: bool = False) -> str:
    """With as many decimals as it takes to tell it from 0: four, or two significant digits.

    >>> small(0.0123456), small(0.000012345, signs=True), small(-0.00099)
    ('0.0123', '+0.000012', '−0.00099')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    digits = 4 if abs(value) >= 0.001 or value == 0 else 1 - math.floor(math.log10(abs(value)))
    return signed(value, digits) if signs else plain(value, digits)


def share(value: float | None) -> str:
    """A share in percent, with a decimal only where a whole number would hide it.

    >>> share(0.3586), share(0.0057), share(1.0)
    ('36%', '0.6%', '100%')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    percent = 100 * value
    return f"{percent:.1f}%" if 0 < percent < 10 or 99 < percent < 100 else f"{percent:.0f}%"


def magnitude(value: int) -> str:
    """Three digits and thousands, millions or billions.

    >>> magnitude(22713986), magnitude(640), magnitude(1_250_000_000)
    ('22.7 M', '640', '1.25 G')
    """
    for size, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}" if value < 999.5 * size else f"{value / size:,.0f} {letter}"
    return str(value)


def kinds(counts: Mapping[str, int]) -> str:
    """
    >>> kinds({"head": 1, "kv_group": 2})
    '1 head, 2 key-value groups'
    """
    spoken = ((_SPOKEN.get(kind, kind.replace("_", " ")), number) for kind, number in counts.items())
    named = (f"{number:,} {name}{'' if number == 1 else 's'}" for name, number in spoken)
    return ", ".join(named) or "nothing"
