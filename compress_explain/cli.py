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
MirrorTo = Annotated[str | None, typer.Option(help="an MLflow store to mirror to; MLFLOW_TRACKING_URI if that is set")]
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


Slices = Annotated[Path | None, typer.Option(help="a YAML file that declares slices, as in a configuration")]
Edits = Annotated[
    str, typer.Option(help="heads, neurons, sublayers, layers, linears:int8, linears:int4, linears:rank64, …")
]
EngineName = Annotated[str, typer.Option("--engine", help="local, or ray: the workers of a cluster")]
WorkerCount = Annotated[int, typer.Option("--workers", help="of the engine ray", min=1)]
Threads = Annotated[int | None, typer.Option(help="of each worker; the default is torch's, or 1 with ray", min=1)]
Address = Annotated[str | None, typer.Option(help="of a running Ray cluster; one is started here when there is none")]
InputColumn = Annotated[str, typer.Option("--input", help="the column of texts or image files")]
LabelColumn = Annotated[str, typer.Option("--label", help="the column of labels")]
Rows = Annotated[int | None, typer.Option(help="draw so many rows", min=2)]
MaxLength = Annotated[int | None, typer.Option(help="tokens, at most", min=2)]


@app.command()
def search(
    config: ConfigFile,
    overrides: Overrides = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="the folder of the search; overrides the key out")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue a search that was stopped")] = False,
    engine: EngineName = "local",
    workers: WorkerCount = 2,
    threads: Threads = None,
    address: Address = None,
) -> None:
    """Choose strategies, their order and budgets: price every pipeline, try few, run fewer, name one."""
    from compress_explain.terminal.commands import run_search
    from compress_explain.terminal.pricing import Workers

    chosen = Workers(engine=engine, workers=workers, threads=threads, address=address)
    raise typer.Exit(run_search(config, overrides, out, chosen, resume=resume))


