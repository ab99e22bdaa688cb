"""The two sides of a comparison as people write them: sweeps, engines, kinds, price books or days.

A reference is written with what it is (`sweep:nightly@2`, `engine:roofline`, `kind:measured`, `prices:acme`,
`as-of:2026-01-31`), or plainly where only one of these is meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

import sqlalchemy as sa

from gpuscout.store.prices.books import book_names
from gpuscout.store.ranking.lookup import listed
from gpuscout.store.ranking.types import MEASURED, Kind, Question
from gpuscout.store.schema import engines, sweeps
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest

_EXAMPLES = "for example: nightly@1 nightly   engine:roofline engine:llm-optimizer   prices:default prices:own"


class Form(StrEnum):
    """What a side of a comparison is."""

    SWEEP = "sweep"
    ENGINE = "engine"
    KIND = "kind"
    PRICES = "prices"
    AS_OF = "as-of"


@dataclass(frozen=True)
class Side:
    """One side: `label` is how it is called, `question` what it answers."""

    form: Form
    label: str
    question: Question


def sides_of(connection: sa.Connection, one: str, other: str, question: Question) -> tuple[Side, Side]:
    """The question as either side answers it.

    Raises UnknownNameError for a reference to nothing, InputError for sides that cannot be compared, plain references
    that mean several things, and a question that restricts what the sides are.
    """
    meant = [_meant(connection, text) for text in (one, other)]
    forms = [form for form in Form if all(form in found for found in meant)]
    if not forms:
        told = " and ".join(f'"{text}" ({" or ".join(found)})' for text, found in zip((one, other), meant, strict=True))
        raise InputError(f"{told} cannot be compared: they are not of one kind", hint=_EXAMPLES)
    if len(forms) > 1:
        ways = ", ".join(f"{form}:{_bare(one)} {form}:{_bare(other)}" for form in forms)
        raise InputError(f'"{one}" and "{other}" may be {" or ".join(forms)}', hint=f"write {ways}")
    form = forms[0]
    _check(form, question)
    first, second = (_side(connection, form, _bare(text), question) for text in (one, other))
    if form is Form.ENGINE and MEASURED in (*first.question.engines, *second.question.engines):
        # An engine against runs: what is measured has the settings of an estimate only as far as they are known.
        first, second = replace(first, form=Form.KIND), replace(second, form=Form.KIND)
    if first.question == second.question:
        raise InputError(f'"{one}" and "{other}" are the same', hint=_EXAMPLES)
    return first, second


def _meant(connection: sa.Connection, text: str) -> list[Form]:
    """What a reference can be. Raises UnknownNameError."""
    prefix, colon, name = text.partition(":")
    if colon and prefix in list(Form):
        if not name:
            raise InputError(f'"{text}" names nothing', hint=_EXAMPLES)
        return [Form(prefix)]
    known = {
        Form.SWEEP: _sweep_names(connection),
        Form.ENGINE: list(connection.execute(sa.select(engines.c.name).distinct()).scalars()),
        Form.KIND: list(Kind),
        Form.PRICES: book_names(connection),
    }
    found = [form for form, names in known.items() if text in names]
    if Form.SWEEP not in found and _sweep_id(connection, text) is not None:
        found.append(Form.SWEEP)
    if _day(text) is not None:
        found.append(Form.AS_OF)
    if not found:
        close = [f"{form}:{near}" for form, names in known.items() for near in nearest(text, names)]
        raise UnknownNameError("sweep, engine, kind, price book or day", text, close[:3], hint=_EXAMPLES)
    return found


def _bare(text: str) -> str:
    prefix, colon, name = text.partition(":")
    return name if colon and prefix in list(Form) else text


def _side(connection: sa.Connection, form: Form, name: str, question: Question) -> Side:
    label = f"{form}:{name}"
    if form is Form.SWEEP:
        sweep = _sweep_id(connection, name)
        if sweep is None:
            names = _sweep_names(connection)
            hint = f"the store has {listed(names)}; NAME@REVISION means an older one"
            raise UnknownNameError("sweep", name, nearest(name.partition("@")[0], names), hint=hint)
        return Side(form, label, replace(question, sweep=sweep))
    if form is Form.ENGINE:
        return Side(form, label, replace(question, engines=(name,)))
    if form is Form.KIND:
        return Side(form, label, replace(question, kinds=(name,)))
    if form is Form.PRICES:
        books = tuple(part.strip() for part in name.split(","))
        return Side(form, label, replace(question, prices=replace(question.prices, books=books)))
    day = _day(name)
    if day is None:
        raise InputError(f'"{name}" is no day', hint="write YEAR-MONTH-DAY, such as as-of:2026-01-31")
    return Side(form, label, replace(question, prices=replace(question.prices, as_of=day)))


def _check(form: Form, question: Question) -> None:
    """Raises InputError for a filter on what the sides are."""
    taken = {
        Form.SWEEP: ("--sweep", question.sweep is not None),
        Form.ENGINE: ("--engine", bool(question.engines)),
        Form.KIND: ("--kind or --engine measured", bool(question.kinds) or MEASURED in question.engines),
        Form.PRICES: ("--prices", bool(question.prices.books)),
        Form.AS_OF: ("--as-of", question.prices.as_of is not None),
    }
    option, given = taken[form]
    if given:
        raise InputError(f"{option} leaves nothing to compare: the two sides say it")


def _sweep_names(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.select(sweeps.c.name).distinct().order_by(sweeps.c.name)).scalars())


def _sweep_id(connection: sa.Connection, text: str) -> int | None:
    """The sweep of this name (its newest revision), name@revision, or id."""
    name, at, revision = text.rpartition("@")
    wanted: Sequence[sa.ColumnElement[bool]] = [sweeps.c.name == text]
    if at and revision.isdecimal():
        wanted = [*wanted, sa.and_(sweeps.c.name == name, sweeps.c.revision == int(revision))]
    if text.isdecimal():
        wanted = [*wanted, sweeps.c.id == int(text)]
    for condition in wanted:
        statement = sa.select(sweeps.c.id).where(condition).order_by(sweeps.c.latest_run.desc()).limit(1)
        found = connection.execute(statement).scalar_one_or_none()
        if found is not None:
            return int(found)
    return None


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
