"""Quantize what is cheap to quantize and leave the rest higher: decided by price, before anything is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compress_explain.choosing.activations import Ranges
from compress_explain.choosing.quantizing import Offer, joint_kl, offers, quantize
from compress_explain.choosing.ranking import ordinal
from compress_explain.editing.edits import Edit
from compress_explain.errors import InputError
from compress_explain.plugins.catalog import STRATEGIES
from compress_explain.plugins.strategy import Quantizing, Situation
from compress_explain.pricing import Prices
from compress_explain.pricing.menu import FLOAT_BYTES

from .weight_only import WeightOnly

if TYPE_CHECKING:
    from compress_explain.deployment.scheme import Scheme


@dataclass(frozen=True, kw_only=True)
class MixedPrecision:
    """Quantize as many linears as an allowed loss pays for, those first whose rounding costs least for what it saves.

    ``to`` is how: another strategy that quantizes, in Python as an object, in a file by its name or as a
    mapping from its name to its options. Linears are taken in the order of expected KL per saved work,
    and each that fits in, until the KL expected of all of them together would exceed ``loss`` (nats, mean per
    example). The others stay in float32, or are stored in 8 bits where ``to`` is ``weight_only`` in 4.

    ``float_kept`` is the share of the FLOPs of all linears, in [0, 1], and ``float_bytes`` the bytes, that may
    stay so at most, and go before ``loss``. Without a ``loss`` as much stays as they allow, what costs most first.

    Raises:
        InputError: on creation, where no budget is given, or ``to`` cannot be.
    """

    to: Any = "int8_dynamic"
    loss: float | None = None
    float_kept: float | None = None
    float_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.loss is None and self.float_kept is None and self.float_bytes is None:
            raise _refused("loss", None, "no budget is given", "give loss (nats), float_kept or float_bytes")
        for name, value, most in (
            ("loss", self.loss, 100.0),
            ("float_kept", self.float_kept, 1.0),
            ("float_bytes", self.float_bytes, 1e15),
        ):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value <= most):
                raise _refused(name, value, f"is no number in [0, {most:g}]", "give for example 0.01, of bytes 1000000")
        if getattr(self.base, "float_kept", 0):
            raise _refused(
                "to", self.to, "chooses by itself what stays in float32", "give float_kept to mixed_precision"
            )

    @property
    def base(self) -> Quantizing:
        """The strategy that says how linears are quantized."""
        name, options = _named(self.to)
        if name == "mixed_precision":
            raise _refused(
                "to", self.to, "is this strategy itself", "name int8_dynamic, int8_static, weight_only or half"
            )
        found = self.to if name is None else STRATEGIES.build(name, options)
        if not isinstance(found, Quantizing):
            raise _refused("to", self.to, "does not quantize", "name int8_dynamic, int8_static, weight_only or half")
        return found

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("linear",)

    @property
    def rounds(self) -> int:
        return 1

    @property
    def weight_edits(self) -> Mapping[str, float]:
        return {**self.base.weight_edits, **_higher(self.base)}

    @property
    def ranges(self) -> Ranges | None:
        return getattr(self.base, "ranges", None)

    @property
    def scheme(self) -> Scheme:
        return self.base.scheme

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        base, prices = self.base, situation.prices
        [(edit, speedup)] = base.weight_edits.items()
        order = offers(situation, edit, speedup)
        chosen = self._within_limits(situation, order, self._affordable(prices, order))
        joint = joint_kl(prices, [each.index for each in chosen])
        rank = {each.index: place for place, each in enumerate(order, start=1)}
        edits = [
            quantize(
                prices, each,
                f"{ordinal(rank[each.index])} cheapest of {len(order)} for what it saves, among {len(chosen)} of which "
                f"{joint:.2g} nats KL are expected together",
            )
            for each in chosen
        ]  # fmt: skip
        kept = {prices.components[each.index] for each in order} - {edit.component for edit in edits}
        for name, speedup in _higher(base).items():
            others = [each for each in offers(situation, name, speedup) if prices.components[each.index] in kept]
            edits += [quantize(prices, each, "rounding it further would cost too much") for each in others]
        return tuple(edits)

    def _affordable(self, prices: Prices, order: list[Offer]) -> list[Offer]:
        """What fits into the allowed loss, in that order; all of it where there is none."""
        if self.loss is None:
            return list(order)
        chosen = list[Offer]()
        for each in order:
            if joint_kl(prices, [offer.index for offer in (*chosen, each)]) <= self.loss:
                chosen.append(each)
        return chosen

    def _within_limits(self, situation: Situation, order: list[Offer], affordable: list[Offer]) -> list[Offer]:
        """Leave as it is what is not affordable, or without a loss anything, what costs most first, while there is room."""
        taken = {each.index for each in affordable} if self.loss is not None else set[int]()
        flops = sum(each.flops for each in order)
        room_flops = float("inf") if self.float_kept is None else self.float_kept * flops + 0.5
        room_bytes = float("inf") if self.float_bytes is None else float(self.float_bytes)
        kept = set[int]()
        for each in reversed(order):
            size = self._bytes(situation, each)
            if each.index not in taken and each.flops <= room_flops and size <= room_bytes:
                kept.add(each.index)
                room_flops, room_bytes = room_flops - each.flops, room_bytes - size
        return [each for each in order if each.index not in kept]

    def _bytes(self, situation: Situation, offer: Offer) -> float:
        """Bytes of what is left of a linear where it is not quantized as ``to`` says."""
        prices = situation.prices
        name = prices.components[offer.index]
        linear = situation.anatomy.linears[name]
        whole = FLOAT_BYTES * linear.outputs * linear.inputs
        for edit in _higher(self.base):
            column = [
                index for index, each in enumerate(prices.edits) if each == edit and prices.components[index] == name
            ]
            whole -= int(prices.bytes[column[0]])
        return whole * offer.flops / linear.flops


def _higher(base: Quantizing) -> Mapping[str, float]:
    """What is between a strategy and float32: 8 bits, if its own are 4."""
    if isinstance(base, WeightOnly) and base.bits == 4:
        return replace(base, bits=8, method="rtn").weight_edits
    return {}


def _named(to: object) -> tuple[str | None, dict[str, Any]]:
    """The name and options that a file gives; no name for an object."""
    if isinstance(to, str):
        return to, {}
    if isinstance(to, Mapping):
        if len(to) != 1 or not all(isinstance(each, str) for each in to):
            raise _refused("to", to, "names not exactly one strategy", "write {int8_static: {smooth: 0.5}}")
        [(name, options)] = to.items()
        return name, dict(options or {})
    return None, {}


def _refused(option: str, value: object, problem: str, remedy: str) -> InputError:
    return InputError(f"strategies: mixed_precision.{option}", value, problem, remedy)
