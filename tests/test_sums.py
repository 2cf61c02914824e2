"""Running sums give what numpy gives on all rows at once, whatever parts they were added up from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress_explain.pricing.impact import IMPACTS
from compress_explain.pricing.sums import Sums, over_columns, over_examples

ROWS, COLUMNS = 60, 5


def rowwise(seed=0):
    """Impacts of every row under every edit, and membership of the rows in three slices, one of them empty."""
    rng = np.random.default_rng(seed)
    impact = {name: rng.normal(1, 2, (ROWS, COLUMNS)) for name in IMPACTS}
    members = np.stack([np.ones(ROWS), rng.random(ROWS) < 0.4, np.zeros(ROWS)])
    return impact, members


def summed(impact, members, chosen=slice(None), columns=slice(None)):
    sums = Sums.zeros(len(members), len(range(COLUMNS)[columns]))
    for rows in np.array_split(np.arange(ROWS)[chosen], 4):
        sums.count(torch.from_numpy(members[:, rows]))
        part = {name: torch.from_numpy(values[rows][:, columns]) for name, values in impact.items()}
        sums.add(slice(None), torch.from_numpy(members[:, rows]), part)
    return sums


def same(one, other):
    return all(torch.equal(one.totals[name], other.totals[name]) for name in one.totals) and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("flow", "units", "units_squared", "rows")
    )


def test_means_and_standard_errors_are_those_of_the_rows():
    impact, members = rowwise()
    sums = summed(impact, members)
    for index, flags in enumerate(members[:2].astype(bool)):
        for name in IMPACTS:
            assert np.allclose(sums.means()[name][index], impact[name][flags].mean(0), atol=1e-12)
        expected = impact["loss_change"][flags].std(0, ddof=1) / np.sqrt(flags.sum())
        assert np.allclose(sums.standard_error()[index], expected, atol=1e-12)
    assert (sums.means()["kl"][2] == 0).all() and (sums.standard_error()[2] == 0).all(), "nothing is in the last slice"


def test_rows_of_several_units_have_the_error_of_a_ratio():
    """Cochran 1977, section 6.3: the residuals of each row's sum from its units times the mean."""
    rng = np.random.default_rng(1)
    units = rng.integers(0, 9, ROWS).astype(float)
    loss = rng.normal(0.3, 1, (ROWS, COLUMNS)) * units[:, None]
    sums = Sums.zeros(1, COLUMNS)
    for rows in np.array_split(np.arange(ROWS), 7):
        impact = {name: torch.from_numpy(loss[rows]) for name in IMPACTS}
        own = torch.from_numpy(units[rows])
        sums.count(own[None])
        sums.add(slice(None), torch.ones(1, len(rows), dtype=torch.float64), impact, units=own)
    some = units > 0
    mean = loss.sum(0) / units.sum()
    residuals = loss[some] - units[some, None] * mean
    expected = np.sqrt(some.sum() / (some.sum() - 1) * (residuals**2).sum(0)) / units.sum()
    assert np.allclose(sums.means()["loss_change"][0], mean, atol=1e-12)
    assert np.allclose(sums.standard_error()[0], expected, atol=1e-12)


def test_equal_units_are_as_good_as_rows():
    """With three units a row the error of the mean per unit is a third of that of the row sums."""
    impact, members = rowwise()
    plain, threefold = summed(impact, members), Sums.zeros(3, COLUMNS)
    own = torch.full((ROWS,), 3.0, dtype=torch.float64)
    threefold.count(torch.from_numpy(members) * own)
    tensors = {name: torch.from_numpy(values) for name, values in impact.items()}
    threefold.add(slice(None), torch.from_numpy(members), tensors, units=own)
    assert np.allclose(threefold.standard_error(), plain.standard_error() / 3, atol=1e-12)


