"""The package as users get it: sdist, wheel from the sdist, installed outside the tree, where it runs a sweep."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("dist")
    # Without --sdist or --wheel: the wheel is built from the sdist, as an index would.
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, ROOT, cwd=dist)
    return next(dist.glob("*.whl"))


def test_the_wheel_has_everything_and_nothing_at_top_level(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gpuscout"}
    for needed in (
        "gpuscout/py.typed",
        "gpuscout/sweeps/data/models.json",
        "gpuscout/sweeps/data/gpus.json",
        "gpuscout/sweeps/examples/quickstart.yaml",
        "gpuscout/runner/engines/roofline/constants.json",
        "gpuscout/migrations/env.py",
    ):
        assert needed in names
    assert any(name.startswith("gpuscout/migrations/versions/0001") for name in names)
    assert not any("tests" in name for name in names)


def test_the_wheel_runs_anywhere(wheel: Path, tmp_path: Path) -> None:
    """In a fresh environment, from a folder whose own `store` and `sweeps` must not be imported, on Ray."""
    home = tmp_path / "environment"
    venv.create(home)
    # Of all that it needs little is imported here: that is compiled then.
    install = ("install", "--quiet", "--no-compile", wheel)
    call(sys.executable, "-m", "pip", "--python", home / "bin" / "python", *install, cwd=tmp_path)
    work = tmp_path / "work"
    for decoy in ("store", "sweeps", "runner", "migrations"):
        (work / decoy).mkdir(parents=True)
        (work / decoy / "__init__.py").write_text("raise ImportError('a folder of the user was imported')\n")
    gpuscout = home / "bin" / "gpuscout"
    call(gpuscout, "init", cwd=work)
    done = call(gpuscout, "run", "sweep.yaml", "--executor", "ray", cwd=work)
    assert "computed" in done.stderr
    again = call(gpuscout, "run", "sweep.yaml", cwd=work)
    assert "nothing to compute" in again.stderr
    assert "is already at revision" in call(gpuscout, "db", "upgrade", cwd=work).stdout
    call(gpuscout, "db", "status", cwd=work)
