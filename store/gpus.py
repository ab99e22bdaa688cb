"""The GPUs in a store, with the figures that were stored last under each name."""

from __future__ import annotations

import json
from contextlib import suppress

import sqlalchemy as sa

from gpuscout.store.schema import gpus
from gpuscout.sweeps.gpus import GpuSpec


def stored_gpus(connection: sa.Connection) -> list[GpuSpec]:
    """Every GPU by name. Figures written by a release that described GPUs differently count as not stored."""
    found: dict[str, GpuSpec] = {}
    for name, text in connection.execute(sa.select(gpus.c.name, gpus.c.figures).order_by(gpus.c.id)):
        with suppress(KeyError, TypeError, ValueError):
            found[name] = GpuSpec.from_dict(json.loads(text))
    return list(found.values())