def test_the_error_covers_the_mean():
    """In 95 of 100 samples of documents of unequal length, give or take, the mean per token lies within 1.96 errors."""
    rng = np.random.default_rng(2)
    documents, truth = 400, 0.3
    units = torch.from_numpy(rng.integers(1, 40, (documents, 80)).astype(float))
    own = truth + torch.from_numpy(rng.normal(0, 1, (documents, 80)))  # the mean of a document
    loss = units * own + units.sqrt() * torch.from_numpy(rng.normal(0, 1, (documents, 80)))
    sums = Sums.zeros(documents, 1)
    sums.count(units)
    for sample in range(documents):
        impact = dict.fromkeys(IMPACTS, loss[sample][:, None])
        everyone = torch.ones(1, 80, dtype=torch.float64)
        sums.add(slice(None), everyone, impact, units=units[sample], slices=slice(sample, sample + 1))
    miss = np.abs(sums.means()["loss_change"][:, 0] - truth) / sums.standard_error()[:, 0]
    assert 0.91 < (miss < 1.96).mean() < 0.975


def test_sums_come_back_from_disk_to_the_last_bit(tmp_path):
    sums = summed(*rowwise())
    sums.flow.copy_(torch.rand(COLUMNS))
    sums.totals["flips_to_wrong"][0, 1] = torch.nan
    sums.save(tmp_path / "sums")
    loaded = Sums.load(tmp_path / "sums")
    assert set(loaded.totals) == set(sums.totals) > set(IMPACTS)
    sums.totals["flips_to_wrong"][0, 1] = loaded.totals["flips_to_wrong"][0, 1] = 0
    assert same(loaded, sums)


def test_disjoint_rows_add_up():
    impact, members = rowwise()
    parts = [summed(impact, members, slice(0, 17)), summed(impact, members, slice(17, 60))]
    whole, together = summed(impact, members), over_examples(iter(parts))
    for name in whole.totals:
        torch.testing.assert_close(together.totals[name], whole.totals[name], rtol=1e-13, atol=1e-13)
    assert torch.equal(together.units, whole.units) and torch.equal(together.rows, whole.rows)
    assert np.allclose(together.standard_error(), whole.standard_error(), atol=1e-12)


def test_disjoint_edits_lie_side_by_side():
    impact, members = rowwise()
    parts = [summed(impact, members, columns=slice(0, 2)), summed(impact, members, columns=slice(2, 5))]
    together, whole = over_columns(iter(parts)), summed(impact, members)
    for name in whole.totals:
        torch.testing.assert_close(together.totals[name], whole.totals[name], rtol=1e-13, atol=1e-13)
    assert torch.equal(together.units, whole.units) and together.flow.shape == (COLUMNS,)


@pytest.mark.parametrize("slices", [slice(0, 1), slice(1, 3)])
def test_some_slices_are_added_to_alone(slices):
    impact, members = rowwise()
    sums = Sums.zeros(3, COLUMNS)
    tensors = {name: torch.from_numpy(values) for name, values in impact.items()}
    sums.add(
        slice(1, 3),
        torch.from_numpy(members[slices]),
        {name: each[:, 1:3] for name, each in tensors.items()},
        slices=slices,
    )
    expected = np.zeros((3, COLUMNS))
    expected[slices, 1:3] = members[slices] @ impact["kl"][:, 1:3]
    assert np.allclose(sums.totals["kl"].numpy(), expected, atol=1e-12)


def test_a_million_small_values_lose_nothing_to_a_large_one():
    """Batches are added in double precision although each is in single."""
    sums, ones = Sums.zeros(1, 1), torch.ones(1, 1000)
    sums.add(slice(None), torch.ones(1, 1), dict.fromkeys(IMPACTS, torch.full((1, 1), 2.0**24)))
    for _ in range(50):
        sums.add(slice(None), ones, dict.fromkeys(IMPACTS, torch.full((1000, 1), 2.0**-10)))
    assert float(sums.totals["loss_change"][0, 0]) == 2.0**24 + 50_000 * 2.0**-10
