"""The servers by name, and their commands for a shell."""

from __future__ import annotations

import shlex

import yaml

from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.servers import REGISTRY, Deployment, Launch, server_called
from gpuscout.sweeps.servers.options import unknown_to


def launch_of(deployment: Deployment, server: str) -> Launch:
    """Return the launch by this server. Raises UnknownNameError, and InputError for what it does not support."""
    known = REGISTRY.get(server_called(server))
    if known is None or known.launch is None:
        able = [name for name, about in REGISTRY.items() if about.launch is not None]
        raise UnknownNameError("server", server, nearest(server, able), hint=f"allowed: {', '.join(able)}")
    if (lacking := unknown_to(known.name, tuple(deployment.server_options.items()))) is not None:
        raise InputError(lacking, hint="choose its own server with --run-with")
    return known.launch(deployment)


def shell_script(launch: Launch) -> str:
    """Return the command for a shell, quoted, after the files that it reads."""
    lines = [
        f"printf '%s\\n' {' '.join(map(shlex.quote, yaml.safe_dump(dict(content)).splitlines()))} > {shlex.quote(file)}"
        for file, content in launch.files.items()
    ]
    return "\n".join([*lines, shlex.join(launch.command)])
