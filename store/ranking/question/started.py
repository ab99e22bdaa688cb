"""The conditions of a question on server options and speculative decoding."""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa

from gpuscout.store.ranking.question.asked import Question
from gpuscout.store.ranking.question.lookup import listed
from gpuscout.store.schema import cases, gpus
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.servers.options import default_options, options_from
from gpuscout.sweeps.spec.serving import drafts_asked, options_asked
from gpuscout.sweeps.speculative import speculative_from

Condition = sa.ColumnElement[bool]


def started_as(connection: sa.Connection, question: Question) -> list[Condition]:
    """Return the conditions on cases.

    Raises InputError for an unknown option, and for values that no stored case has.
    """
    found: list[Condition] = []
    if question.server_options:
        found.append(_with_options(connection, question.server_options))
    if question.speculative:
        found.append(_with_drafts(connection, question.speculative))
    return found


def _with_options(connection: sa.Connection, asked: Sequence[str]) -> Condition:
    """Return cases whose options have these values, as given or by their server's defaults on their GPU."""
    wanted = options_asked(asked)
    columns = (cases.c.server, cases.c.gpu_id, cases.c.server_options)
    rows = connection.execute(sa.select(*columns).distinct()).all()
    known = connection.execute(sa.select(gpus.c.id, gpus.c.figures).where(gpus.c.id.in_({row.gpu_id for row in rows})))
    figures = {row.id: GPUSpec.from_dict(json.loads(row.figures)) for row in known}
    alike, there = [], set[str]()
    for server, gpu_id, text in rows:
        gpu = figures[gpu_id]
        options = default_options(server, gpu.name, gpu.memory_usable_gib) | dict(options_from(text))
        there |= {f"{name}={options[name]}" for name in wanted}
        if all(options[name] in values for name, values in wanted.items()):
            alike.append(sa.and_(cases.c.server == server, cases.c.gpu_id == gpu_id, cases.c.server_options == text))
    if not alike:
        raise InputError(f"no result with {' '.join(asked)} is stored", hint=f"stored: {listed(sorted(there))}")
    return sa.or_(*alike)


def _with_drafts(connection: sa.Connection, asked: Sequence[str]) -> Condition:
    wanted = drafts_asked(asked)
    stored = connection.execute(sa.select(cases.c.speculative).distinct()).scalars().all()
    alike = [text for text in stored if any(_drafts_so(text, one) for one in wanted)]
    if not alike:
        there = listed(sorted(text or "none" for text in stored))
        raise InputError(f"no result with speculative decoding {' or '.join(asked)} is stored", hint=f"stored: {there}")
    return cases.c.speculative.in_(alike)


def _drafts_so(text: str, wanted: dict[str, float]) -> bool:
    given = speculative_from(text).given
    return given.items() >= wanted.items() if wanted else not given
