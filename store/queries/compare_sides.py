"""The two sides of a comparison as people write them: sweeps, engines, kinds, settings, versions or prices.

A reference is written with what it is (`sweep:nightly@2`, `engine:roofline`, `kind:measured`, `server:sglang`,
`gpu:H200`, `precision:fp8`, `option:max_num_seqs=64`, `drafts:draft_tokens=3`, `version:0.19`, `prices:acme`,
`price:H100=1.8`, `as-of:2026-01-31`), or plainly where only one of these is meant; `now` are the prices as they are.
Whatever is about prices can be compared with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

import sqlalchemy as sa

from gpuscout.store.prices.books import book_names
from gpuscout.store.ranking.question.asked import MEASURED, Kind, Question
from gpuscout.store.ranking.question.lookup import listed
from gpuscout.store.schema import engines, gpus, measured_runs, sweeps
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.precision import PRECISIONS
from gpuscout.sweeps.servers import SERVERS

_EXAMPLES = "for example: nightly@1 nightly   server:vllm server:sglang   gpu:H100 gpu:H200   now price:H100=1.8"


class Form(StrEnum):
    """Kinds of sides of a comparison."""

    SWEEP = "sweep"
    ENGINE = "engine"
    KIND = "kind"
    SERVER = "server"
    GPU = "gpu"
    PRECISION = "precision"
    OPTION = "option"  # of the server
    DRAFTS = "drafts"  # of speculative decoding
    VERSION = "version"  # of the server of measured runs
    PRICES = "prices"
    PRICE = "price"
    AS_OF = "as-of"
    NOW = "now"


PRICE_FORMS = frozenset({Form.PRICES, Form.PRICE, Form.AS_OF, Form.NOW})
"""Sides that differ in prices alone: the results are the same ones."""


@dataclass(frozen=True)
class Side:
    """One side: `label` is how it is called, `question` what it answers."""

    form: Form
    label: str
    question: Question


def sides_of(connection: sa.Connection, one: str, other: str, question: Question) -> tuple[Side, Side]:
    """Return the question as either side answers it.

    Raises UnknownNameError for a reference to nothing, InputError for sides that cannot be compared, plain references
    that mean several things, and a question that restricts what the sides are.
    """
    meant = [_meant(connection, text) for text in (one, other)]
    forms = [form for form in Form if all(form in found for found in meant)]
    by_price = [next((form for form in found if form in PRICE_FORMS), None) for found in meant]
    if not forms and None not in by_price:
        pairs = zip(by_price, (one, other), strict=True)
        first, second = (_priced(form, _bare(text), question) for form, text in pairs if form is not None)
        return _different(first, second, one, other)
    if not forms:
        sides = " and ".join(
            f'"{text}" ({" or ".join(found)})' for text, found in zip((one, other), meant, strict=True)
        )
        raise InputError(f"{sides} cannot be compared: they are not of one kind", hint=_EXAMPLES)
    if len(forms) > 1:
        ways = ", ".join(f"{form}:{_bare(one)} {form}:{_bare(other)}" for form in forms)
        raise InputError(f'"{one}" and "{other}" may be {" or ".join(forms)}', hint=f"write {ways}")
    form = forms[0]
    _check(form, question)
    first, second = (_side(connection, form, _bare(text), question) for text in (one, other))
    if form is Form.ENGINE and MEASURED in (*first.question.engines, *second.question.engines):
        # An engine against runs: what is measured has the settings of an estimate only as far as they are known.
        first, second = replace(first, form=Form.KIND), replace(second, form=Form.KIND)
    return _different(first, second, one, other)


def side_of(connection: sa.Connection, text: str, question: Question) -> Side:
    """Return the question as one side alone answers it. Raises what `sides_of` raises."""
    forms = _meant(connection, text)
    if len(forms) > 1:
        ways = ", ".join(f"{form}:{_bare(text)}" for form in forms)
        raise InputError(f'"{text}" may be {" or ".join(forms)}', hint=f"write {ways}")
    _check(forms[0], question)
    return _side(connection, forms[0], _bare(text), question)


def _different(first: Side, second: Side, one: str, other: str) -> tuple[Side, Side]:
    if first.question == second.question:
        raise InputError(f'"{one}" and "{other}" are the same', hint=_EXAMPLES)
    return first, second


def _meant(connection: sa.Connection, text: str) -> list[Form]:
    """Return the possible meanings of a reference. Raises UnknownNameError."""
    prefix, colon, name = text.partition(":")
    if colon and prefix in list(Form) and prefix != Form.NOW:
        if not name:
            raise InputError(f'"{text}" lacks a name: expected {text}NAME', hint=_EXAMPLES)
        return [Form(prefix)]
    known = {
        Form.SWEEP: _sweep_names(connection),
        Form.ENGINE: list(connection.execute(sa.select(engines.c.name).distinct()).scalars()),
        Form.KIND: list(Kind),
        Form.SERVER: list(SERVERS),
        Form.GPU: list(connection.execute(sa.select(gpus.c.name).distinct()).scalars()),
        Form.PRECISION: [precision.value for precision in PRECISIONS],
        Form.PRICES: book_names(connection),
        Form.NOW: [Form.NOW.value],
    }
    found = [form for form, names in known.items() if text in names]
    if Form.SWEEP not in found and _sweep_id(connection, text) is not None:
        found.append(Form.SWEEP)
    if _day(text) is not None:
        found.append(Form.AS_OF)
    if not found:
        close = [f"{form}:{near}" for form, names in known.items() for near in nearest(text, names)]
        raise UnknownNameError("side of a comparison", text, close[:3], hint=_EXAMPLES)
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
    parts = tuple(part.strip() for part in name.split(","))
    if form is Form.SERVER:
        return Side(form, label, replace(question, servers=parts))
    if form is Form.GPU:
        return Side(form, label, replace(question, gpus=parts))
    if form is Form.PRECISION:
        return Side(form, label, replace(question, precisions=parts))
    if form is Form.OPTION:
        return Side(form, label, replace(question, server_options=(name,)))
    if form is Form.DRAFTS:
        return Side(form, label, replace(question, speculative=(name,)))
    if form is Form.VERSION:
        _check_versions(connection, parts)
        return Side(form, label, replace(question, server_versions=parts, kinds=(Kind.MEASURED.value,)))
    return _priced(form, name, question)


def _priced(form: Form, name: str, question: Question) -> Side:
    """Return the question at other prices. Raises InputError."""
    prices = question.prices
    if form is Form.NOW:
        return Side(form, "now", question)
    if form is Form.PRICES:
        prices = replace(prices, books=tuple(part.strip() for part in name.split(",")))
    elif form is Form.PRICE:
        prices = replace(prices, overrides={**(prices.overrides or {}), **_overrides(name)})
    else:
        day = _day(name)
        if day is None:
            raise InputError(f'invalid day "{name}"', hint="write YEAR-MONTH-DAY, such as as-of:2026-01-31")
        prices = replace(prices, as_of=day)
    return Side(form, f"{form}:{name}", replace(question, prices=prices))


def _overrides(text: str) -> dict[str, float]:
    """Return text such as "H100=1.8,H200=2.5" as USD per GPU hour by canonical name.

    Raises InputError, UnknownNameError.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, figure = part.partition("=")
        try:
            usd = float(figure)
        except ValueError:
            usd = 0.0
        if not equals or not 0 < usd < 1e6:
            raise InputError(f'invalid price "{part}": expected GPU=USD', hint="for example price:H100=1.8")
        found[GPUCatalogue.load().resolve(name.strip()).name] = usd
    return found


