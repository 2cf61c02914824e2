"""Edits of one linear's weight: each a function from its input, output and weight to a change of its output."""

from compress_explain.weight_edits.blocks import Blocks
from compress_explain.weight_edits.catalog import WEIGHT_EDITS, weight_edit
from compress_explain.weight_edits.factors import FIRST_AND_SECOND, Factors, weights_saved, whole_name
from compress_explain.weight_edits.floating import Fp8, HalfPrecision, HalfWeight
from compress_explain.weight_edits.gptq import Gptq4
from compress_explain.weight_edits.hqq import Hqq4
from compress_explain.weight_edits.integer import Int8, Int8Dynamic
from compress_explain.weight_edits.low_rank import LowRank
from compress_explain.weight_edits.measured import Activations, Found, Measured, knowing
from compress_explain.weight_edits.spectrum import Spectrum
from compress_explain.weight_edits.static import Int8Static
from compress_explain.weight_edits.twice import Twice
from compress_explain.weight_edits.unedited import Unedited
from compress_explain.weight_edits.weight_edit import Prepared, WeightEdit

__all__ = [
    "FIRST_AND_SECOND",
    "WEIGHT_EDITS",
    "Activations",
    "Blocks",
    "Factors",
    "Found",
    "Fp8",
    "Gptq4",
    "HalfPrecision",
    "HalfWeight",
    "Hqq4",
    "Int8",
    "Int8Dynamic",
    "Int8Static",
    "LowRank",
    "Measured",
    "Prepared",
    "Spectrum",
    "Twice",
    "Unedited",
    "WeightEdit",
    "knowing",
    "weight_edit",
    "weights_saved",
    "whole_name",
]
