"""``python -m compress_explain`` is the command line."""

from compress_explain.cli import main

main()
