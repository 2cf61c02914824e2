"""The transformer families whose anatomy is known: one row of data each.

To add a family, write where its parts lie, relative to ``model.base_model``, and call
:func:`register`. Nothing else in the toolkit depends on a family's name.
"""

from compress_explain.families import decoders, encoder_decoders, encoders, images  # noqa: F401 (each registers its rows)
from compress_explain.families.parts import AttentionParts, Family, FeedForwardParts, RelativePositions, Stack
from compress_explain.families.table import families, family_of, refuse, refused, register

__all__ = [
    "AttentionParts",
    "Family",
    "FeedForwardParts",
    "RelativePositions",
    "Stack",
    "families",
    "family_of",
    "refuse",
    "refused",
    "register",
]
