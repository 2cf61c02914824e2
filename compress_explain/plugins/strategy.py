"""What a strategy is: a frozen configuration that, shown the prices, proposes the next edits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from compress_explain.choosing.activations import Ranges
from compress_explain.choosing.latency_table import LatencyTable
from compress_explain.choosing.meters import Storage
from compress_explain.editing.edits import Edit
from compress_explain.errors import InputError
from compress_explain.model.anatomy import Anatomy, Layer, Ranks, Sublayer
from compress_explain.model.stream import channels_gone, narrower
from compress_explain.plugins.conformance import is_frozen_dataclass
from compress_explain.pricing.menu import Menu, menu_of_kinds, menu_of_linears
from compress_explain.pricing.prices import Prices
from compress_explain.vocabulary.lexicon import Lexicon
from compress_explain.weight_edits import Spectrum, weight_edit

if TYPE_CHECKING:
    from compress_explain.deployment.scheme import Scheme
    from compress_explain.tuning.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What each channel of the stream is worth: an ``importance``, more for more, and the ``loss_change`` without it alone.

    The latter is to first order, in nats a decision. Those that are removed have an importance of NaN.
    """

    importance: Float[Tensor, " channels"]
    loss_change: Float[Tensor, " channels"]


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a strategy decides on: the model as it is now, and what each further edit would do.

    ``removed`` flags the components of each group that are gone, ``quantized`` names the linears
    that are quantized already; ``unfamiliar`` are the prices of the same edits on texts that the model
    has not seen, where a strategy asks for them and there are texts; ``round`` counts this strategy's calls from 0, of ``rounds`` where that
    was not the strategy's own number. ``lexicon`` answers about tokens; None where nobody asked.
    ``storage`` is how the deployed file will hold weights. ``latency`` is what this machine takes,
    and ``milliseconds`` what the job's target allows; None without a target. ``ranks`` are those of linears that are
    factored already, ``spectra`` what is known of those that could be. ``channels`` are what those of the stream are
    worth, where a strategy asks for it.
    """

    anatomy: Anatomy
    prices: Prices = field(repr=False)
    unfamiliar: Prices | None = field(default=None, repr=False)
    removed: Mapping[str, Tensor] = field(repr=False)
    round: int
    quantized: Collection[str] = ()
    lexicon: Lexicon | None = field(default=None, repr=False)
    rounds: int | None = None
    storage: Storage = field(default_factory=Storage)
    latency: LatencyTable | None = field(default=None, repr=False)
    milliseconds: float | None = None
    ranks: Ranks = field(default_factory=dict, repr=False)
    spectra: Mapping[str, Spectrum] = field(default_factory=dict, repr=False)
    channels: Worth | None = field(default=None, repr=False)

    def flops_left(self, linear: str) -> float:
        """FLOPs of a linear that is not quantized yet, of the share that is left of it; 0 of others."""
        sublayer = self.anatomy.sublayers[linear.rpartition(".")[0]]
        flags = torch.cat([self.removed[name] for name in sublayer.groups])
        share = 0.0 if linear in self.quantized else float((~flags).float().mean())
        own = narrower(self.anatomy.stream, channels_gone(self.removed), self.anatomy.linears[linear])
        if not share or linear not in self.ranks:
            return own.flops * share
        thinner = self.anatomy.weights_saved(linear, self.removed, self.ranks[linear])
        return own.flops * share - 2 * own.tokens * thinner


@runtime_checkable
class Strategy(Protocol):
    """Proposes edits in ``rounds`` rounds; components of ``kinds`` are priced before each."""

    @property
    def kinds(self) -> tuple[str, ...]: ...

    @property
    def rounds(self) -> int: ...

    def plan(self, situation: Situation) -> tuple[Edit, ...]: ...


@runtime_checkable
class Quantizing(Strategy, Protocol):
    """A strategy that says how linears are stored and computed in the deployed file.

    ``weight_edits`` names what simulates that on the masked model, each with how many times as fast as in
    float32 a linear is then taken to be, and ``scheme`` writes the file. One whose edits round by ranges found
    on calibration rows says how in an attribute ``ranges``.
    """

    @property
    def weight_edits(self) -> Mapping[str, float]: ...

    @property
    def scheme(self) -> Scheme: ...


@runtime_checkable
class Factorizing(Strategy, Protocol):
    """A strategy that puts two linears of a smaller rank in the place of one, of ``ranks``: shares of the full rank, in (0, 1]."""

    @property
    def ranks(self) -> tuple[float, ...]: ...


@runtime_checkable
class Narrowing(Strategy, Protocol):
    """A strategy that removes channels of the stream by an ``importance``, found on ``gradient_rows`` rows, in multiples of ``multiple_of``."""

    @property
    def importance(self) -> str: ...

    @property
    def gradient_rows(self) -> int: ...

    @property
    def multiple_of(self) -> int: ...


def ranges_of(strategy: Strategy) -> Ranges | None:
    """How the ranges that a strategy's edits round by are to be found; None where they ask for none."""
    return getattr(strategy, "ranges", None)


