"""Everything in the catalogue keeps its promise, and a stranger's part comes in by the same door."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, asdict, dataclass, fields
from importlib.metadata import EntryPoint

import numpy as np
import pytest

import compress_explain.plugins.catalog as catalog_module
from compress_explain.choosing.activations import find_activations
from compress_explain.choosing.channel_worth import worth_of
from compress_explain.choosing.spectra import find_spectra, menu_now
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import Score
from compress_explain.editing.depgraph import find_stream
from compress_explain.editing.edits import Edit
from compress_explain.editing.masks import Masks
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.stream import CHANNEL
from compress_explain.plugins.catalog import EVALUATORS, STRATEGIES, Catalog
from compress_explain.plugins.evaluator import Evaluator, check_evaluator
from compress_explain.plugins.strategy import (
    Factorizing,
    Narrowing,
    Quantizing,
    Situation,
    Tuning,
    check_strategy,
    ranges_of,
)
from compress_explain.pricing import price
from compress_explain.vocabulary import Lexicon
from tests.tiny import flagged, tiny_examples, tiny_model, uneven_removal
from tests.words import TEXTS, read_examples, reading_model, trained_tokenizer

OPTIONS = {"heads": {"share": 0.25}, "neurons": {"share": 0.25}, "structured": {"flops_kept": 0.8},
           "layers": {"count": 1}, "low_rank": {"flops_kept": 0.8}, "sublayers": {"count": 1}, "mixed_precision": {"loss": 0.1},
           "width": {"hidden_kept": 0.75}}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class First:
    """A stranger's strategy: the first component of each group."""

    rounds: int = 1

    @property
    def kinds(self):
        return ("neuron",)

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        return ()


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A stranger's evaluator."""

    @property
    def metrics(self):
        return ("constant",)

    def evaluate(self, pairs: Pairs) -> list[Score]:
        return []


@dataclass(kw_only=True)
class Thawed:
    """Not frozen."""

    kinds: tuple[str, ...] = ("head",)
    rounds: int = 1

    def plan(self, situation):
        return ()


@dataclass(frozen=True)
class Mute:
    """No plan, no evaluate."""

    kinds: tuple[str, ...] = ("head",)
    rounds: int = 1


@dataclass(frozen=True)
class Nothing(First):
    """Removes no kind of component."""

    rounds: int = 0


class Plain:
    """Not a dataclass at all."""

    kinds, rounds, metrics = ("head",), 1, ("accuracy",)

    def plan(self, situation):
        return ()

    def evaluate(self, pairs):
        return []


