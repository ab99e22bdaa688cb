"""The import contracts of pyproject.toml hold, and each fails for an import that breaks it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = ("sweeps", "store", "runner", "migrations")
# Contract -> imports that it forbids, as (module, what it must not import): one a boundary between layers.
PLANTED = {
    "runner > store > sweeps": [
        ("store.schema", "gpuscout.runner.execution.retry"),
        ("sweeps.errors", "gpuscout.store.schema"),
    ],
    "the layers of sweeps": [
        ("sweeps.sweep", "gpuscout.sweeps.expand"),
        ("sweeps.spec.axes", "gpuscout.sweeps.sweep"),
        ("sweeps.cases", "gpuscout.sweeps.spec.axes"),
        ("sweeps.slo", "gpuscout.sweeps.cases"),
        ("sweeps.gpus.gpu", "gpuscout.sweeps.slo"),
        ("sweeps.precision", "gpuscout.sweeps.workloads"),
    ],
    "the layers of the store": [
        ("store.queries.frames", "gpuscout.store.transfer.rows"),
        ("store.ranking.question.limits", "gpuscout.store.queries.operating_points.points"),
        ("store.measured.runs", "gpuscout.store.ranking.question.limits"),
        ("store.results.growth", "gpuscout.store.measured.runs"),
        ("store.prices.prices", "gpuscout.store.results.growth"),
        ("store.database.filesystems", "gpuscout.store.prices.prices"),
    ],
    "the layers of the runner": [
        ("runner.cli.options", "gpuscout.runner.web.safety"),
        ("runner.calibration.rows", "gpuscout.runner.cli.common"),
        ("runner.accuracy.errors", "gpuscout.runner.calibration.rows"),
        ("runner.execution.work", "gpuscout.runner.accuracy.errors"),
        ("runner.resolve.models", "gpuscout.runner.execution.work"),
        ("runner.engines.base", "gpuscout.runner.resolve.models"),
    ],
    "the layers of the command line": [
        ("runner.cli.sweep.run", "gpuscout.runner.cli.main"),
        ("runner.cli.ask.query", "gpuscout.runner.cli.sweep.run"),
        ("runner.cli.show.plan", "gpuscout.runner.cli.ask.query"),
        ("runner.cli.options", "gpuscout.runner.cli.show.plan"),
        ("runner.cli.common", "gpuscout.runner.cli.options"),
        ("runner.cli.streams", "gpuscout.runner.cli.common"),
    ],
    "the layers of the ranking": [
        ("store.ranking.answer.groups", "gpuscout.store.ranking.rank"),
        ("store.ranking.candidates.trust", "gpuscout.store.ranking.answer.groups"),
        ("store.ranking.question.limits", "gpuscout.store.ranking.types"),
        ("store.ranking.types", "gpuscout.store.ranking.candidates.trust"),
        ("store.ranking.measures", "gpuscout.store.ranking.question.limits"),
    ],
    "the layers of the queries": [
        ("store.queries.operating_points.points", "gpuscout.store.queries.frames"),
        ("store.queries.sizing.capacity", "gpuscout.store.queries.placements.placement"),
        ("store.queries.answers", "gpuscout.store.queries.sizing.capacity"),
    ],
    "the layers of the Python API": [
        ("runner.api.estimates.analysis", "gpuscout.runner.api.recommendations.results"),
        ("runner.api.models.model", "gpuscout.runner.api.estimates.analysis"),
        ("runner.api.fp8", "gpuscout.runner.api.models.model"),
        ("runner.api.cases", "gpuscout.runner.api.fp8"),
    ],
    "the layers of the engine benchmark": [
        ("runner.engines.benchmark.measure", "gpuscout.runner.engines.benchmark.engine"),
        ("runner.engines.benchmark.traffic.client", "gpuscout.runner.engines.benchmark.servers.gpus"),
        ("runner.engines.benchmark.expected", "gpuscout.runner.engines.benchmark.traffic.client"),
        ("runner.engines.benchmark.options", "gpuscout.runner.engines.benchmark.expected"),
    ],
    "the layers of what is printed": [
        ("runner.cli.show.ranking.rows", "gpuscout.runner.cli.show.deployments.inventory"),
        ("runner.cli.show.points", "gpuscout.runner.cli.show.ranking.rows"),
        ("runner.cli.show.wording", "gpuscout.runner.cli.show.points"),
        ("runner.cli.show.output", "gpuscout.runner.cli.show.wording"),
    ],
    "the layers of the models": [
        ("sweeps.models.catalogue", "gpuscout.sweeps.models.quantised_names"),
        ("sweeps.models.config", "gpuscout.sweeps.models.catalogue"),
        ("sweeps.models.stored.formats", "gpuscout.sweeps.models.config"),
        ("sweeps.models.weights.vision", "gpuscout.sweeps.models.stored.formats"),
        ("sweeps.models.layers", "gpuscout.sweeps.models.weights.vision"),
        ("sweeps.models.fields", "gpuscout.sweeps.models.layers"),
    ],
    "nothing imports the command line, but the page that runs its commands": [
        ("runner.api.run", "gpuscout.runner.cli.common")
    ],
    "nothing imports the page, but the commands that serve it": [("runner.cli.common", "gpuscout.runner.web.app")],
    "SQL is written in the store alone": [("runner.execution.plan", "sqlalchemy")],
    "sweeps is pure: no database, no Ray, no network": [("sweeps.curves", "ray")],
    "the store knows no Ray and no estimator": [("store.results.blocks", "transformers")],
}


def lint(tree: Path) -> dict[str, list[str]]:
    """Contract -> the chains of imports that break it, one line each; empty where it is kept."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", ROOT / "pyproject.toml"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "400", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    names = [contract["name"] for contract in config()]
    kept = [name for name in names if f"{name} KEPT" in done.stdout]
    _, _, details = done.stdout.partition("Broken contracts")
    found: dict[str, list[str]] = {name: [] for name in kept}
    current = ""
    for line in details.splitlines():
        if line in names:
            current = line
            found[current] = []
        elif current and "->" in line:
            found[current].append(line.strip("- &"))
    assert set(found) == set(names), done.stdout + done.stderr
    return found