@runtime_checkable
class Stepwise(Strategy, Protocol):
    """A strategy of many small steps: each is priced on ``rows`` rows of calibration and on as many unfamiliar texts."""

    @property
    def rows(self) -> int: ...


@runtime_checkable
class Fitting(Strategy, Protocol):
    """A strategy that can say, before anything is priced, whether a model has enough for it."""

    def fit(self, anatomy: Anatomy) -> None: ...


def check_fit(strategies: Sequence[Strategy], anatomy: Anatomy) -> None:
    """Let strategies refuse a model.

    Raises:
        InputError: the model has not enough of what one of them removes, or what is left of its layers
            could not be tuned.
    """
    whole = [each for each in strategies if {Sublayer.kind, Layer.kind} & set(each.kinds)]
    if whole and any(isinstance(each, Tuning) for each in strategies):
        names = [type(each).__name__.lower() for each in strategies]
        problem = "a model that lost whole sublayers or layers cannot be tuned"
        raise InputError("strategies", names, problem, "leave out the tuning, or sublayers and layers")
    for strategy in strategies:
        if isinstance(strategy, Fitting):
            strategy.fit(anatomy)


def check_order(strategies: Sequence[Strategy], *, timed: bool) -> None:
    """Refuse strategies in an order that cannot work, or ``timed`` ones whose time nobody can foretell.

    Raises:
        InputError: linears are factored once they are quantized, or where there is a target or channels go; or
            channels go where there is a target.
    """
    names = [type(each).__name__.lower() for each in strategies]
    factorizing = [place for place, each in enumerate(strategies) if isinstance(each, Factorizing)]
    rounding = [place for place, each in enumerate(strategies) if isinstance(each, Quantizing)]
    if factorizing and rounding and rounding[0] < factorizing[-1]:
        problem = (
            f"{names[rounding[0]]} stands before {names[factorizing[-1]]}: what is rounded is not factored any more"
        )
        raise InputError(
            "strategies", names, problem, f"put {names[factorizing[-1]]} first; both of its linears are then quantized"
        )
    if factorizing and timed:
        problem = "what a target needs is foretold by timing whole linears, and factored ones take another time"
        raise InputError("strategies", names[factorizing[0]], problem, "leave the target out, or that strategy")
    narrowing = [place for place, each in enumerate(strategies) if isinstance(each, Narrowing)]
    if narrowing and timed:
        problem = "what a target needs is foretold by timing sublayers in their whole width"
        raise InputError("strategies", names[narrowing[0]], problem, "leave the target out, or that strategy")
    if narrowing and factorizing:
        problem = "the factors of a linear are of its whole width"
        raise InputError("strategies", names, problem, f"leave out {names[narrowing[0]]} or {names[factorizing[0]]}")


def wants_prices(strategy: Strategy, anatomy: Anatomy, *, changed: bool) -> bool:
    """Whether a round needs prices of its own: those of the start hold every head and neuron, until one is ``changed``."""
    kinds = set(strategy.kinds)
    whole = kinds & {Sublayer.kind, Layer.kind}
    return (
        isinstance(strategy, Quantizing | Factorizing | Stepwise)
        or bool(whole)
        or (changed and bool(kinds & set(anatomy.kinds)))
    )


@runtime_checkable
class Tuning(Strategy, Protocol):
    """A strategy that edits no component: what is left is tuned as its ``recipe`` says."""

    @property
    def recipe(self) -> Recipe: ...


@runtime_checkable
class Paced(Strategy, Protocol):
    """A strategy that needs as many rounds as there is to remove, which depends on the model."""

    def rounds_from(self, situation: Situation) -> int:
        """How many rounds it takes from here."""
        ...


def rounds_of(strategy: Strategy, situation: Situation) -> int:
    """How many rounds a strategy gets that begins in ``situation``."""
    return strategy.rounds_from(situation) if isinstance(strategy, Paced) else strategy.rounds


def menu_of(anatomy: Anatomy, strategy: Strategy) -> Menu:
    """What a strategy chooses from.

    Raises:
        InputError: the model has nothing of the kind.
    """
    if isinstance(strategy, Quantizing):
        return menu_of_linears(anatomy, [weight_edit(name) for name in strategy.weight_edits])
    return menu_of_kinds(anatomy, strategy.kinds)


def check_strategy(strategy: object) -> None:
    """Raise if ``strategy`` is not a frozen dataclass with ``kinds``, ``rounds`` and ``plan``.

    Raises:
        TypeError: what is missing.
    """
    name = type(strategy).__name__
    if not is_frozen_dataclass(strategy):
        raise TypeError(f"strategy {name} must be a frozen dataclass: it is its own configuration")
    if not isinstance(strategy, Strategy):
        raise TypeError(f"strategy {name} must have kinds, rounds and plan(situation)")
    if not strategy.kinds or strategy.rounds < 1:
        raise TypeError(f"strategy {name} must name at least one kind and one round")
