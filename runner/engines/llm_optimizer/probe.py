"""Looks at the package `llm_optimizer` of the Python that runs this; only the standard library, any Python from 3.8.

Imported by gpuscout, and run by the interpreter of a `llm-optimizer` command that lives in another environment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Any

PACKAGE = "llm_optimizer"
DISTRIBUTION = "llm-optimizer"


def kind() -> str:
    """Return `bentoml`, `other` (the unrelated package of the same name on PyPI) or `missing`.

    Imports nothing of it.
    """
    folder = _folder()
    if folder is None:
        return "missing"
    has_gpus = (folder / "predefined" / "gpus.py").is_file() or (folder / "predefined" / "gpus").is_dir()
    has_estimates = (folder / "performance.py").is_file() or (folder / "performance").is_dir()
    return "bentoml" if has_gpus and has_estimates else "other"


def version() -> str:
    """Return the version of the installed distribution; it does not identify the code."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def gpu_table() -> dict[str, str]:
    """Return the tool's own table of GPUs: each row as text, under its upper-case name."""
    specs: Any = importlib.import_module(PACKAGE + ".predefined.gpus").GPU_SPECS
    return {str(name).upper(): _text(row) for name, row in specs.items()}


def fingerprint() -> str:
    """Return the installed commit, or else a digest of the package's modules; and a digest of its table of GPUs."""
    table = hashlib.sha256(json.dumps(gpu_table(), sort_keys=True).encode()).hexdigest()
    return (_commit() or "modules-" + _modules()) + "-gpus-" + table[:8]


def look() -> dict[str, Any]:
    """Return all findings, JSON-able."""
    found: dict[str, Any] = {"kind": kind(), "version": version()}
    if found["kind"] == "bentoml":
        found["fingerprint"] = fingerprint()
        found["gpus"] = sorted(gpu_table())
    return found


def _folder() -> Path | None:
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _commit() -> str | None:
    """Return the commit that pip noted when it installed from git; an editable installation may have moved on since."""
    try:
        text = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        noted = json.loads(text or "{}")
        editable = noted.get("dir_info", {}).get("editable", False)
        commit = noted.get("vcs_info", {}).get("commit_id")
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError):
        return None
    return commit[:12] if isinstance(commit, str) and commit and not editable else None


def _modules() -> str:
    folder = _folder()
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")) if folder else ():
        digest.update(str(file.relative_to(folder)).encode() + b"\0" if folder else b"")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _text(row: Any) -> str:
    """Return a row as text that is the same in every process: no addresses, keys in order."""
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        row = dataclasses.asdict(row)
    elif not isinstance(row, (dict, list, tuple, str, int, float)) and hasattr(row, "__dict__"):
        row = vars(row)
    return json.dumps(row, sort_keys=True, default=repr)


if __name__ == "__main__":
    print(json.dumps(look()))