@app.command()
def price(
    model: Annotated[str, typer.Argument(help="a model folder or hub id", metavar="MODEL")],
    data: Annotated[str, typer.Option(help="a csv, json, jsonl or parquet file, or a hub data set as id:split")],
    slices: Slices = None,
    edits: Edits = "heads,neurons",
    out: Annotated[Path | None, typer.Option(help="where to write the table, e.g. price.parquet")] = None,
    engine: EngineName = "local",
    workers: WorkerCount = 2,
    threads: Threads = None,
    address: Address = None,
    input_column: InputColumn = "text",
    label_column: LabelColumn = "label",
    rows: Rows = None,
    max_length: MaxLength = None,
    batch_size: Annotated[
        int | None, typer.Option(help="rows a pass; 32, 96 when they are short, or 8 for language models", min=1)
    ] = None,
    exact_heads: Annotated[
        float, typer.Option(help="evaluation passes spent on pricing heads exactly where that matters most")
    ] = 4.5,
    exact_neurons: Annotated[float, typer.Option(help="the same for neurons")] = 0.0,
    exact_linears: Annotated[float, typer.Option(help="the same for edits of linears")] = 0.3,
    projections: Annotated[
        int | None, typer.Option(help="of the logits of a language model; 4 when not given", min=1)
    ] = None,
    dtype: Annotated[str, typer.Option(help="of the weights: float32 or bfloat16")] = "float32",
    seed: Annotated[int, typer.Option(help="of drawn rows and projections")] = 0,
) -> None:
    """Price every edit before anything is changed: what it would do, to whom, how surely."""
    from compress_explain.inquiry import Inquiry
    from compress_explain.pricing import Refinement
    from compress_explain.terminal.pricing import Workers, price_model

    inquiry = Inquiry(
        model=model, data=data, input=input_column, label=label_column, rows=rows, max_length=max_length,
        dtype=dtype, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    chosen = Workers(engine=engine, workers=workers, threads=threads, address=address)
    refinement = Refinement(heads=exact_heads, neurons=exact_neurons, linears=exact_linears)
    price_model(inquiry, slices, edits, refinement, projections, chosen, out)


@app.command()
def audit(
    source: Annotated[Path, typer.Argument(help="a run's folder, or what price wrote", metavar="RUN_OR_PRICE")],
    heads: Annotated[str, typer.Option(help="how many, or all")] = "all",
    neurons: Annotated[str, typer.Option(help="how many, or all")] = "200",
    linears: Annotated[str, typer.Option(help="how many edits of linears, or all")] = "all",
    sublayers: Annotated[str, typer.Option(help="how many, or all")] = "all",
    layers: Annotated[str, typer.Option(help="how many, or all")] = "all",
    rows: Rows = None,
    out: Annotated[Path | None, typer.Option(help="where to write the audit; beside its source when not given")] = None,
    engine: EngineName = "local",
    workers: WorkerCount = 2,
    threads: Threads = None,
    address: Address = None,
    seed: Annotated[int, typer.Option(help="of what is drawn")] = 0,
) -> None:
    """Make edits one by one and put what they did beside their price: exact leave-one-out."""
    from compress_explain.pricing import Sample
    from compress_explain.terminal.auditing import audit_price, how_many
    from compress_explain.terminal.pricing import Workers

    sample = Sample(
        heads=how_many("heads", heads), neurons=how_many("neurons", neurons), linears=how_many("linears", linears),
        sublayers=how_many("sublayers", sublayers), layers=how_many("layers", layers), seed=seed,
    )  # fmt: skip
    chosen = Workers(engine=engine, workers=workers, threads=threads, address=address)
    audit_price(source, sample, rows, chosen, out)


@app.command()
def why(
    model: Annotated[str, typer.Argument(help="a model folder, a hub id, or what price wrote", metavar="MODEL")],
    slice_name: Annotated[str, typer.Option("--slice", help="the slice that is asked about")],
    data: Annotated[str | None, typer.Option(help="as for price; not needed for a price table")] = None,
    slices: Slices = None,
    edits: Edits = "heads,neurons",
    count: Annotated[int, typer.Option(help="components to name of each kind", min=1)] = 10,
    engine: EngineName = "local",
    workers: WorkerCount = 2,
    threads: Threads = None,
    address: Address = None,
    input_column: InputColumn = "text",
    label_column: LabelColumn = "label",
    rows: Rows = None,
    max_length: MaxLength = None,
) -> None:
    """Show which components carry a slice, and which carry it more than everything else."""
    from compress_explain.inquiry import Inquiry
    from compress_explain.terminal.pricing import Workers, explain_slice

    inquiry = Inquiry(
        model=model, data=data or "", input=input_column, label=label_column, rows=rows, max_length=max_length
    )
    chosen = Workers(engine=engine, workers=workers, threads=threads, address=address)
    explain_slice(inquiry, slices, slice_name, edits, chosen, count)


Folders = Annotated[list[Path], typer.Argument(help="folders that runs or evaluations wrote to", metavar="RUN_DIR...")]
GateFile = Annotated[Path | None, typer.Option(help="a YAML file of gates, as in a configuration")]
ChampionOption = Annotated[
    str | None,
    typer.Option(help="what is released now: models:/NAME@champion, or the folder of a run or an evaluation"),
]


ModelName = Annotated[
    str, typer.Argument(help="a model folder, a hub id, an ONNX file, or a models:/ URI", metavar="ORIGINAL")
]
DataFile = Annotated[str, typer.Option(help="a csv, json, jsonl or parquet file, or a hub data set as id:split")]
TaskName = Annotated[str | None, typer.Option(help="what the models are for; else what the original has a head for")]
OwnInput = Annotated[str | None, typer.Option("--input", help="the column of texts or image files")]
OwnLabel = Annotated[str | None, typer.Option("--label", help="the column of labels")]
BatchSize = Annotated[int, typer.Option(help="rows a pass", min=1)]
OwnThreads = Annotated[int | None, typer.Option(help="of this process; the default is torch's", min=1)]
Seed = Annotated[int, typer.Option(help="of drawn rows")]
Redact = Annotated[bool, typer.Option("--redact", help="keep texts out of the report")]
ResumeEvaluation = Annotated[bool, typer.Option("--resume", help="continue an evaluation that was stopped")]
LearnFrom = Annotated[
    str | None,
    typer.Option(help="other rows, as for --data, that probes learn from; else they learn from parts of those"),
]


@app.command()
def evaluate(
    original: ModelName,
    candidate: Annotated[str, typer.Argument(help="the same, of the model that is judged", metavar="CANDIDATE")],
    data: DataFile,
    gates: GateFile = None,
    slices: Slices = None,
    evaluators: Annotated[
        str | None, typer.Option(help="names, as quality,latency, or a YAML file with the list of a configuration")
    ] = None,
    champion: ChampionOption = None,
    out: Annotated[Path, typer.Option(help="the folder of the evaluation")] = Path("runs/evaluation"),
    task: TaskName = None,
    input_column: OwnInput = None,
    label_column: OwnLabel = None,
    rows: Rows = None,
    max_length: MaxLength = None,
    batch_size: BatchSize = 32,
    threads: OwnThreads = None,
    seed: Seed = 0,
    redact: Redact = False,
    learn: LearnFrom = None,
    resume: ResumeEvaluation = False,
    tracking_uri: MirrorTo = None,
) -> None:
    """Compare any two models on the same rows, and judge the second by gates; neither need come from here."""
    from compress_explain.terminal.evaluating import Wanted, run_evaluation

    wanted = Wanted(
        original=original, candidate=candidate, data=data, task=task, gates=gates, slices=slices, evaluators=evaluators,
        champion=champion, input=input_column, label=label_column, rows=rows, max_length=max_length, batch_size=batch_size,
        threads=threads, seed=seed, redact=redact, learn=learn, tracking_uri=tracking_uri,
    )  # fmt: skip
    raise typer.Exit(run_evaluation(wanted, out, resume=resume))


@app.command()
def signals(
    original: ModelName,
    candidate: Annotated[str, typer.Argument(help="the same, of the model that is looked into", metavar="CANDIDATE")],
    data: DataFile,
    learn: LearnFrom = None,
    slices: Slices = None,
    gates: GateFile = None,
    out: Annotated[Path, typer.Option(help="the folder of the evaluation")] = Path("runs/signals"),
    task: TaskName = None,
    input_column: OwnInput = None,
    label_column: OwnLabel = None,
    rows: Rows = None,
    max_length: MaxLength = None,
    batch_size: BatchSize = 32,
    threads: OwnThreads = None,
    seed: Seed = 0,
    redact: Redact = False,
    resume: ResumeEvaluation = False,
    tracking_uri: MirrorTo = None,
) -> None:
    """Look into two models: what does the second still know of what the first knew, layer by layer?"""
    from compress_explain.terminal.evaluating import Wanted, run_evaluation

    wanted = Wanted(
        original=original, candidate=candidate, data=data, task=task, gates=gates, slices=slices, evaluators="quality,signals",
        champion=None, input=input_column, label=label_column, rows=rows, max_length=max_length, batch_size=batch_size,
        threads=threads, seed=seed, redact=redact, learn=learn, tracking_uri=tracking_uri,
    )  # fmt: skip
    raise typer.Exit(run_evaluation(wanted, out, resume=resume))


@app.command()
def observe(
    checkpoints: Annotated[
        Path, typer.Argument(help="a folder with checkpoint-STEP folders", metavar="CHECKPOINT_DIR")
    ],
    data: DataFile,
    learn: LearnFrom = None,
    seeds: Annotated[
        list[Path], typer.Option(help="the same training with another seed; may be given several times")
    ] = [],  # noqa: B006
    slices: Slices = None,
    out: Annotated[Path, typer.Option(help="the folder to write; what it holds of this is not made again")] = Path(
        "runs/observed"
    ),
    task: TaskName = None,
    input_column: OwnInput = None,
    label_column: OwnLabel = None,
    rows: Rows = None,
    max_length: MaxLength = None,
    batch_size: BatchSize = 32,
    threads: OwnThreads = None,
    decisions: Annotated[int, typer.Option(help="how many are looked at, at most")] = 2048,
    confidence: Annotated[float, typer.Option(help="of two-sided intervals")] = 0.90,
    seed: Annotated[int, typer.Option(help="of drawn rows and decisions, and of resampling")] = 0,
    tracking_uri: MirrorTo = None,
) -> None:
    """Look into the checkpoints of a training: when does each signal form, at which layer, and is it kept?"""
    from compress_explain.signals.training.observing import Observing
    from compress_explain.terminal.observing import Asked, observe_folder

    asked = Asked(
        checkpoints=checkpoints, data=data, learn=learn, seeds=tuple(seeds), slices=slices, task=task, input=input_column,
        label=label_column, rows=rows, max_length=max_length, batch_size=batch_size, threads=threads,
        observing=Observing(decisions=decisions, confidence=confidence, seed=seed), tracking_uri=tracking_uri,
    )  # fmt: skip
    observe_folder(asked, out)


@app.command()
def judge(
    folder: RunFolder,
    gates: GateFile = None,
    champion: ChampionOption = None,
) -> None:
    """Judge again from stored predictions, without a model: by the same gates, which must give the same, or by others."""
    from compress_explain.terminal.evaluating import judge_folder

    raise typer.Exit(judge_folder(folder, gates, champion))


@app.command()
def compare(
    folders: Folders,
    despite: Annotated[
        list[str], typer.Option(help="a part of the protocol that may differ, e.g. machine", metavar="PART")
    ] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="where to write the comparison, as JSON")] = None,
) -> None:
    """Put runs or evaluations side by side; refused when they were not made under one protocol."""
    from compress_explain.terminal.evaluating import compare_folders

    compare_folders(folders, despite, out)


