"""How energy is read on this machine: a ladder of meters from what the processor counts down to what is only modelled."""

from __future__ import annotations

import importlib.util
import logging
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

POWERCAP = Path("/sys/class/powercap")
_EVENT = "power/energy-pkg/"
MODELLED = "CodeCarbon's model"


@runtime_checkable
class Meter(Protocol):
    """Tells the joules that were used while ``action`` ran; ``method`` names how."""

    @property
    def method(self) -> str: ...

    def joules(self, action: Callable[[], object]) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Rapl:
    """The counters of the processor's packages (Running Average Power Limit), without memory; they begin anew at their range."""

    zones: tuple[Path, ...]
    method: str = "RAPL"

    def joules(self, action: Callable[[], object]) -> float:
        before = [_number(zone / "energy_uj") for zone in self.zones]
        action()
        return sum(
            _passed(start, _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj"))
            for zone, start in zip(self.zones, before, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Perf:
    """``perf stat`` of the whole machine while the action runs."""

    command: str
    method: str = "perf"

    def joules(self, action: Callable[[], object]) -> float:
        counting = subprocess.Popen(
            [self.command, "stat", "-a", "-x", ";", "-e", _EVENT], stderr=subprocess.PIPE, text=True
        )
        action()
        counting.send_signal(signal.SIGINT)
        return perf_joules(counting.communicate(timeout=10)[1])


@dataclass(frozen=True, kw_only=True)
class Nvml:
    """The counter of the first graphics processor, in mJ."""

    library: Any = field(repr=False)
    handle: Any = field(repr=False)
    method: str = "NVML"

    def joules(self, action: Callable[[], object]) -> float:
        before = self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle)
        action()
        return (self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle) - before) / 1e3


@dataclass(frozen=True, kw_only=True)
class CodeCarbon:
    """What CodeCarbon makes of time and the processor's rated power: modelled, not measured, and so it never carries a verdict."""

    method: str = MODELLED

    def joules(self, action: Callable[[], object]) -> float:
        from codecarbon import OfflineEmissionsTracker

        logging.getLogger("codecarbon").disabled = True
        tracker = OfflineEmissionsTracker(
            country_iso_code="USA", save_to_file=False, log_level="critical", measure_power_secs=1
        )  # the country matters for emissions only
        tracker.start()
        action()
        tracker.stop()
        return float(tracker.final_emissions_data.energy_consumed) * 3.6e6


def find_meter(*, powercap: Path = POWERCAP, graphics: bool = False) -> tuple[Meter | None, str]:
    """The best meter of this machine, and why those before it are not; ``graphics`` says that the models run on a GPU.

    There is none where nothing can be read and CodeCarbon is not installed.
    """
    why: list[str] = []
    for find in (lambda: _rapl(powercap), _perf, lambda: _nvml(graphics), _codecarbon):
        found = find()
        if not isinstance(found, str):
            return found, "; ".join(why)
        why.append(found)
    return None, "; ".join(why)


def perf_joules(text: str) -> float:
    """
    >>> perf_joules("12.50;Joules;power/energy-pkg/;1000;100.00;;")
    12.5

    Raises:
        ValueError: perf counted nothing.
    """
    found = [line.split(";")[0] for line in text.splitlines() if _EVENT in line]
    if not found or not re.fullmatch(r"[\d.]+", found[0]):
        raise ValueError(f"perf counted no energy: {text.strip()[:120]}")
    return float(found[0])


def _rapl(powercap: Path) -> Rapl | str:
    zones = [zone for zone in sorted(powercap.glob("*")) if (zone / "energy_uj").exists()]
    packages = tuple(zone for zone in zones if _is_package(zone))
    if not packages:
        return f"no RAPL counters under {powercap}"
    try:
        for zone in packages:
            _number(zone / "energy_uj")
    except OSError as error:
        return f"RAPL counters cannot be read ({error.strerror})"
    return Rapl(zones=packages)


def _is_package(zone: Path) -> bool:
    """Not a part of one: those are counted in it already."""
    name = zone / "name"
    return name.exists() and name.read_text().strip().startswith("package")


def _perf() -> Perf | str:
    command = shutil.which("perf")
    if command is None:
        return "perf is not installed"
    meter = Perf(command=command)
    try:
        meter.joules(lambda: None)
    except (ValueError, OSError, subprocess.TimeoutExpired):
        return "perf cannot count energy here"
    return meter


def _nvml(graphics: bool) -> Nvml | str:
    if not graphics:
        return "no graphics processor computes the models"
    try:
        import pynvml

        pynvml.nvmlInit()
        meter = Nvml(library=pynvml, handle=pynvml.nvmlDeviceGetHandleByIndex(0))
        meter.joules(lambda: None)
    except Exception as error:  # not installed, no driver, or a processor that does not count
        return f"NVML cannot count energy here ({type(error).__name__})"
    return meter


def _codecarbon() -> CodeCarbon | str:
    installed = importlib.util.find_spec("codecarbon") is not None
    return CodeCarbon() if installed else "CodeCarbon, which models energy, is not installed (the extra energy)"


def _number(path: Path) -> int:
    return int(path.read_text())


def _passed(before: int, after: int, highest: int) -> float:
    """Joules between two readings of a counter in µJ, which began anew at most once."""
    return (after - before + (highest + 1 if after < before else 0)) / 1e6
