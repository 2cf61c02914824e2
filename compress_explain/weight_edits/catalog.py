"""The edits of a linear's weight by name. A new kind is one entry in the table."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import MappingProxyType

from compress_explain.errors import InputError, did_you_mean
from compress_explain.weight_edits.blocks import Blocks
from compress_explain.weight_edits.floating import Fp8, HalfPrecision, HalfWeight
from compress_explain.weight_edits.gptq import Gptq4
from compress_explain.weight_edits.hqq import Hqq4
from compress_explain.weight_edits.integer import Int8, Int8Dynamic
from compress_explain.weight_edits.low_rank import LowRank
from compress_explain.weight_edits.static import Int8Static
from compress_explain.weight_edits.weight_edit import WeightEdit

# A name with an N is written with a whole number in its place, which the edit is made with.
_WEIGHT_EDITS: dict[str, Callable[..., WeightEdit]] = {
    "int8": Int8,
    "int8-tensor": lambda: Int8(scales="tensor"),
    "int8-dynamic": Int8Dynamic,
    "int8-static": Int8Static,
    "int8-gN": lambda group: Blocks(bits=8, group=group),
    "int4": lambda: Blocks(bits=4),
    "int4-gN": lambda group: Blocks(bits=4, group=group),
    "int4-gN-hqq": lambda group: Hqq4(group=group),
    "int4-gN-gptq": lambda group: Gptq4(group=group),
    "fp8": Fp8,
    "bf16": lambda: HalfPrecision(format="bf16"),
    "fp16": lambda: HalfPrecision(format="fp16"),
    "bf16-weight": lambda: HalfWeight(format="bf16"),
    "fp16-weight": lambda: HalfWeight(format="fp16"),
    "rankN": lambda rank: LowRank(rank=rank),
}
WEIGHT_EDITS = MappingProxyType(_WEIGHT_EDITS)


def weight_edit(text: str) -> WeightEdit:
    """The edit of that name.

    >>> weight_edit("int4-g64")
    Blocks(bits=4, group=64)
    >>> weight_edit("rank64").parameters_of(outputs=768, inputs=768)
    98304

    Raises:
        InputError: there is no such edit, or not with that number.
    """
    for name, made in WEIGHT_EDITS.items():
        numbers = re.fullmatch(re.escape(name).replace("N", "([0-9]{1,9})"), text)
        if numbers:
            return made(*map(int, numbers.groups()))
    known = did_you_mean(text, WEIGHT_EDITS)
    raise InputError("edits", text, "unknown edit of a linear", f"{known}, N being a whole number")
