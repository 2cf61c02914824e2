"""Which pipelines there are: strategies of the catalogue in an order that makes sense, with budgets on a grid.

A strategy is offered by what it is, not by its name. One whose options name a share of FLOPs that is kept
is tried at every level, one that is complete without options as it is, one with an allowed loss at each of
some. One that quantizes comes last; before it one that tunes, if it was asked for and then in every pipeline that removes; before
both one of tokens. All others come first, alone or two of them in either order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any

from compress_explain.choosing.target import Target, check_open
from compress_explain.errors import InputError
from compress_explain.model.embedding import TOKEN
from compress_explain.plugins.catalog import STRATEGIES
from compress_explain.plugins.strategy import Factorizing, Narrowing, Quantizing, Strategy, Tuning
from compress_explain.search.options import Search

_FACTORING = "its factors follow from what was removed before, which a search does not price yet"
_NARROWING = "what its channels are worth is found on the model as it is then, which a search does not price yet"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One strategy with the options that it is tried with."""

    name: str
    options: Mapping[str, Any]
    strategy: Strategy = field(repr=False)

    @property
    def words(self) -> str:
        """``structured(flops_kept=0.4)``."""
        options = ", ".join(f"{name}={_spoken(value)}" for name, value in self.options.items())
        return f"{self.name}({options})" if options else self.name

    @property
    def level(self) -> float | None:
        """The share of FLOPs that it keeps; None where that is not what it is told."""
        return self.options.get("flops_kept")

    @property
    def open(self) -> bool:
        """Whether how much it removes is left to the job's target."""
        return bool(getattr(getattr(self.strategy, "budget", None), "left_to_target", False))


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Strategies in order, each with its budget."""

    steps: tuple[Variant, ...]

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        return tuple(step.strategy for step in self.steps)

    @property
    def words(self) -> str:
        """``layers(flops_kept=0.8) → int8_dynamic``."""
        return " → ".join(step.words for step in self.steps)

    @property
    def open(self) -> bool:
        """Whether any step leaves its budget to the job's target."""
        return any(step.open for step in self.steps)


