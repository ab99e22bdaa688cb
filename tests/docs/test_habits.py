"""What stands in more than one file of the project says the same: versions, constraints, hooks, examples."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import gpuscout
from gpuscout.runner.calibration.rows import fit_rows
from gpuscout.runner.engines.roofline.constants import NAMES
from gpuscout.store.measured import public_runs
from gpuscout.sweeps.spec.starter import example_names
from tests.assets import update_accuracy
from tests.assets.ablation import HEAD, IN_CLOSED_LOOPS, PARTS, PARTS_HEAD, TERMS, parameters_without, stamp
from tests.assets.compare_estimates import DEAREST_HEAD, TOOLS, closed_loops, head, table
from tests.assets.run_notebook import printed
from tests.docs.test_examples import looks_like

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def test_the_version_stands_in_one_place() -> None:
    assert "version" not in PROJECT
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == gpuscout.__version__


def test_the_constraints_pin_every_dependency_to_an_allowed_version() -> None:
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        name, _, rest = line.partition("==")
        pinned.setdefault(re.sub(r"[-_.]+", "-", name).lower(), []).append(rest.partition(" ")[0])
    wanted = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    for requirement in map(Requirement, wanted):
        versions = pinned[re.sub(r"[-_.]+", "-", requirement.name).lower()]
        assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: make constraints"


def test_the_installation_page_says_why_each_dependency_is_there() -> None:
    page = (ROOT / "docs/install.md").read_text("utf-8")
    extras = PROJECT["optional-dependencies"]
    packages = [Requirement(one).name for one in PROJECT["dependencies"]]
    listed = re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)
    assert listed == [*packages, *sorted(extras)]
    for extra, requirements in extras.items():
        brought = ", ".join(f"`{Requirement(one).name}`" for one in requirements)
        assert f"| `{extra}` | {brought} |" in page


def test_workflows_name_every_supported_python() -> None:
    (ci,) = (yaml.safe_load(file.read_text("utf-8")) for file in WORKFLOWS if file.stem == "ci")
    supported = [
        found[1] for line in PROJECT["classifiers"] if (found := re.fullmatch(r".*:: Python :: (3\.\d+)", line))
    ]
    assert ci["jobs"]["test"]["strategy"]["matrix"]["python"] == supported
    assert PROJECT["requires-python"] == f">={supported[0]}"


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_call_what_is_there(file: Path) -> None:
    """Targets of make and scripts; and every job has a limit of time."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for job in yaml.safe_load(file.read_text("utf-8"))["jobs"].values():
        assert "uses" in job or job["timeout-minutes"]
        for command in filter(None, (step.get("run") for step in job.get("steps", ()))):
            for target in re.findall(r"\bmake ([a-z-]+)", command):
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), command
            if command.startswith("."):
                assert (ROOT / command).is_file()


def test_hooks_run_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert check
    checked = [line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in check[1].splitlines()]
    assert [hook["entry"].removesuffix(" --force-exclude") for hook in hooks] == checked


def test_the_examples_are_those_that_ship() -> None:
    shown = {file.stem: file for file in (ROOT / "examples").glob("*.yaml")}
    assert sorted(shown) == sorted(example_names())
    for name, file in shown.items():
        assert file.resolve() == ROOT / f"sweeps/examples/{name}.yaml"


def test_the_readme_is_short_and_its_accuracy_that_of_the_accuracy_page() -> None:
    readme, accuracy = ((ROOT / page).read_text("utf-8") for page in ("README.md", "docs/accuracy.md"))
    assert len(readme.splitlines()) <= 150
    rows = re.findall(r"^\| ([\w ]+) \| (\d+ / \d+ / \d+) \| (\d+ / \d+ / \d+) \|$", readme, re.MULTILINE)
    assert len(rows) == 4
    for label, model, gpu_type in rows:
        assert re.search(rf"^\| {label} \| [\d /]+ \| {model} \| {gpu_type} \|", accuracy, re.MULTILINE), label


def test_the_tables_of_the_accuracy_page_are_those_of_the_constants_that_ship() -> None:
    """To write them anew: python -m tests.assets.update_accuracy"""
    page = update_accuracy.PAGE.read_text("utf-8")
    assert update_accuracy.updated(page) == page


def test_errors_in_the_text_of_the_accuracy_page_are_those_of_the_constants_that_ship() -> None:
    text = re.sub(r"^\|.*$", "", update_accuracy.PAGE.read_text("utf-8"), flags=re.MULTILINE)
    errors = json.loads(update_accuracy.CONSTANTS.read_text("utf-8"))["errors"]
    shares = [share for of in errors.values() for load in of.values() for share in load.values()]
    said = re.findall(r"(\d+\.\d) %", text)
    assert len(said) > 5
    assert set(said) <= {f"{100 * share:.1f}" for share in shares}


def test_the_table_of_what_terms_buy_names_those_that_can_be_switched_off() -> None:
    page = update_accuracy.PAGE.read_text("utf-8")
    figures = r" / ".join([r"\d+\.\d"] * 3)
    rows = re.findall(rf"^\| (.+) \| {figures} \| {figures} \|$", page, re.MULTILINE)
    assert rows == ["all terms", *IN_CLOSED_LOOPS]
    assert set(PARTS) < set(TERMS)
    for term, (runs, _) in PARTS.items():
        assert re.search(rf"^\| {re.escape(term)} \| {runs} \| .+ → .+ \| .+ → .+ \|$", page, re.MULTILINE), term
    off = {name for term in TERMS.values() for name in term}
    assert off < set(NAMES)
    kinds = fit_rows(public_runs("serving_runs")[::50])
    whole = parameters_without(None, kinds)
    for term in ("prefills delay running requests", "factors of servers"):
        assert len(parameters_without(term, kinds).slots) < len(whole.slots)


def test_the_comparisons_of_the_accuracy_page_have_the_figures_of_the_other_tools() -> None:
    """gpuscout's own column is of fits without the model: python -m tests.assets.compare_estimates prints both."""
    page = update_accuracy.PAGE.read_text("utf-8")
    rows = closed_loops()[0]
    for name, asked in TOOLS.items():
        _, said = asked(rows)
        for line in (head(name), *table(said)):
            assert line.removesuffix("|") in page


def test_what_scripts_computed_for_the_accuracy_page_is_of_the_constants_that_ship() -> None:
    """Ablation and comparisons take half an hour and are no part of a calibration: the page says of which they are."""
    sections = update_accuracy.PAGE.read_text("utf-8").split("\n## ")
    for table_head in (HEAD, PARTS_HEAD, DEAREST_HEAD, *map(head, TOOLS)):
        (section,) = [text for text in sections if table_head in text]
        assert stamp() in section, "run tests.assets.ablation and tests.assets.compare_estimates"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda file: file.stem)
def test_every_cell_of_a_notebook_prints_what_it_shows(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To write its outputs anew: python -m tests.assets.run_notebook examples/NAME.ipynb"""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for cell, text in printed(notebook, tmp_path):
        assert looks_like(text, "".join(line for output in cell["outputs"] for line in output["text"])), text
