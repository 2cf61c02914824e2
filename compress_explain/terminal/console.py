"""Where tables and trees are printed: as wide as the terminal, or wide enough for a file or a pipe."""

from __future__ import annotations

from rich.console import Console


def output() -> Console:
    """Standard output; 160 columns when it is not a terminal, so that nothing is cut off in a log."""
    console = Console()
    return console if console.is_terminal else Console(width=160)
