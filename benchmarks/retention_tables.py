"""What finished runs retain of each signal, layer by layer, as tables for docs/findings.md: every figure is read from the run's own table.

python benchmarks/retention_tables.py RUN_DIR ...
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pandas as pd

from compress_explain.signals.words import spoken_signal

TABLE = "tables/measured-signals-artifact.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    for folder in parser.parse_args().runs:
        print(f"### {folder.name}\n\n{headline(folder)}\n\n{by_layer(pd.read_parquet(folder / TABLE))}\n")


def headline(folder: Path) -> str:
    """Accuracy, and what the run ended with."""
    scores = pd.read_parquet(folder / "tables/scores-artifact.parquet")
    row = scores[(scores["metric"] == "accuracy") & (scores["slice"] == "all")].iloc[0]
    state = json.loads((folder / "run.json").read_text())["state"]
    return (
        f"Accuracy {row['original']:.4f} → {row['compressed']:.4f} ({_signed(row['difference'])}, {_signed(row['low'])} to "
        f"{_signed(row['high'])}, n = {int(row['n']):,}), {state} (`tables/scores-artifact.parquet`). By `{TABLE}`:"
    )


def by_layer(found: pd.DataFrame) -> str:
    """The share above chance of each signal, and CKA, at every layer; the strict share where it can be told."""
    told = found[(found["part"] == "retention") & (found["figure"] == "retained_above_chance")]
    layers = [layer for layer in dict.fromkeys(told["layer"]) if layer not in ("", "embedding")]
    lines = [f"| | {' | '.join(layer.rpartition('.')[2] for layer in layers)} |", "|---" * (len(layers) + 1) + "|"]
    for signal, own in told.groupby("signal", sort=False):
        lines.append(_line(spoken_signal(str(signal)), own.set_index("layer"), layers))
    strict = found[(found["part"] == "retention") & (found["figure"] == "retained")]
    for signal, own in strict.groupby("signal", sort=False):
        if (own["note"] == "").any():
            lines.append(_line(f"{spoken_signal(str(signal))}, above controls", own.set_index("layer"), layers))
    alike = found[(found["part"] == "cka") & (found["model"] == "") & (found["layer"] == found["other"])]
    lines.append(_line("CKA", alike.set_index("layer"), layers))
    return "\n".join(lines)


def _line(name: str, rows: pd.DataFrame, layers: list[str]) -> str:
    return f"| {name} | {' | '.join(_cell(rows.loc[layer]) if layer in rows.index else '–' for layer in layers)} |"


def _cell(row: pd.Series) -> str:
    if row["note"] or any(math.isnan(row[name]) for name in ("value", "low", "high")):
        return "–"
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


if __name__ == "__main__":
    main()
