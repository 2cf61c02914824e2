"""Edits of one linear's weight: each a function from its input, output and weight to a change of its output."""

from compress_explain.weight_edits.catalog import WEIGHT_EDITS, weight_edit
from compress_explain.weight_edits.floating import Fp8, HalfPrecision
from compress_explain.weight_edits.integer import Int4, Int8, Int8Dynamic
from compress_explain.weight_edits.low_rank import LowRank
from compress_explain.weight_edits.unedited import Unedited
from compress_explain.weight_edits.weight_edit import Prepared, WeightEdit

__all__ = [
    "WEIGHT_EDITS",
    "Fp8",
    "HalfPrecision",
    "Int4",
    "Int8",
    "Int8Dynamic",
    "LowRank",
    "Prepared",
    "Unedited",
    "WeightEdit",
    "weight_edit",
]
