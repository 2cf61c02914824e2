"""The configuration file: one YAML document, every key of which can be overridden with ``--set``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from compress_explain.choosing.target import Target, check_open
from compress_explain.comparison.declared import GateSection, WaiverSection
from compress_explain.comparison.gates import Gate, check_gates
from compress_explain.comparison.waivers import Waiver, check_waivers
from compress_explain.compensation import Compensation
from compress_explain.data.loading import DataSpec
from compress_explain.data.slices import SliceRule, SliceSection
from compress_explain.deployment.forms import Artifact, Choice, check_forms
from compress_explain.documents import Location, Section, explain, read_yaml, together
from compress_explain.errors import InputError, InputErrors
from compress_explain.model.tasks import task_named
from compress_explain.plugins.catalog import EVALUATORS, REGISTRIES, STRATEGIES, named
from compress_explain.plugins.evaluator import DEFAULT, Evaluator, Measuring, metrics_for
from compress_explain.plugins.registry import Registry
from compress_explain.plugins.strategy import Quantizing, Strategy, check_order
from compress_explain.pricing import AuditPlan
from compress_explain.running.options import Attribution
from compress_explain.running.reinstate import Reinstatement
from compress_explain.search.options import By, Search
from compress_explain.search.space import space

AUTO = "auto"  # in the place of strategies: let them be chosen


class DataSection(Section):
    calibration: str
    validation: str
    test: str
    input: str | None = None
    label: str | None = None
    calibration_rows: int | None = Field(default=4096, ge=2)
    max_length: int | None = None
    long_text: Literal["truncate", "refuse"] = "truncate"
    overlap: Literal["refuse", "drop"] = "refuse"
    context: str = "context"
    empty_answers: Literal["refuse", "allow"] = "refuse"
    longest_answer: int = Field(default=30, ge=1)
    pair: str | None = None


class CompensationSection(Section):
    ridge: float = Field(default=0.01, gt=0, le=1)
    perturbed: bool = True
    rows_a_round: int = Field(default=1024, ge=1)


class ReinstatementSection(Section):
    max_rounds: int = Field(default=6, ge=0)
    max_share: float = Field(default=0.5, gt=0, le=1)
    step: float = Field(default=0.02, gt=0, le=1)
    trims: int = Field(default=4, ge=0)
    reserve: float = Field(default=0.25, ge=0)


class AuditSection(Section):
    heads: int = Field(default=24, ge=0)
    neurons: int = Field(default=24, ge=0)
    rows: int = Field(default=256, ge=2)


class AttributionSection(Section):
    rows: int = Field(default=Attribution.rows, ge=0)
    flips: int = Field(default=Attribution.flips, ge=0)


class TargetSection(Section):
    speedup: float | None = None
    latency_p50_ms: float | None = None
    batch: int = 1
    tokens: int | None = None


class SearchSection(Section):
    strategies: list[str | dict[str, dict[str, Any] | None]] | None = None
    levels: list[float] = Field(default=list(Search.levels))
    losses: list[float] = Field(default=list(Search.losses))
    trials: int = Search.trials
    rows: int = Search.rows
    minutes: float | None = None
    by: By | None = None
    flops_kept: float | None = None
    parameters_kept: float | None = None
    bytes_kept: float | None = None


class Config(Section):
    """Every key of a configuration file, with its default."""

    model: str
    task: Literal[
        "text-classification",
        "image-classification",
        "token-classification",
        "text-generation",
        "text2text-generation",
        "question-answering",
        "feature-extraction",
    ] = "text-classification"
    data: DataSection
    slices: dict[str, SliceSection] = Field(default_factory=dict)
    strategies: list[str | dict[str, dict[str, Any]]] = Field(default_factory=list)
    evaluators: list[str | dict[str, dict[str, Any]]] = Field(default=list(DEFAULT), min_length=1)
    gates: list[GateSection] = Field(min_length=1)
    waivers: list[WaiverSection] = Field(default_factory=list)
    champion: str | None = None
    compensation: CompensationSection | None = CompensationSection()
    reinstatement: ReinstatementSection = ReinstatementSection()
    audit: AuditSection = AuditSection()
    attribution: AttributionSection = AttributionSection()
    registries: list[str | dict[str, dict[str, Any]]] = Field(default=["mlflow"])
    out: str = "runs/latest"
    seed: int = 0
    batch_size: int = Field(default=32, ge=1)
    threads: int | None = Field(default=None, ge=1)
    redact: bool = False
    runtime: Choice = "torch"
    artifacts: list[Artifact] = Field(default=["checkpoint"])
    target: TargetSection | None = None
    priced_rows: int = Field(default=1024, ge=2)
    pooling: Literal["mean", "cls"] | None = None
    normalize: bool | None = None
    search: SearchSection = SearchSection()

    def data_spec(self) -> DataSpec:
        task = task_named(self.task)
        columns = {"input": self.data.input or task.input, "label": self.data.label or task.label or "label"}
        return DataSpec(**{**self.data.model_dump(), **columns})

    def slice_rules(self) -> list[SliceRule]:
        return [section.rule(name) for name, section in self.slices.items()]

    def build_gates(self) -> list[Gate]:
        return [section.build() for section in self.gates]

    def build_waivers(self) -> list[Waiver]:
        waivers = [section.build() for section in self.waivers]
        check_waivers(waivers, date.today())
        return waivers

    def build_strategies(self) -> list[Strategy]:
        return [STRATEGIES.build(*named("strategies", entry)) for entry in self.strategies]

    def build_evaluators(self) -> list[Evaluator | Measuring]:
        return [EVALUATORS.build(*named("evaluators", entry)) for entry in self.evaluators]

    def build_registries(self) -> list[Registry]:
        return [REGISTRIES.build(*named("registries", entry)) for entry in self.registries]

    def build_compensation(self) -> Compensation | None:
        return None if self.compensation is None else Compensation(**self.compensation.model_dump())

    def build_target(self) -> Target | None:
        return None if self.target is None else Target(**self.target.model_dump())

    def build_search(self) -> Search:
        return Search(**self.search.model_dump())

    def build_audit(self) -> AuditPlan:
        return AuditPlan(**self.audit.model_dump())

    def build_attribution(self) -> Attribution:
        return Attribution(**self.attribution.model_dump())

    def build_reinstatement(self) -> Reinstatement:
        return Reinstatement(**self.reinstatement.model_dump())


def load_config(path: Path, overrides: list[str], *, searching: bool = False) -> Config:
    """Read and check a configuration file, every fault of it at once, before any model is loaded.

    ``overrides`` are ``key.path=value`` with the value in YAML. For ``searching`` strategies need not be listed.

    Raises:
        InputError: the file cannot be read, or keys or values are wrong.
    """
    document = _read_mapping(path)
    for override in overrides:
        _apply_override(document, override)
    automatic = document.get("strategies") == AUTO
    if automatic:
        del document["strategies"]
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        raise explain(error, _known_keys) from None
    faults = [] if searching or config.strategies else [_no_strategies(AUTO if automatic else config.strategies)]
    _check_parts(config, faults, searching=searching)
    return config


def _no_strategies(given: object) -> InputError:
    """What a run is told that lists none."""
    if given == AUTO:
        problem, remedy = (
            "a run carries out strategies that are listed",
            "let them be chosen: compress-explain search CONFIG",
        )
    else:
        problem = "none is listed, so there is nothing to do"
        remedy = "list some (see the commented file of: compress-explain init), or let them be chosen: compress-explain search CONFIG"
    return InputError("strategies", given, problem, remedy)


def _check_parts(config: Config, faults: list[InputError], *, searching: bool) -> None:
    """Build every part once, to show all of their faults together, after those that are known."""
    builders: list[Callable[[], object]] = [
        config.slice_rules,
        config.build_strategies,
        config.build_evaluators,
        config.build_gates,
        config.build_waivers,
        config.build_registries,
        config.build_target,
    ]
    if searching:
        builders.append(partial(_check_search, config))
    for build in builders:
        try:
            build()
        except InputErrors as error:
            faults.extend(error.errors)
        except InputError as error:
            faults.append(error)
    if not faults:
        check_open(config.build_strategies(), config.build_target())
        metrics = metrics_for(config.build_evaluators(), config.task)
        gates = config.build_gates()
        quantizing = [type(each).__name__.lower() for each in config.build_strategies() if isinstance(each, Quantizing)]
        check_order(config.build_strategies(), timed=config.target is not None)
        check_forms(config.runtime, config.artifacts, quantizing, timed=config.target is not None)
        against = [gate.metric for gate in gates if gate.against == "champion"]
        if against and config.champion is None:
            remedy = "add champion: models:/NAME@champion, or the folder of a run"
            faults.append(InputError("gates: against", against[0], "no champion is named", remedy))
        check_gates(gates, metrics, [gate.slice for gate in gates] if config.slices else [], config.slices)
    if faults:
        raise together(faults)


def _check_search(config: Config) -> None:
    search, target = config.build_search(), config.build_target()
    search.counted(timed=target is not None)
    space(search, target)


def _read_mapping(path: Path) -> dict[str, Any]:
    document = read_yaml("config", path, "write one with: compress-explain init")
    if not isinstance(document, dict):
        raise InputError("config", str(path), "not a mapping of keys to values", "start from: compress-explain init")
    return document


def _apply_override(document: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise InputError("--set", override, "not of the form key=value", "write e.g. --set data.test=test.csv")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError("--set", override, "its value is not valid YAML", "quote it") from None
    *parents, last = path.split(".")
    target: Any = document
    for key in parents:
        target = _child(target, key, override)
    if isinstance(target, list):
        target[_index(target, last, override)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise InputError("--set", override, f"{'.'.join(parents)} holds no keys", "override the key above it")


def _child(target: Any, key: str, override: str) -> Any:
    if isinstance(target, list):
        return target[_index(target, key, override)]
    if not isinstance(target, dict):
        raise InputError("--set", override, f"there is no {key} to go into", "override the key above it")
    if target.get(key) is None:
        target[key] = {}
    return target[key]


def _index(target: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(target):
        raise InputError("--set", override, f"{key} is not a position in a list of {len(target)}", "count from 0")
    return int(key)


_SECTIONS: dict[str, type[Section]] = {
    "data": DataSection, "slices": SliceSection, "gates": GateSection, "waivers": WaiverSection, "reinstatement": ReinstatementSection,
    "audit": AuditSection, "attribution": AttributionSection, "compensation": CompensationSection,
    "target": TargetSection, "search": SearchSection,
}  # fmt: skip


def _known_keys(location: Location) -> list[str]:
    section = _SECTIONS.get(str(location[0]), Config) if len(location) > 1 else Config
    return list(section.model_fields)
