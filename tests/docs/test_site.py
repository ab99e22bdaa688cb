"""The documentation builds without a dead link, and its generated pages hold every command, key and public name."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import gpuscout
from gpuscout.sweeps.spec.spec import spec_json_schema

ROOT = Path(__file__).parents[2]


def hook(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs/hooks"))
        return importlib.import_module(name)


@pytest.mark.slow
def test_the_site_builds_without_a_dead_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {file.parent.name for file in (tmp_path / "site").rglob("index.html")}
    assert {file.stem for file in (ROOT / "docs").glob("*.md")} <= pages
    assert (tmp_path / "site/architecture.svg").is_file()
    assert (tmp_path / "site/schemas/recommend.json").is_file()
    assert not (tmp_path / "site/hooks").exists()


def test_every_command_has_a_section_with_its_options() -> None:

    from gpuscout.runner.cli.main import all_commands

    commands = hook("commands")
    page = commands.page()
    for path, command in commands.walk(all_commands()):
        section = page.partition(f"\n## {' '.join(path)}\n")[2].partition("\n## ")[0]
        assert "Example:" in section, path
        for option in command.params:
            if option.param_type_name == "option" and not option.hidden:
                assert f"{option.opts[0]}" in section, (path, option.opts)


def test_every_key_of_a_spec_is_described() -> None:
    rows = dict(line.split(" | ", 1) for line in hook("spec").page().splitlines() if line.startswith("| `"))
    for key, value in spec_json_schema()["properties"].items():
        assert f"| `{key}`" in rows, key
        assert value["description"][:20].split("`")[0] in rows[f"| `{key}`"]
    assert "| `engines.run.task_timeout_s`" in rows


def test_every_public_name_has_a_section() -> None:
    page = hook("python_api").page()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == sorted(gpuscout.__all__, key=str.lower)


@pytest.mark.slow
def test_the_picture_has_every_room_and_one_line_upwards() -> None:
    architecture = hook("architecture")
    rooms, _ = architecture._placed()
    picture = architecture.picture()
    for floor in architecture.FLOORS:
        for place in (ROOT / floor).iterdir():
            if place.is_dir() and list(place.glob("*.py")):
                assert f">{place.name}<" in picture, place
    upwards = {(a, b) for a, b in architecture._imports(rooms) if rooms[b].y < rooms[a].y}
    assert upwards == {
        (("runner", "cli"), ("runner", "web"))
    }  # `serve` starts the server; an exception of the contract
