"""Takes the password of a database URL off the command line, where everybody on the machine may read it.

Ray notes the command line of whoever connects to a cluster, for everybody who may look at the cluster.
"""

from __future__ import annotations

import os
import re
import sys
from urllib.parse import unquote

_URL = re.compile(r"(postgres(?:ql)?(?:\+psycopg)?://[^:/@?#\s]*):([^@\s]+)(@[^@]*)", re.IGNORECASE)


def hide_password() -> None:
    """Start this very command again with PGPASSWORD in its environment instead of a password in its arguments.

    Nothing happens when there is none, or when several differ: there is one variable for all servers.
    """
    given = sys.argv[1:]
    started, ours = sys.orig_argv[1 : len(sys.orig_argv) - len(given)], sys.orig_argv[len(sys.orig_argv) - len(given) :]
    found = [match for argument in given if (match := _URL.search(argument))]
    if ours != given or len({match[2] for match in found}) != 1:
        return
    hidden = [_URL.sub(r"\1\3", argument) for argument in given]
    os.execve(  # noqa: S606 (this very command)
        sys.executable, [sys.executable, *started, *hidden], {**os.environ, "PGPASSWORD": unquote(found[0][2])}
    )