@dataclass(frozen=True, kw_only=True)
class Space:
    """All that may be tried: ``chains`` of removals, and what may follow one; ``left_out`` says why of what may not."""

    chains: tuple[Pipeline, ...] = field(repr=False)
    tokens: tuple[Variant, ...]
    tuning: Variant | None
    quantizing: tuple[Variant, ...]
    own: tuple[Pipeline, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def variants(self) -> dict[str, Variant]:
        """Every step by its words."""
        pipelines = (*self.chains, *self.own)
        steps = [step for pipeline in pipelines for step in pipeline.steps]
        tuning = () if self.tuning is None else (self.tuning,)
        return {step.words: step for step in (*steps, *self.tokens, *tuning, *self.quantizing)}

    def following(self, chains: Sequence[Pipeline]) -> Iterator[Pipeline]:
        """Every chain, and none, with every combination of what may follow it; what is whole is not tuned."""
        for tokens, quantizing in product(((), *_each(self.tokens)), ((), *_each(self.quantizing))):
            for chain in (Pipeline(steps=()), *chains):
                tuning = () if self.tuning is None or not chain.steps else (self.tuning,)
                if steps := (*chain.steps, *tokens, *tuning, *quantizing):
                    yield Pipeline(steps=steps)


def space(search: Search, target: Target | None, own: Sequence[Strategy] = ()) -> Space:
    """What ``search`` may try in a job with this ``target``; ``own`` are the strategies that the job lists.

    Raises:
        InputError: an entry of ``search.strategies`` cannot be built, or something factorizes or narrows the stream.
    """
    left_out: dict[str, str] = {}
    found = list[Variant]()
    for entry in sorted(STRATEGIES) if search.strategies is None else search.strategies:
        found += _variants(entry, search, target, left_out)
    roles: dict[str, list[Variant]] = {"remove": [], "tokens": [], "tune": [], "quantize": []}
    for variant in found:
        roles[_role(variant.strategy)].append(variant)
    if len(roles["tune"]) > 1:
        names = [each.words for each in roles["tune"]]
        raise InputError(
            "search.strategies", names, "what a tuning gives is not priced, so none can be chosen", "name one"
        )
    for each in own:
        if reason := _not_foretold(each):
            name = type(each).__name__.lower()
            raise InputError(f"strategies: {name}", "search", reason, "leave it out, or use run")
    listed = [Variant(name=type(each).__name__.lower(), options=_options(each), strategy=each) for each in own]
    return Space(
        chains=tuple(_chains(roles["remove"])),
        tokens=tuple(roles["tokens"]),
        tuning=next(iter(roles["tune"]), None),
        quantizing=tuple(roles["quantize"]),
        own=(Pipeline(steps=tuple(listed)),) if listed else (),
        left_out=left_out,
    )


def _variants(entry: Any, search: Search, target: Target | None, left_out: dict[str, str]) -> list[Variant]:
    if not isinstance(entry, str | Mapping):
        if reason := _not_foretold(entry):
            name = type(entry).__name__.lower()
            raise InputError("search.strategies", name, reason, "leave it out, and run it in a job of its own")
        return [Variant(name=type(entry).__name__.lower(), options=_options(entry), strategy=entry)]
    name, given = _named(entry)
    cls = STRATEGIES.load(name)
    known = [option.name for option in fields(cls)]
    grid = {option: value if isinstance(value, list) else [value] for option, value in given.items()}
    fixed = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    built = list[Variant]()
    for options in fixed:
        for more in _budgets(name, options, known, search, target):
            options_of_one = {**options, **more}
            built.append(Variant(name=name, options=options_of_one, strategy=STRATEGIES.build(name, options_of_one)))
    if search.strategies is None and any(isinstance(each.strategy, Tuning) for each in built):
        left_out[name] = "what is left is tuned only when search.strategies names it: it takes much longer"
        return []
    if reason := next(filter(None, (_not_foretold(each.strategy) for each in built)), ""):
        if search.strategies is not None:
            raise InputError("search.strategies", name, reason, "leave it out, and run it in a job of its own")
        left_out[name] = reason
        return []
    if not built:
        left_out[name] = "it needs options that the search does not know: give them in search.strategies"
    return built


def _not_foretold(strategy: Strategy) -> str:
    """Why a search cannot say what a strategy would do; empty where it can."""
    return _FACTORING if isinstance(strategy, Factorizing) else _NARROWING if isinstance(strategy, Narrowing) else ""


def _budgets(
    name: str, options: Mapping[str, Any], known: Sequence[str], search: Search, target: Target | None
) -> list[dict[str, Any]]:
    """What to add to ``options`` so that the strategy is complete, each a variant of its own."""
    if set(options) & {"share", "count", "loss", "flops_kept", "parameters_kept", "bytes_kept"}:
        return [{}]
    alone: list[dict[str, Any]] = [{}] if _complete(name, options, target) else []
    if "flops_kept" in known:
        levels = sorted({*search.levels, *([search.flops_kept] if search.flops_kept else [])} - {1.0}, reverse=True)
        aims = [
            {aim: value} for aim, value in search.aims.items() if aim != "flops_kept" and aim in known and value < 1
        ]
        return [*({"flops_kept": level} for level in levels), *aims, *(alone if target else [])]
    if alone:
        return alone
    return [{"loss": loss} for loss in search.losses] if "loss" in known else []


def _complete(name: str, options: Mapping[str, Any], target: Target | None) -> bool:
    """Whether a strategy can be carried out with no further options."""
    try:
        check_open([STRATEGIES.build(name, dict(options))], target)
    except InputError:
        return False
    return True


def _chains(removing: Sequence[Variant]) -> Iterator[Pipeline]:
    """Each by itself, and two of different kinds, of which the first goes about half of the way."""
    yield from (Pipeline(steps=(each,)) for each in removing)
    levels = sorted({each.level for each in removing if each.level is not None})
    for first, second in product(removing, removing):
        if first.level is None or second.level is None or set(first.strategy.kinds) & set(second.strategy.kinds):
            continue
        if first.level == _half_way(levels, second.level):
            yield Pipeline(steps=(first, second))


def _half_way(levels: Sequence[float], last: float) -> float | None:
    """The level above ``last`` that leaves about as much to go as it has gone; None where there is none above.

    >>> _half_way([0.2, 0.5, 0.8], 0.2), _half_way([0.2, 0.5], 0.5)
    (0.5, None)
    """
    return min(
        (level for level in levels if level > last), key=lambda level: abs(math.log(level**2 / last)), default=None
    )


def _role(strategy: Strategy) -> str:
    if isinstance(strategy, Quantizing):
        return "quantize"
    if isinstance(strategy, Tuning):
        return "tune"
    return "tokens" if set(strategy.kinds) == {TOKEN} else "remove"


def _named(entry: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if len(entry) != 1:
        raise InputError(
            "search.strategies", dict(entry), "each entry names exactly one", "put each on a line of its own"
        )
    [(name, options)] = entry.items()
    return name, dict(options or {})


def _options(strategy: Strategy) -> dict[str, Any]:
    """The options of an object that are not as they would be anyway."""
    values = {option.name: (getattr(strategy, option.name), option.default) for option in fields(strategy)}  # type: ignore[arg-type]
    return {name: value for name, (value, default) in values.items() if value != default}


def _each(variants: Sequence[Variant]) -> Iterator[tuple[Variant, ...]]:
    return ((each,) for each in variants)


def _spoken(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
