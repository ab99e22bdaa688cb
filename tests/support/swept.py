"""A store with the results of a small sweep, for a module of questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpuscout import run
from gpuscout.store.database.connect import open_store
from gpuscout.store.database.kept import kept_stores
from gpuscout.sweeps.spec.spec import spec_from_mapping
from tests.support.stores import new_store


@contextmanager
def swept(folder: Path, spec: Mapping[str, Any]) -> Iterator[str]:
    """The URL of the store, which is kept open as a server keeps it: a question costs two thirds."""
    url = new_store(folder)
    with open_store(url) as store:
        run(spec_from_mapping(spec), store)
    with kept_stores():
        yield url
