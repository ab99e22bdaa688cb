"""Keys and tokens: how they are recognised, so that none of them is stored with results or shown in a message."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpuscout.sweeps.errors import InputError

_NAME = "TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|_KEY(?![A-Z])"
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
# Of Hugging Face, of OpenAI and those that copy it, and of any HTTP header.
_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{8,}|\bsk-[A-Za-z0-9_-]{8,}|(?i:\bbearer )[A-Za-z0-9._~+/=-]{8,}")
# Long enough to be no name of a folder.
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|(?i:\bbearer )[A-Za-z0-9._~+/=-]{8,}")
_FLAG = re.compile(r"(?:^|\s)(--?[\w-]*(?:api[-_]?key|token|secret|password)\b[\w-]*)", re.IGNORECASE)
# A reference to another variable holds nothing.
_ASSIGNMENT = re.compile(rf"""(?<![\w-])(\w*(?:{_NAME}))=["']?(?=[^\s"'$])""", re.IGNORECASE)
_HIDDEN = "***"
_SHORTEST_SECRET = 6


def check_variable(name: str | None) -> None:
    """Raise InputError for what is no name of an environment variable but, as it seems, the key itself."""
    if name is not None and (not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or _TOKEN.search(name)):
        raise InputError(
            "invalid api_key_env: expected the name of an environment variable, such as LLM_KEY, not the key itself"
        )


def redacted(text: str, environment: Mapping[str, str]) -> str:
    """Return the text without values of environment variables named like secrets, and without known tokens."""
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, _HIDDEN)
    return _SECRET.sub(_HIDDEN, text)


def secret_in(argument: str) -> str | None:
    """Return the part of a command's argument that holds a secret or asks for one, without it; None: no part does."""
    if found := _FLAG.search(argument) or _ASSIGNMENT.search(argument):
        return found[1]
    return "a token" if _TOKEN.search(argument) else None