# Every implementation meets every check


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_strategy_conforms(name):
    strategy = STRATEGIES.build(name, OPTIONS.get(name, {}))
    check_strategy(strategy)
    json.dumps(asdict(strategy))
    with pytest.raises(FrozenInstanceError):
        setattr(strategy, fields(strategy)[0].name, None)


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_strategy_decides_before_it_does(name, family):
    """A plan is a value: the same again for the same situation, and nothing has changed meanwhile."""
    strategy = STRATEGIES.build(name, OPTIONS.get(name, {}))
    tokenizer = trained_tokenizer(family) if "token" in strategy.kinds else None
    model = reading_model(family, tokenizer) if tokenizer else tiny_model(family, labels=2)
    examples = read_examples(tokenizer, TEXTS[:40]) if tokenizer else tiny_examples(family, labels=2)
    anatomy = read_anatomy(model, 9)
    if isinstance(strategy, Narrowing):
        anatomy = anatomy.with_stream(find_stream(model, anatomy, next(examples.batches(2)).inputs))
    masks = Masks(model, anatomy)
    masks.remove(flagged(anatomy, uneven_removal(anatomy, 1))[::4])
    before = masks.components
    if ranges := ranges_of(strategy):
        masks.activations = find_activations(masks, examples, ranges)
    whole = {"layer", "sublayer"} & set(strategy.kinds)
    if isinstance(strategy, Factorizing):
        masks.spectra = find_spectra(masks, examples, menu_now(masks, strategy))
    own = bool(whole) or isinstance(strategy, Quantizing | Factorizing)
    prices = price(masks, examples, menu=menu_now(masks, strategy) if own else None)
    lexicon = Lexicon(masks=masks, tokenizer=tokenizer, calibration=examples, barred=frozenset())
    worth = worth_of(masks, examples, strategy, batch_size=12, seed=0) if isinstance(strategy, Narrowing) else None
    situation = Situation(
        anatomy=anatomy,
        prices=prices,
        removed=masks.removed,
        round=strategy.rounds - 1,
        lexicon=lexicon,
        channels=worth,
    )
    plan = strategy.plan(situation)
    assert plan == strategy.plan(situation)
    assert bool(plan) is not isinstance(strategy, Tuning) and masks.components == before
    named = [edit.component for edit in plan]
    assert len(set(named)) == len(named)
    assert not set(named) & set(before)
    for edit in plan:
        assert edit.kind in strategy.kinds
        if edit.action == "factorize":
            assert edit.parameters_saved > 0 and 0 < edit.flops_saved == edit.work_saved
            assert edit.component in anatomy.linears and edit.into.startswith("rank")
        elif edit.into:
            assert (edit.action, edit.parameters_saved, edit.flops_saved) == ("quantize", 0, 0) and edit.work_saved > 0
            assert edit.component in anatomy.linears
        elif whole:
            unit = anatomy.units[edit.component]
            assert edit.kind == unit.kind and edit.action == "remove"
            assert 0 < edit.parameters_saved <= unit.parameters and 0 < edit.flops_saved <= unit.flops
        else:
            group, _ = anatomy.find(edit.component)
            assert edit.kind == group.kind
            costs = (group.parameters, group.flops)
            if edit.kind == CHANNEL:  # of what is left of all linears
                costs = anatomy.channel_costs(masks.removed)
            assert (edit.action, edit.parameters_saved, edit.flops_saved) == ("remove", *costs)
        if edit.kind in (*anatomy.kinds, *whole, "linear"):
            pairs = list(zip(prices.components, prices.edits, strict=True))
            column = pairs.index((edit.component, edit.into or edit.action))
            assert edit.expected_loss_change == prices.loss_change()[column]
        assert edit.reason
    if tokenizer:  # tokens are rehearsed together
        rehearsed = lexicon.rehearsals[-1].expected["all"].loss_change
        assert sum(edit.expected_loss_change for edit in plan) == pytest.approx(rehearsed)
    masks.remove(edit.component for edit in plan if not edit.into)
    if not whole:
        assert not any(flags.all() for flags in masks.removed.values()), "a sublayer keeps at least one component"


@pytest.mark.parametrize("name", list(EVALUATORS))
def test_every_evaluator_conforms(name):
    evaluator = EVALUATORS.build(name, {})
    check_evaluator(evaluator)
    json.dumps(asdict(evaluator))
    if not isinstance(evaluator, Evaluator):
        return  # it needs both models at hand, and has tests of its own
    rng = np.random.default_rng(0)
    pairs = Pairs(
        split="test",
        digest="d",
        labels=rng.integers(0, 3, 90),
        original=rng.normal(size=(90, 3)),
        compressed=rng.normal(size=(90, 3)),
        slices={"all": np.ones(90, bool), "some": np.arange(90) % 2 == 0, "none": np.zeros(90, bool)},
    )
    scores = evaluator.evaluate(pairs)
    assert scores and scores == evaluator.evaluate(pairs)
    assert len({(each.metric, each.slice) for each in scores}) == len(scores)
    for each in scores:
        assert each.metric in evaluator.metrics
        assert each.slice in pairs.slices and each.n == pairs.slices[each.slice].sum() > 0
        figures = (each.original, each.compressed, each.low, each.high, each.compressed_low, each.compressed_high)
        assert all(math.isfinite(value) for value in figures)
        assert each.low <= each.difference <= each.high


# The door