@app.command()
def waive(
    folder: RunFolder,
    metric: Annotated[str, typer.Option(help="of the gate that need not hold")],
    who: Annotated[str, typer.Option(help="who takes that upon himself")],
    why: Annotated[str, typer.Option(help="for what reason")],
    until: Annotated[str, typer.Option(help="the last day, as 2027-01-31")],
    slice_name: Annotated[str, typer.Option("--slice", help="of the gate; * for all slices")] = "all",
) -> None:
    """Enter in a run's ledger that a gate need not hold until a day, who says so and why; and judge again."""
    from compress_explain.terminal.evaluating import waive_gate

    raise typer.Exit(waive_gate(folder, metric, slice_name, who, why, until))


@app.command()
def init(
    model: Annotated[str, typer.Argument(help="a model folder or hub id", metavar="MODEL")],
    data: Annotated[Path, typer.Argument(help="a csv, json, jsonl or parquet file with labelled rows", metavar="DATA")],
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
    folder: Annotated[
        Path,
        typer.Argument(help="the folder of a run, an evaluation, a search or an observed training", metavar="FOLDER"),
    ],
    tracking_uri: Annotated[
        str | None, typer.Option(help="an MLflow store; MLFLOW_TRACKING_URI if that is set, else mlflow.db")
    ] = None,
) -> None:
    """Mirror what is finished to MLflow, or complete a mirror that was cut off."""
    from compress_explain.terminal.mirroring import publish_folder

    publish_folder(folder, tracking_uri)