def config() -> list[dict[str, str]]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts: list[dict[str, str]] = document["tool"]["importlinter"]["contracts"]
    return contracts


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What is found in a copy of the package with all the forbidden imports planted."""
    tree = tmp_path_factory.mktemp("planted")
    package = tree / "gpuscout"
    package.mkdir()
    for module in ("__init__.py", "__main__.py"):
        shutil.copy(ROOT / "gpuscout" / module, package)
    for floor in FLOORS:
        shutil.copytree(ROOT / floor, package / floor, ignore=shutil.ignore_patterns("__pycache__", "data"))
    for imports in PLANTED.values():
        for module, forbidden in imports:
            path = package.joinpath(*module.split(".")).with_suffix(".py")
            path.write_text(f"{path.read_text()}\nimport {forbidden}\n")
    return lint(tree)


def test_every_contract_has_an_import_planted_against_it() -> None:
    assert {contract["name"] for contract in config()} == set(PLANTED)


@pytest.mark.parametrize("contract", PLANTED)
def test_a_planted_import_breaks_its_contract(contract: str, broken: dict[str, list[str]]) -> None:
    for module, forbidden in PLANTED[contract]:
        assert any(line.startswith(f"gpuscout.{module} -> {forbidden} ") for line in broken[contract]), broken[contract]


def test_heavy_packages_are_not_imported_at_module_level(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("import ray\n")
    ruff = [Path(sys.executable).with_name("ruff"), "check", "--config", ROOT / "pyproject.toml", "--select", "TID253"]
    done = subprocess.run([*ruff, planted], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "`ray` is banned at the module level" in done.stdout
