"""Energy is read from counters that begin anew, called modelled where it is, and left out where nothing can be read."""

from __future__ import annotations

import pytest

from compress_explain.comparison.gates import Gate, judge
from compress_explain.errors import InputError
from compress_explain.evaluators import Energy
from compress_explain.hardware.energy_used import measure_energy
from compress_explain.hardware.meters import MODELLED, Rapl, find_meter, perf_joules
from tests.test_interleaved import tiny_contest


def zone(folder, name, energy, highest=10_000_000):
    folder.mkdir(parents=True)
    for file, text in {"name": name, "energy_uj": energy, "max_energy_range_uj": highest}.items():
        (folder / file).write_text(f"{text}\n")
    return folder


def test_counters_are_read_and_begin_anew(tmp_path):
    first = zone(tmp_path / "intel-rapl:0", "package-0", 9_000_000)
    zone(tmp_path / "intel-rapl:0:0", "core", 5)  # a part of the package
    second = zone(tmp_path / "intel-rapl:1", "package-1", 1_000_000)
    meter, why = find_meter(powercap=tmp_path)
    assert isinstance(meter, Rapl) and meter.zones == (first, second) and why == ""

    def work():
        (first / "energy_uj").write_text("499999\n")  # past its range
        (second / "energy_uj").write_text("3000000\n")

    assert meter.joules(work) == pytest.approx(1.5 + 2.0)


def test_what_perf_prints_is_understood_or_refused():
    assert perf_joules("# started\n3.25;Joules;power/energy-pkg/;1;100.00;;\n") == 3.25
    with pytest.raises(ValueError, match="counted no energy"):
        perf_joules("<not supported>;Joules;power/energy-pkg/;0;100.00;;")


class Steady:
    """So many joules a turn, by side in the order of the calls."""

    def __init__(self, method, joules):
        self.method, self._joules = method, iter(joules)

    def joules(self, action):
        action()
        action.calls = 10  # whatever the clock allowed
        return next(self._joules)


def used(method, ratio):
    blocks, seed = 6, 0
    from compress_explain.hardware.interleaved import orders

    sides = [side for order in orders(["original", "compressed"], blocks, seed) for side in order]
    joules = [(2.0 if side == "original" else 2.0 * ratio) + 0.001 * place for place, side in enumerate(sides)]
    return measure_energy(
        tiny_contest(), Steady(method, joules), "", blocks=blocks, seconds=1e-6, batch=4, seed=seed,
        advance=lambda rows: None,
    )  # fmt: skip


def test_less_energy_is_told_with_its_method_and_gated():
    (score,) = Energy().scores(used("RAPL", 0.5))
    assert score.unit == "J for 1,000 rows, RAPL" and score.n == 6
    assert score.original == pytest.approx(50, rel=0.02) and score.compressed == pytest.approx(25, rel=0.03)
    assert score.high < 0 and judge([Gate(metric="energy", max_rise=0)], [score])[0].state == "pass"


def test_what_is_modelled_never_carries_a_verdict():
    scores = Energy().scores(used(MODELLED, 0.5))
    verdict = judge([Gate(metric="energy", max_rise=0)], scores)[0]
    assert verdict.state == "inconclusive" and "modelled by CodeCarbon, not measured" in verdict.message


def test_without_a_meter_there_is_no_score_but_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    meter, why = find_meter(powercap=tmp_path)
    assert meter is None and "no RAPL counters" in why and "perf is not installed" in why
    table = measure_energy(tiny_contest(), meter, why, blocks=2, seconds=1, batch=1, seed=0, advance=lambda rows: None)
    assert Energy().scores(table) == [] and table["why"].iloc[0] == why


def test_one_block_is_refused():
    with pytest.raises(InputError, match="no interval"):
        Energy(blocks=1)