@app.command()
def latency(
    artifact: Annotated[Path, typer.Argument(help="an ONNX file, or an artifact's folder", metavar="ARTIFACT")],
    out: Annotated[Path, typer.Option(help="where to write what was measured")] = Path("target.json"),
    batch: Annotated[list[int], typer.Option(help="rows a call; may be given several times", min=1)] = [1, 16],  # noqa: B006
    tokens: Annotated[list[int], typer.Option(help="tokens a row; may be given several times", min=1)] = [128],  # noqa: B006
    threads: Annotated[int, typer.Option(help="that the runtime computes on", min=1)] = 1,
    against: Annotated[Path | None, typer.Option(help="the original as ONNX, to be timed in turn with it")] = None,
    blocks: Annotated[int, typer.Option(help="at most; fewer where that would take over 30 s", min=12)] = 60,
) -> None:
    """Time a file on this machine, which needs numpy and ONNX Runtime only, for a report made elsewhere."""
    from compress_explain.hardware.interleaved import Patience
    from compress_explain.hardware.target_file import Grid, write_target

    grid = Grid(batches=tuple(batch), tokens=tuple(tokens), threads=threads)
    document = write_target(artifact, out, grid, against, Patience(blocks=blocks))
    for point in document["points"]:
        took = point["artifact"]
        line = f"{point['batch']} x {point['tokens']}: {took['value']:.3g} ms ({took['low']:.3g} to {took['high']:.3g})"
        if against is not None:
            times = point["speedup"]
            line += (
                f", {times['value']:.3g} times as fast ({times['low']:.3g} to {times['high']:.3g}): {point['verdict']}"
            )
        typer.echo(line)


@app.command()
def targets(
    folder: RunFolder,
    files: Annotated[
        list[Path], typer.Argument(help="what compress-explain latency wrote elsewhere", metavar="FILE...")
    ],
) -> None:
    """Take what was timed on other machines into a run and its report."""
    from compress_explain.terminal.targets import take_targets

    take_targets(folder, files)


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
