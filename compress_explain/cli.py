"""The command line: each command is one function of the Python API."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from compress_explain.errors import Exit, InputError, InputErrors, LedgerError, RunInterrupted

app = typer.Typer(
    name="compress-explain",
    help="Makes transformers smaller and says what was taken out, what that did, to whom, and what was put back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path, typer.Argument(help="the configuration, a YAML file", metavar="CONFIG")]
Overrides = Annotated[list[str], typer.Option("--set", help="override a key: data.test=test.csv", metavar="KEY=VALUE")]
RunFolder = Annotated[Path, typer.Argument(help="the folder that a run wrote to", metavar="RUN_DIR")]


@app.command()
def run(
    config: ConfigFile,
    overrides: Overrides = [],  # noqa: B006 (typer reads it)
    out: Annotated[Path | None, typer.Option(help="the folder of the run; overrides the key out")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue a run that was stopped")] = False,
) -> None:
    """Price, plan, mask, observe, judge, reinstate, materialize, judge the artifact, report."""
    from compress_explain.terminal.commands import run_config

    raise typer.Exit(run_config(config, overrides, out, resume=resume))


@app.command()
def plan(
    config: ConfigFile,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Show what would be removed and what that is expected to do; changes and writes nothing."""
    from compress_explain.terminal.commands import show_plan

    show_plan(config, overrides)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="a model folder or hub id", metavar="MODEL")],
    tokens: Annotated[int, typer.Option(help="tokens an example, for FLOPs", min=1)] = 128,
) -> None:
    """Show a model's components as a tree: counts, parameters, FLOPs, shares."""
    from compress_explain.terminal.commands import show_anatomy

    show_anatomy(model, tokens)


@app.command()
def init(
    model: Annotated[str, typer.Argument(help="a model folder or hub id", metavar="MODEL")],
    data: Annotated[Path, typer.Argument(help="a csv, jsonl or parquet file with labelled rows", metavar="DATA")],
    out: Annotated[Path, typer.Option(help="where to write the configuration")] = Path("config.yaml"),
) -> None:
    """Write a commented configuration for a model and a data file."""
    from compress_explain.terminal.commands import write_config

    write_config(model, data, out)


@app.command()
def show(
    folder: RunFolder,
    component: Annotated[
        str | None, typer.Argument(help="one component, e.g. encoder.layer.3.attention.head.7")
    ] = None,
) -> None:
    """Read the ledger: what happened in a run, or to one component, when and why."""
    from compress_explain.terminal.commands import show_component, show_run

    if component is None:
        show_run(folder)
    else:
        show_component(folder, component)


@app.command()
def publish(
    folder: RunFolder,
    tracking_uri: Annotated[str | None, typer.Option(help="an MLflow store; the default is the run's own")] = None,
) -> None:
    """Mirror a finished run to MLflow, or complete a mirror that was cut off."""
    from compress_explain.terminal.commands import publish_run

    publish_run(folder, tracking_uri)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="the port on this machine", min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI on this project's store."""
    from compress_explain.terminal.commands import open_ui

    open_ui(port)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="the folder of the run")] = Path("runs/quickstart"),
) -> None:
    """Train a small vision transformer on handwritten digits, compress it, and show the verdict."""
    from compress_explain.quickstart import quickstart as start

    raise typer.Exit(start(out))


_USAGE_ERROR: Any = typer.BadParameter.__base__  # of everything that is wrong with a command line


def main() -> None:
    """Run the command line and end the process with the exit code of its outcome."""
    sys.exit(_guarded(lambda: app(standalone_mode=False)))


def _guarded(command: Callable[[], Any]) -> int:
    """Run ``command``; every failure becomes one message and the exit code that belongs to it."""
    try:
        return int(command() or Exit.PASSED)
    except InputErrors as error:
        for fault in error.errors:
            _complain(str(fault))
    except InputError as error:
        _complain(str(error))
    except _USAGE_ERROR as error:
        if error.format_message():  # empty when the help was shown because no command was given
            _complain(f"command line: {error.format_message().rstrip('.')}. Remedy: see compress-explain --help")
    except typer.Exit as error:
        return error.exit_code
    except RunInterrupted as error:
        _complain(str(error))
        return Exit.INTERRUPTED
    except (KeyboardInterrupt, typer.Abort):
        _complain("stopped before anything was written")
        return Exit.INTERRUPTED
    except LedgerError as error:
        _complain(f"ledger: {error}. Remedy: restore the run's folder from a copy; do not trust this one")
    except OSError as error:
        _complain(
            f"{error.filename or 'disk'}: {error.strerror or error}. Remedy: free space or choose another folder with --out"
        )
    except Exception:
        traceback.print_exc()
        _complain("internal error: please report the lines above")
        return Exit.INTERNAL
    return Exit.BAD_INPUT


def _complain(text: str) -> None:
    typer.echo(f"error: {text}", err=True)
