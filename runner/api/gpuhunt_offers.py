"""Offers of clouds from the catalogues that gpuhunt publishes, one file a provider, collected daily from their APIs.

The library fetches them from its own place or from GPUHUNT_CATALOG_URL. It keeps going where one provider's catalogue
cannot be had and logs why; here that is an error, so that a book never lacks a provider in silence. Providers whose
API is asked at once (Vast.ai, Crusoe …) are asked only where they are named, with what their own environment variables
say. Prices are in USD per hour of an instance.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.error import HTTPError

from gpuscout.store.clock import today
from gpuscout.store.prices.offers import PROVIDERS, Offer
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest, needing
from gpuscout.sweeps.text import message_of

TIMEOUT_S = 60
_DAY = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})")
_HINT = "run it again; --provider asks only those that answer"


@dataclass(frozen=True)
class Fetched:
    """`days`: when a provider's prices were collected. `unreadable`: how many of its rows could not be read."""

    offers: tuple[Offer, ...]
    days: dict[str, date]
    unreadable: dict[str, int]


def fetch_offers(providers: Sequence[str] = ()) -> Fetched:
    """Return all offers of GPUs of these providers; unless given, of all whose catalogues are published.

    Raises InputError where the library is missing, UnknownNameError for a provider that it does not have, and
    InputError when anything that was asked for cannot be had: then nothing is returned.
    """
    with needing("prices fetch needs the package gpuhunt", hint="pip install 'gpuscout[prices]'"):
        import gpuhunt
    if os.environ.get("GPUHUNT_CATALOG_DIR"):
        raise InputError(
            "GPUHUNT_CATALOG_DIR is set, but its files hold no date",
            hint="unset it; GPUHUNT_CATALOG_URL names a mirror",
        )
    with _log() as log, _timeout():
        try:
            # Not the library's cached instance: every fetch asks anew.
            catalog = gpuhunt.default_catalog.__wrapped__()
        except (gpuhunt.GPUHuntError, OSError) as error:
            raise InputError(_failures(log) or f"no prices fetched: {message_of(error)}", hint=_HINT) from error
        published = dict(catalog.catalog)
        online = {provider.NAME for provider in catalog.providers}
        wanted = _named(providers, [*log.failed, *published, *online]) if providers else [*log.failed, *published]
        if failed := [name for name in wanted if name in log.failed]:
            raise InputError(_failures(log, failed), hint=_HINT)
        try:
            items = catalog.query(provider=wanted, min_gpu_count=1)
        except Exception as error:  # the providers' own APIs, and whatever their answers hold
            raise InputError(f"no prices fetched: {type(error).__name__}: {message_of(error)}", hint=_HINT) from error
    versions = {name: published[name].version if name in published else "" for name in wanted}
    source = f"gpuhunt {_version()}, catalogue "
    return Fetched(
        tuple(_offer(item, source + (versions[item.provider] or "asked at once")) for item in items),
        {PROVIDERS.get(name, name): _day(version) or today() for name, version in versions.items()},
        {PROVIDERS.get(name, name): log.unreadable[name] for name in wanted if name in log.unreadable},
    )


def _offer(item: Any, source: str) -> Offer:
    """Return an offer from an item of the catalogue. RunPod's instance types are GPU names of nvidia-smi."""
    where = item.location or ""
    booked = item.provider_data.get("is_dws_calendar_mode") is True
    cluster = "runpod-cluster" in item.flags
    community = item.provider == "runpod" and len(where) == 2  # a country, where others have a data centre
    notes = ["marketplace: community cloud"] * community + ["only in clusters of several machines"] * cluster
    return Offer(
        PROVIDERS.get(item.provider, item.provider),
        item.gpu_name or "",
        item.gpu_count,
        item.price or 0.0,
        "reserved" if booked else "spot" if item.spot else "on-demand",
        # Of GCP the library says the zone, whose last part is a letter.
        region=re.sub(r"-[a-z]$", "", where) if item.provider == "gcp" else where,
        instance_type=item.instance_name + " cluster" * cluster,
        memory_gb=(float(item.gpu_memory),) if item.gpu_memory else (),
        source=source,
        note="; ".join(notes),
        exact=not cluster,
    )


def _named(providers: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the library's names of providers, typed as it or as price books call them."""
    spelled = {spelling.casefold(): name for name in known for spelling in (PROVIDERS.get(name, name), name)}
    found = []
    for text in providers:
        if (name := spelled.get(text.strip().casefold())) is None:
            hint = f"known: {', '.join(sorted(PROVIDERS.get(name, name) for name in known))}"
            raise UnknownNameError("provider", text, nearest(text.casefold(), spelled), hint=hint)
        found.append(name)
    return list(dict.fromkeys(found))


def _day(version: str) -> date | None:
    found = _DAY.match(version)
    try:
        return date(*map(int, found.groups())) if found else None
    except ValueError:
        return None


def _version() -> str:
    from importlib.metadata import version

    return version("gpuhunt")


class _Log(logging.Handler):
    """Failures that the library only logs: catalogues it could not load, rows it could not read."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.failed: dict[str, str] = {}
        self.unreadable: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        name = str(record.args[0]) if isinstance(record.args, tuple) and record.args else "?"
        if "Failed to load %s catalog" in str(record.msg):
            error = record.exc_info[1] if record.exc_info else None
            self.failed[name] = message_of(error) if error else "unknown reason"
            if isinstance(error, HTTPError):
                error.close()  # the library keeps the connection open
        elif "malformed row" in str(record.msg):
            self.unreadable[name] += 1


def _failures(log: _Log, names: Sequence[str] = ()) -> str:
    reasons = [f"{name}: {log.failed[name]}" for name in names or log.failed]
    return f"no prices fetched, nothing was stored: {'; '.join(reasons)}" if reasons else ""


@contextmanager
def _log() -> Iterator[_Log]:
    logger, log = logging.getLogger("gpuhunt"), _Log()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(log)
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.propagate = propagate


@contextmanager
def _timeout() -> Iterator[None]:
    """Yield the library opens its connections without one."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
