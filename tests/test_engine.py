"""Who carries out the shards, in which order and after how many interruptions, changes nothing."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from compress_explain.errors import InputError
from compress_explain.pricing import Engine, Local, RayWorkers, Refinement, Sample, audit, price, read_menu
from compress_explain.pricing import work as work_module
from compress_explain.pricing.impact import IMPACTS
from compress_explain.pricing.work import Auditing, Pricing
from tests.states import language_examples, random_state, sliced_examples
from tests.tiny import tiny_examples

MENU, ALL_KINDS = "heads,linears:int8", "heads,neurons,linears:int8,layers"


@dataclass(frozen=True, kw_only=True)
class Backwards:
    """Does the last shard first, and remembers which it was asked for."""

    asked: list[int] = field(default_factory=list)

    def parts(self, work, shards, advance):
        self.asked.extend(shards)
        for shard in reversed(shards):
            yield shard, work.run(shard, advance)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(work_module, "_SHARD_ROWS", 8)
    monkeypatch.setattr(work_module, "_SHARD_EDITS", 3)


def assert_same(one, other):
    assert (one.components, one.edits, one.slices, one.counts) == (
        other.components,
        other.edits,
        other.slices,
        other.counts,
    )
    assert all(np.array_equal(one.values[name], other.values[name], equal_nan=True) for name in IMPACTS)
    assert np.array_equal(one.standard_error, other.standard_error)
    assert np.array_equal(one.flow, other.flow, equal_nan=True)


def priced(masks, examples, text=MENU, **options):
    options = {"batch_size": 4, "flow": True} | options
    return price(masks, examples, menu=read_menu(masks.anatomy, text), **options)


# Here


def test_threads_are_as_asked_while_it_works_and_as_before_afterwards():
    masks, examples = random_state("bert"), tiny_examples("bert", rows=8)
    before, seen = torch.get_num_threads(), []
    for engine in (Local(threads=2), Local()):
        price(masks, examples, engine=engine, advance=lambda rows: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == before
    assert seen == [2, before]
    with pytest.raises(ZeroDivisionError):
        price(masks, examples, engine=Local(threads=2), advance=lambda rows: 1 // 0)
    assert torch.get_num_threads() == before


def test_the_order_of_the_shards_does_not_matter(small_shards):
    masks, examples = random_state("bert"), sliced_examples(rows=14)
    engine = Backwards()
    assert isinstance(engine, Engine) and isinstance(Local(), Engine)
    options = {"text": ALL_KINDS, "refinement": Refinement(heads=1.0), "batch_size": 8}
    forwards, backwards = priced(masks, examples, **options), priced(masks, examples, **options, engine=engine)
    assert engine.asked == [0, 1]
    assert_same(backwards, forwards)
    sample = Sample(heads=3, neurons=0, linears=0, layers=1)
    tables = [audit(masks, examples, forwards, sample, engine=each).frame for each in (Local(), Backwards())]
    assert tables[0].equals(tables[1])


def test_a_language_model_too(small_shards):
    masks, examples = random_state("gpt2", generates=True), language_examples(rows=20)
    assert_same(priced(masks, examples, engine=Backwards()), priced(masks, examples))


# Stopped and continued


class StopError(Exception):
    pass


def stopping_after(rows):
    done = []

    def advance(more):
        done.append(more)
        if sum(done) >= rows:
            raise StopError

    return advance


def test_a_pricing_that_was_stopped_continues_where_it_was(small_shards, tmp_path):
    """Finished shards are read, not computed; the table is that of an uninterrupted pricing, bit for bit."""
    masks, examples = random_state("bert"), sliced_examples(rows=40)
    whole = priced(masks, examples)
    with pytest.raises(StopError):
        priced(masks, examples, store=tmp_path, advance=stopping_after(21))
    kept = sorted(tmp_path.rglob("*.npz"))
    assert [path.name for path in kept] == ["shard-00000.npz", "shard-00001.npz"]
    engine, told = Backwards(), []
    assert_same(priced(masks, examples, store=tmp_path, engine=engine, advance=told.append), whole)
    assert engine.asked == [2, 3, 4] and sum(told) == 24
    again = Backwards()
    assert_same(priced(masks, examples, store=tmp_path, engine=again), whole)
    assert again.asked == [] and not list(tmp_path.rglob("*.part"))


def test_an_audit_that_was_stopped_continues_where_it_was(small_shards, tmp_path):
    masks, examples = random_state("bert"), sliced_examples()
    prices = priced(masks, examples)
    sample = Sample(heads=5, linears=5)
    whole = audit(masks, examples, prices, sample)
    with pytest.raises(StopError):
        audit(masks, examples, prices, sample, store=tmp_path, advance=stopping_after(24 * 7))
    engine = Backwards()
    assert audit(masks, examples, prices, sample, store=tmp_path, engine=engine).frame.equals(whole.frame)
    assert engine.asked == [2, 3] and len(whole.frame) == 10 * 5


def test_a_half_written_shard_counts_for_nothing(small_shards, tmp_path):
    masks, examples = random_state("bert"), sliced_examples()
    whole = priced(masks, examples, store=tmp_path)
    shard = next(tmp_path.rglob("shard-00001.npz"))
    half = shard.read_bytes()[:100]
    shard.unlink()
    shard.with_suffix(".part").write_bytes(half)
    engine = Backwards()
    assert_same(priced(masks, examples, store=tmp_path, engine=engine), whole)
    assert engine.asked == [1]


def test_what_was_kept_is_of_this_work_alone():
    """Whatever the result depends on is part of the identity; the same work made again has the same."""
    masks, examples = random_state("bert"), sliced_examples()
    menu = read_menu(masks.anatomy, MENU)
    work = Pricing(masks=masks, examples=examples, menu=menu)
    assert work.identity == Pricing(masks=random_state("bert"), examples=sliced_examples(), menu=menu).identity
    thinner, other = random_state("bert"), random_state("bert")
    thinner.restore(thinner.components[:1])
    with torch.no_grad():
        other.model.classifier.bias[0] += 1e-3
    flags = examples.slices["even"].copy()
    flags[0] = not flags[0]
    layers = tuple(read_menu(masks.anatomy, "layers").wholes)
    works = [
        work,
        replace(work, batch_size=8),
        replace(work, flow=True),
        replace(work, refinement=Refinement()),
        replace(work, refinement=Refinement(heads=1.0)),
        replace(work, projections=2),
        replace(work, projections=2, seed=1),
        replace(work, menu=read_menu(masks.anatomy, "heads")),
        replace(work, menu=read_menu(masks.anatomy, ALL_KINDS)),
        replace(work, menu=read_menu(masks.anatomy, MENU.replace("int8", "int4"))),
        replace(work, masks=thinner),
        replace(work, masks=other),
        replace(work, examples=replace(examples, digest="other")),
        replace(work, examples=replace(examples, slices=examples.slices | {"even": flags})),
        Auditing(masks=masks, examples=examples, candidates=layers),
        Auditing(masks=masks, examples=examples, candidates=layers[:1]),
        Auditing(masks=masks, examples=examples, candidates=layers, batch_size=8),
    ]
    assert len({each.identity for each in works}) == len(works)


# Elsewhere


def test_without_ray_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    masks, examples = random_state("bert"), tiny_examples("bert", rows=4)
    with pytest.raises(InputError, match=r"engine: 'ray': .*not installed.*compress-explain\[ray\]"):
        price(masks, examples, engine=RayWorkers())


@pytest.mark.parametrize("options", [{"workers": 0}, {"threads": 0}, {"workers": -1}])
def test_workers_are_at_least_one(options):
    with pytest.raises(InputError, match="engine: .*at least 1"):
        RayWorkers(**options)


def many_rows():
    """Three shards of rows at their real size, and three of edits."""
    masks = random_state("bert")
    examples = sliced_examples(rows=1100)
    options = {"text": ALL_KINDS, "batch_size": 64, "refinement": Refinement(heads=0.2)}
    return masks, examples, options, Sample(heads=12, neurons=36, linears=8, layers=1)


@pytest.mark.exhaustive
def test_the_workers_of_a_cluster_give_the_same_bits():
    """A cluster of two workers started for it and gone afterwards; rows in three shards, edits in three."""
    ray = pytest.importorskip("ray")
    masks, examples, options, sample = many_rows()
    here = priced(masks, examples, **options, engine=Local(threads=1))
    few = sliced_examples(rows=40)
    few_prices = priced(masks, few, ALL_KINDS)
    checked = audit(masks, few, few_prices, sample, engine=Local(threads=1))
    told = []
    assert_same(priced(masks, examples, **options, engine=RayWorkers(), advance=told.append), here)
    assert sorted(told) == [76, 512, 512]
    assert audit(masks, few, few_prices, sample, engine=RayWorkers()).frame.equals(checked.frame)
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again_with_its_shard():
    """On a cluster that was there before, and stays."""
    ray = pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    masks, examples, options, _ = many_rows()
    here = priced(masks, examples, **options, engine=Local(threads=1))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    killed = []

    def kill(rows):
        if not killed:
            found = [
                each for each in psutil.Process().children(recursive=True) if "ray::_Worker" in " ".join(each.cmdline())
            ]
            killed.extend(each.pid for each in found)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    try:
        assert_same(priced(masks, examples, **options, engine=RayWorkers(), advance=kill), here)
        assert killed and ray.is_initialized()
    finally:
        ray.shutdown()