def _check_versions(connection: sa.Connection, names: Sequence[str]) -> None:
    """Raise UnknownNameError for a version that no measured run has."""
    column = measured_runs.c.server_version
    known = list(connection.execute(sa.select(column).where(column.is_not(None)).distinct().order_by(column)).scalars())
    for name in names:
        if not any(version == name or version.startswith(f"{name}.") for version in known):
            hint = f"measured runs have {listed(known)}" if known else "no measured run states its server's version"
            raise UnknownNameError("server version", name, nearest(name, known), hint=hint)


def _check(form: Form, question: Question) -> None:
    """Raise InputError for a filter on what the sides are."""
    taken = {
        Form.SWEEP: ("--sweep", question.sweep is not None),
        Form.ENGINE: ("--engine", bool(question.engines)),
        Form.KIND: ("--kind or --engine measured", bool(question.kinds) or MEASURED in question.engines),
        Form.SERVER: ("--server", bool(question.servers)),
        Form.GPU: ("--gpu", bool(question.gpus)),
        Form.PRECISION: ("--precision", bool(question.precisions)),
        Form.OPTION: ("--server-option", bool(question.server_options)),
        Form.DRAFTS: ("--speculative", bool(question.speculative)),
        Form.VERSION: ("--kind", bool(question.kinds)),
        Form.PRICES: ("--prices", bool(question.prices.books)),
        Form.AS_OF: ("--as-of", question.prices.as_of is not None),
    }
    option, given = taken.get(form, ("", False))
    if given:
        raise InputError(f"{option} cannot be combined with these sides: both already set it")


def _sweep_names(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.select(sweeps.c.name).distinct().order_by(sweeps.c.name)).scalars())


def _sweep_id(connection: sa.Connection, text: str) -> int | None:
    """Return the sweep of this name (its newest revision), name@revision, or id."""
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
