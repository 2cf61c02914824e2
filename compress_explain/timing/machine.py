"""The machine that times are of: what it is, and how a process is kept to some of its processors."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("numpy", "onnxruntime", "compress-explain")


def fingerprint() -> dict[str, str | int]:
    """Processor, cores that this process may use, memory in MiB, system, and versions of what computes."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_mib": memory(),
        "system": platform.platform(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    } | {name: version_of(name) for name in _PACKAGES}


def processor() -> str:
    """The name of the processor's model."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        with contextlib.suppress(OSError):
            told = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
            return told.stdout.strip() or "unknown"
    return platform.processor() or "unknown"


def memory() -> int:
    """MiB of memory; 0 where that is not told."""
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return 0


def version_of(package: str) -> str:
    """Of an installed package; in words where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[bool]:
    """This thread on as many processors as ``threads``, inside; False where the system cannot, or has no more of them."""
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    before = os.sched_getaffinity(0)
    kept = set(sorted(before)[:threads])
    os.sched_setaffinity(0, kept)
    try:
        yield len(kept) == threads
    finally:
        os.sched_setaffinity(0, before)
