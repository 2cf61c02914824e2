"""What was planted is found, and where nothing was planted nothing is."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import fisher_exact

from compress_explain.comparison.discovery import discover, features_of, regions, worse
from compress_explain.comparison.gates import Gate, check_gates, judge
from compress_explain.comparison.predicates import Predicate
from compress_explain.comparison.predictions import Pairs
from compress_explain.errors import InputError
from compress_explain.evaluators import Discovery, Quality, Slices
from tests.planted import planted


def overlap(one, other):
    return len(np.intersect1d(one, other)) / len(np.union1d(one, other))


def confirmed(pairs):
    return [each for each in discover(pairs) if each.confirmed]


@pytest.fixture(scope="module")
def once():
    pairs, rows = planted(2000)
    return pairs, np.flatnonzero(rows), discover(pairs)


@pytest.mark.parametrize(
    ("seeds", "most_missed"),
    [pytest.param(25, 3, marks=pytest.mark.slow), pytest.param(100, 5, marks=pytest.mark.exhaustive)],
)
def test_what_is_planted_is_confirmed_on_most_seeds_and_something_on_few_where_nothing_is(seeds, most_missed):
    # in a process of its own: checking the shapes of each of a hundred thousand values takes minutes
    command = [sys.executable, "-m", "tests.planted", str(seeds)]
    counts = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert counts["planted"] >= seeds - most_missed
    assert counts["nothing"] <= most_missed


def test_what_is_found_is_told_in_words_and_counted_on_rows_that_it_was_not_found_on(once):
    pairs, rows, found = once
    best = max(found, key=lambda each: overlap(each.rows, rows))
    assert best.confirmed and overlap(best.rows, rows) >= 0.5
    assert str(best.predicate) == " & ".join(map(str, best.predicate.conditions))
    assert best.n + best.n_outside == len(pairs) - len(pairs) // 2
    assert best.interval[0] < best.inside < best.interval[1] and best.outside < best.interval[0]
    assert best.p <= best.q <= 0.05
    assert np.array_equal(best.rows, np.flatnonzero(best.predicate.of(features_of(pairs))))


def test_the_same_pairs_give_the_same_slices_and_at_most_20(once):
    pairs, _, found = once
    again = discover(pairs)
    assert [(each.predicate, each.p) for each in again] == [(each.predicate, each.p) for each in found]
    assert len(found) <= 20
    assert all(len(each.predicate.conditions) <= 2 for each in found)


def test_a_confirmed_child_is_worse_than_the_rest_of_its_parent(once):
    kept = [each for each in once[2] if each.confirmed]
    assert not any(
        one.predicate.within(other.predicate) and one.inside <= other.inside for one in kept for other in kept
    )


def test_chances_are_fishers():
    rng = np.random.default_rng(0)
    lost, inside = rng.random(60) < 0.3, rng.random(60) < 0.4
    table = [[(lost & inside).sum(), (~lost & inside).sum()], [(lost & ~inside).sum(), (~lost & ~inside).sum()]]
    assert worse(lost, inside) == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


def test_regions_are_plain_values_from_which_predicates_are_made_again(once):
    pairs, _, found = once
    kept = [each for each in found if each.confirmed]
    read = json.loads(json.dumps(regions(found)))
    assert [each["id"] for each in read] == [f"region-{number + 1}" for number in range(len(kept))]
    for region, each in zip(read, kept, strict=True):
        rows = Predicate.of_facts(region["conditions"]).of(features_of(pairs))
        assert np.array_equal(np.flatnonzero(rows), each.rows)
        assert region["share"] == rows.mean()


def test_stored_pairs_give_the_same_slices(once, tmp_path):
    pairs, _, found = once
    pairs = replace(pairs, original=pairs.original.astype(np.float32), compressed=pairs.compressed.astype(np.float32))
    pairs.save(tmp_path / "pairs.parquet")
    again = Pairs.load(tmp_path / "pairs.parquet")
    assert Discovery().evaluate(again) == Discovery().evaluate(pairs)
    assert {name: values.dtype.kind for name, values in again.features.items()} == {
        name: values.dtype.kind for name, values in pairs.features.items()
    }


def test_nothing_is_found_where_nothing_changed_and_few_rows_are_in_doubt(once):
    pairs = once[0]
    same = replace(pairs, compressed=pairs.original)
    assert discover(same) == ()
    [score] = Discovery().evaluate(same)
    assert (score.metric, score.compressed, score.doubt) == ("discovered_slices", 0.0, "")
    few = replace(same.of_rows(np.arange(30)), slices={})
    [score] = Discovery().evaluate(few)
    assert judge([Gate(metric="discovered_slices", max=0)], [score])[0].state == "inconclusive"


def test_a_gate_on_every_slice_is_one_on_the_declared_ones(once):
    pairs = replace(once[0], slices={"all": np.ones(len(once[0]), bool), "long": once[0].features["words"] > 30})
    scores = [score for each in (Quality(), Slices(), Discovery()) for score in each.evaluate(pairs)]
    assert len({score.slice for score in scores}) > 2
    verdicts = judge([Gate(metric="accuracy", slice="*", max_drop=0.5)], scores)
    assert [verdict.slice for verdict in verdicts] == ["long"]
    [verdict] = judge([Gate(metric="discovered_slices", max=0)], scores)
    assert verdict.state == "fail"


def test_gates_on_slices_that_are_not_known_yet_are_refused():
    with pytest.raises(InputError, match="found anew each time"):
        check_gates([Gate(metric="discovered_flips", slice="*", max=0.1)], Discovery().metrics, ["long"])
    check_gates([Gate(metric="discovered_slices", max=0)], Discovery().metrics, [])
