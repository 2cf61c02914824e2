"""Does interleaved timing tell what is so on this machine? The same model against itself, and against itself with a delay.

    python benchmarks/bench_interleaved.py --runs 20

Every run times a small network in numpy (some milliseconds a call) twice: against itself, where "faster" and "slower" would be
wrong, and against itself followed by a busy wait of --delay of the call, where "faster" would be wrong and "slower" is right.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import numpy as np

from compress_explain.hardware.interleaved import COMPRESSED, CONTROL, ORIGINAL, Patience, interleave, pinned
from compress_explain.hardware.paired_times import PairedTimes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=120)
    parser.add_argument("--delay", type=float, default=0.15, help="share of the call")
    given = parser.parse_args()
    weights = np.random.default_rng(0).standard_normal((6, 384, 384)).astype(np.float32) / 20
    patience = Patience(blocks=given.blocks, seconds=60)
    told: dict[str, Counter[str]] = {"itself": Counter(), "delayed": Counter()}
    for run in range(given.runs):
        for name, delay in (("itself", 0.0), ("delayed", given.delay)):
            times = timed(weights, delay, patience, run)
            told[name][times.word] += 1
            s, c = times.speedup, times.control
            print(f"{run:2d} {name:8s} {np.median(times.original):6.2f} ms  {s.value:.3f} ({s.low:.3f} to {s.high:.3f})  "
                  f"control {c.value:.3f} ({c.low:.3f} to {c.high:.3f})  {times.word}", flush=True)  # fmt: skip
    for name, counts in told.items():
        print(f"{name}: {dict(counts)} of {given.runs}")


def timed(weights: np.ndarray, delay: float, patience: Patience, seed: int) -> PairedTimes:
    x = np.random.default_rng(1).standard_normal((128, weights.shape[1])).astype(np.float32)

    def call() -> None:
        y = x
        for weight in weights:
            y = np.tanh(y @ weight)

    def delayed() -> None:
        start = time.perf_counter()
        call()
        end = start + (1 + delay) * (time.perf_counter() - start)
        while time.perf_counter() < end:
            pass

    with pinned(1):
        calls = interleave({ORIGINAL: call, COMPRESSED: delayed if delay else call, CONTROL: call}, patience, seed=seed)
    return PairedTimes.of(*zip(*((each.block, each.side, each.milliseconds) for each in calls), strict=True))


if __name__ == "__main__":
    main()
