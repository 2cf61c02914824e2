"""How pricing and auditing grow: with examples, with components, with workers; and what half the precision saves.

    python benchmarks/bench_scale.py --models MODELS --data DATA --out results.json

MODELS holds minilm-sst2 and DATA the folder sst2. Each size runs in a process of its own, so that
its peak memory is its own, on one thread. Parts:

examples     heads and neurons of minilm-sst2 on its dev set, and on 4 and 16 copies of it
components   heads and neurons of random encoders that have 1,000 to 1,000,000 of them
workers      pricing and an audit on Ray against one local thread; the same table, also when a worker dies
dtype        the same prices in bfloat16 and in float32
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from figures import Report, begin
from options import names
from scale_dtype import dtypes
from scale_sizes import components, examples
from scale_workers import workers

PARTS: dict[str, Callable[[argparse.Namespace, Report], None]] = {
    "examples": lambda options, report: report.add(
        "Growing with the examples", examples(options.models, options.data, options.rows)
    ),
    "components": lambda options, report: report.add("Growing with the components", components(options.largest)),
    "workers": lambda options, report: report.add(
        "Growing with the workers", workers(options.models, options.data, options.rows)
    ),
    "dtype": lambda options, report: report.add(
        "Half the precision", dtypes(options.models, options.data, options.rows)
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", type=names(PARTS), default=list(PARTS))
    parser.add_argument("--rows", type=int, help="of the dev set, for a quick look")
    parser.add_argument("--largest", type=int, default=1_000_000, help="components of the largest encoder")
    parser.add_argument("--out", type=Path, help="a JSON file for all tables")
    options = parser.parse_args()
    report = begin(options.out, threads=1)
    for part in options.parts:
        PARTS[part](options, report)


if __name__ == "__main__":
    main()
