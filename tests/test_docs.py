"""The documentation says what is so: commands, keys, names, links and examples."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import get_args

import pytest
import yaml

import compress_explain
from compress_explain.cli import app
from compress_explain.comparison.scores import METRICS
from compress_explain.config import Config, load_config
from compress_explain.families import families
from compress_explain.plugins.catalog import EVALUATORS, STRATEGIES
from compress_explain.plugins.strategy import check_strategy

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("ci/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands() -> set[str]:
    return {str(command.callback.__name__) for command in app.registered_commands if command.callback}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_command_is_in_the_readme_and_the_other_way_round():
    told = set(re.findall(r"^\| `compress-explain (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert told == commands()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_mentioned_exist(page):
    for command in re.findall(r"compress-explain ([a-z]+)\b", page.read_text()):
        assert command in commands(), command


def test_every_key_is_documented_and_the_other_way_round():
    told = set(re.findall(r"^\| `([a-z_A-Z0-9.]+)`", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE))
    keys = set()
    for name, field in Config.model_fields.items():
        optional = type(None) in get_args(field.annotation)
        section = get_args(field.annotation)[0] if optional else field.annotation
        if hasattr(section, "model_fields"):
            keys |= {f"{name}.{key}" for key in section.model_fields}
        elif name != "slices":
            keys.add(name)
    keys |= {f"slices.NAME.{key}" for key in ("column", "quantiles", "where", "matches", "token", "clusters")}
    gates = {"metric", "slice", "max_drop", "max_change", "min", "rule", "against", "on_inconclusive"}
    assert told - gates == keys


def test_metrics_families_and_plugins_are_named():
    configuration = (ROOT / "docs/configuration.md").read_text()
    assert all(f"`{name}`" in configuration for name in [*METRICS, *STRATEGIES])
    assert all(name in configuration for name in EVALUATORS)
    readme = (ROOT / "README.md").read_text().lower().replace("-", "")
    assert all(family.replace("-", "") in readme for family in families())


def test_the_readme_configuration_is_valid(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(blocks(ROOT / "README.md", "yaml")[0])
    assert load_config(path, []).gates[1].slice == "*"


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(example):
    assert load_config(example, []).strategies


def test_a_strategy_without_options_is_a_name_alone():
    example = ROOT / "examples" / "sst2.yaml"
    named, mapped = (
        load_config(example, [f"strategies=[{{heads: {{share: 0.2}}}}, {last}]"]).build_strategies()
        for last in ("int8_dynamic", "{int8_dynamic: {}}")
    )
    assert named == mapped and len(named) == 2


@pytest.mark.parametrize("preset", sorted(ROOT.glob("ci/gates/*.yaml")), ids=lambda path: path.name)
def test_gate_presets_are_valid(preset):
    document = yaml.safe_load((ROOT / "examples/sst2.yaml").read_text()) | {"gates": yaml.safe_load(preset.read_text())}
    assert Config.model_validate(document).build_gates()


def test_the_workflow_calls_the_command():
    workflow = yaml.safe_load((ROOT / "ci/github-workflow.yml").read_text())
    steps = workflow["jobs"]["compress"]["steps"]
    assert any("compress-explain run" in step.get("run", "") for step in steps)


def test_the_template_calls_the_command():
    template = yaml.safe_load((ROOT / "ci/gitlab-template.yml").read_text())
    assert any("compress-explain run" in line for line in template["compress"]["script"])


def test_the_strategy_of_the_guide_works():
    space: dict[str, object] = {"__name__": "guide"}
    sys.modules["guide"] = type(sys)("guide")
    exec(compile(blocks(ROOT / "CONTRIBUTING.md", "python")[0], "CONTRIBUTING.md", "exec"), space)
    check_strategy(space["HarmlessNeurons"]())  # type: ignore[operator]


def test_python_examples_use_public_names():
    code = "\n".join(blocks(ROOT / "README.md", "python"))
    for names in re.findall(r"from compress_explain import (.+)", code):
        assert set(names.split(", ")) <= set(compress_explain.__all__)
    compile(code, "README.md", "exec")


def test_public_names_exist_and_are_documented():
    for name in compress_explain.__all__:
        assert getattr(compress_explain, name).__doc__, name


@pytest.mark.slow
def test_the_wheel_holds_one_package(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"compress_explain"}
    for needed in (
        "strategies/heads.py",
        "evaluators/quality.py",
        "registry/__init__.py",
        "py.typed",
        "terminal/templates/starter.yaml",
        "report/templates/report.html",
    ):
        assert f"compress_explain/{needed}" in names