def announce(monkeypatch, **values):
    """Let packages announce ``name=module:attribute`` as strategies."""
    entries = [EntryPoint(name, value, "compress_explain.strategies") for name, value in values.items()]
    monkeypatch.setattr(catalog_module, "entry_points", lambda *, group: entries if "strategies" in group else [])
    return Catalog("strategies", check_strategy)


def test_a_stranger_comes_in_by_the_same_door(monkeypatch):
    found = announce(monkeypatch, first=f"{__name__}:First")
    assert list(found) == ["first"]
    assert found.build("first", {"rounds": 3}) == First(rounds=3)
    entries = [EntryPoint("constant", f"{__name__}:Constant", "compress_explain.evaluators")]
    monkeypatch.setattr(catalog_module, "entry_points", lambda *, group: entries)
    assert Catalog("evaluators", check_evaluator).build("constant", {}) == Constant()


def test_our_own_parts_are_found_by_entry_point():
    assert {"heads", "neurons"} <= set(STRATEGIES)
    assert {"quality", "slices"} <= set(EVALUATORS)


def test_nothing_is_imported_before_it_is_asked_for(monkeypatch):
    found = announce(monkeypatch, broken="no_such_package:Thing", first=f"{__name__}:First")
    assert list(found) == ["broken", "first"]
    found.build("first", {})
    with pytest.raises(InputError, match=r"no_such_package:Thing cannot be loaded .*no_such_package"):
        found.load("broken")


def test_a_missing_class_is_named(monkeypatch):
    with pytest.raises(InputError, match="cannot be loaded"):
        announce(monkeypatch, first=f"{__name__}:Frist").load("first")


def test_a_misspelt_name_is_pointed_out():
    with pytest.raises(InputError, match="did you mean 'heads'"):
        STRATEGIES.build("haeds", {})
    with pytest.raises(InputError, match="did you mean 'quality'"):
        EVALUATORS.load("qualiti")


def test_a_misspelt_option_is_pointed_out():
    with pytest.raises(InputError, match=r"strategies: heads.*did you mean 'share'"):
        STRATEGIES.build("heads", {"shre": 0.5})


def test_a_name_announced_by_two_packages_is_refused(monkeypatch):
    entries = [EntryPoint("first", value, "compress_explain.strategies") for value in ("one:First", "two:First")]
    monkeypatch.setattr(catalog_module, "entry_points", lambda *, group: entries)
    with pytest.raises(InputError, match="announced twice, by one:First and two:First"):
        list(Catalog("strategies", check_strategy))


def test_the_same_announcement_seen_twice_is_one(monkeypatch):
    entries = [EntryPoint("first", f"{__name__}:First", "compress_explain.strategies")] * 2
    monkeypatch.setattr(catalog_module, "entry_points", lambda *, group: entries)
    assert list(Catalog("strategies", check_strategy)) == ["first"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Thawed", "must be a frozen dataclass"),
        ("Mute", "must have kinds, rounds and plan"),
        ("Nothing", "at least one kind and one round"),
        ("Plain", "must be a (frozen )?dataclass"),
        ("announce", "must be a (frozen )?dataclass"),
    ],
)
def test_what_does_not_conform_is_refused_when_it_is_built(monkeypatch, name, problem):
    with pytest.raises(InputError, match=problem):
        announce(monkeypatch, odd=f"{__name__}:{name}").build("odd", {})


def test_a_missing_option_is_bad_input(monkeypatch):
    with pytest.raises(InputError, match="strategies: needy"):
        announce(monkeypatch, needy=f"{__name__}:Needy").build("needy", {})


@dataclass(frozen=True, kw_only=True)
class Needy(First):
    """Has an option without a default."""

    amount: float


@pytest.mark.parametrize("part", [Plain(), object(), Mute(), Nothing(), First])
def test_the_public_check_of_strategies_refuses(part):
    with pytest.raises(TypeError, match="must"):
        check_strategy(part)


@pytest.mark.parametrize("part", [Plain(), object(), Mute(), Constant])
def test_the_public_check_of_evaluators_refuses(part):
    with pytest.raises(TypeError, match="must"):
        check_evaluator(part)
