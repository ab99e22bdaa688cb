"""The steps of the Dockerfile in a clean folder, since a container is seldom at hand: what they install serves a store.

As in the container, the server is a user without a name, a home and rights, and cannot write anywhere: as root the test
gives it a view of this machine that is read-only, else it cannot write where it is installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.served import address_of, small_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
HOME = "/opt/gpuscout"
TOKEN = "s3cret"
IS_ROOT = os.geteuid() == 0


def instruction(name: str) -> str:
    """The last instruction of this name."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)[-1].strip()


def words(name: str) -> list[str]:
    found: list[str] = json.loads(re.sub(r"^.*?CMD ", "", instruction(name)))
    return found


def as_nobody(command: list[str]) -> list[str]:
    """The command as the user of the container, to whom all is read-only."""
    if not IS_ROOT:
        return command
    user, group = instruction("USER").split(":")
    dropped = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs", *command]
    return ["unshare", "--mount", "sh", "-c", 'mount -o remount,ro,bind / && exec "$@"', "sh", *dropped]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as found:
        os.chmod(found, 0o755)
        yield Path(found)


def python_of_all() -> str:
    """A Python that the user of the container may run as well."""
    for python in (sys.executable, *filter(None, map(shutil.which, ("/usr/bin/python3", "/usr/local/bin/python3")))):
        recent = "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))"
        if subprocess.run(as_nobody([python, "-c", recent]), capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip("no Python 3.11 or newer that another user than root may run")


def test_the_steps_of_the_dockerfile_serve_a_store(folder: Path) -> None:
    python, source, home, data = python_of_all(), folder / "src", folder / "gpuscout", folder / "data"
    for name in re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE):
        here, there = ROOT / name, source / name
        there.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if here.is_dir() else shutil.copy
        copy(here, there)
    steps = instruction("RUN").replace(HOME, str(home)).replace("python -m venv", f"{python} -m venv", 1)
    plain = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    plain["PIP_NO_COMPILE"] = "1"  # little of all that it needs is imported here
    built = subprocess.run(["sh", "-ec", steps], cwd=source, env=plain, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    shutil.rmtree(source)  # the second stage has the environment alone
    data.mkdir()
    small_store(data)

    settings = dict(pair.split("=", 1) for pair in instruction("ENV").split())
    environ = {
        name: value.replace(HOME, str(home)).replace("$PATH", os.environ["PATH"]) for name, value in settings.items()
    }
    environ |= {"GPUSCOUT_DB": f"sqlite:///{data / 'gpuscout.db'}", "GPUSCOUT_TOKEN": TOKEN}
    (entry,), arguments = words("ENTRYPOINT"), words("CMD")
    command = as_nobody([str(home / "bin" / entry), *arguments, "--port", "0"])
    server = subprocess.Popen(command, cwd="/", env=environ, stderr=subprocess.PIPE, text=True)
    try:
        port = address_of(server).rstrip("/").rpartition(":")[2]
        check, *rest = (word.replace(":8000", f":{port}") for word in words("HEALTHCHECK"))
        healthy = subprocess.run(as_nobody([str(home / "bin" / check), *rest]), env=environ, check=False)
        assert healthy.returncode == 0
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as asker:
            assert asker.get("/").status_code == 401
            page = asker.get("/?model=Qwen3-8B", headers={"Authorization": f"Bearer {TOKEN}"})
        assert page.status_code == 200
        assert "class='answer'" in page.text
    finally:
        server.terminate()
        server.communicate(timeout=60)
