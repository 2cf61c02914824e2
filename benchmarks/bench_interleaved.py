"""Does timing in mirrored blocks tell a slower model from a noisy machine? The same model against itself, and slowed down by a share.

``python benchmarks/bench_interleaved.py --runs 20 --slowdown 0.15``: a chain of products of about ``--milliseconds`` a call, 20 times against itself
("no difference" or "inconclusive" is right), and 20 times against itself with a wait of 15% in every call ("slower" is right, "faster" never).
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from compress_explain.timing.interleaved import CONTROL, Blocks, interleave
from compress_explain.timing.machine import pinned
from compress_explain.timing.told import answer, by_block, speedup


def workload(milliseconds: float) -> Callable[[], object]:
    """Products of matrices, as a model is made of, for about so long."""
    x = np.random.default_rng(0).standard_normal((192, 192)).astype(np.float32)

    def call() -> object:
        y = x
        for _ in range(times):
            y = np.tanh(x @ y)
        return y

    times = 1
    call()
    start = time.perf_counter()
    for _ in range(20):
        call()
    times = max(1, round(milliseconds / (1e3 * (time.perf_counter() - start) / 20)))
    return call


def slowed(call: Callable[[], object], share: float) -> Callable[[], object]:
    """The same, and then a wait of a share of what the call took."""

    def longer() -> object:
        start = time.perf_counter()
        result = call()
        end = time.perf_counter()
        while time.perf_counter() - end < share * (end - start):
            pass
        return result

    return longer


def verdict(call: Callable[[], object], other: Callable[[], object], seconds: float, seed: int) -> tuple[str, str]:
    """What is said of ``other``, and the figures."""
    with pinned(1):
        turns = interleave(
            {"original": call, "compressed": other, CONTROL: lambda: call()}, Blocks(seconds=seconds, seed=seed)
        )
    block, side, taken = (np.array(each) for each in (turns.block, turns.side, turns.milliseconds))
    times = {name: by_block(block[side == name], taken[side == name]) for name in dict.fromkeys(turns.side)}
    ratio, control = (
        speedup(times["original"], times["compressed"], 0.9),
        speedup(times["original"], times[CONTROL], 0.99),
    )
    told = f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), itself {control.low:.3f} to {control.high:.3f}"
    return answer(ratio, control), f"{told}, {times['original'].shape} calls, {np.median(times['original']):.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--slowdown", type=float, default=0.15)
    parser.add_argument("--milliseconds", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    call = workload(options.milliseconds)
    for name, other in (("itself", lambda: call()), (f"{options.slowdown:.0%} slower", slowed(call, options.slowdown))):
        found: Counter[str] = Counter()
        for seed in range(options.runs):
            said, figures = verdict(call, other, options.seconds, seed)
            found[said] += 1
            print(f"{name}: {said}: {figures}", flush=True)
        print(f"{name}: {dict(found)} of {options.runs}", flush=True)


if __name__ == "__main__":
    main()
