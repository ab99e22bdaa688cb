"""`gpuscout doctor`: what is installed and reachable, for a bug report. Prints no secrets."""

from __future__ import annotations

import os
import platform

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, print_json
from gpuscout.runner.cli.crash import version_of

_PACKAGES = ("gpuscout", "ray", "sqlalchemy", "alembic", "numpy", "transformers", "huggingface_hub", "psycopg")


def register(app: typer.Typer) -> None:
    app.command("doctor", rich_help_panel="Store", epilog="Example: gpuscout doctor --json")(doctor)


def doctor(db: Db = DEFAULT_STORE, json: Json = False) -> None:
    """Show versions, the store, the engines and the catalogues."""
    from gpuscout.runner.cli.show.wording import print_field

    document = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: version_of(name) for name in _PACKAGES},
        "store": _store(db),
        "engines": _engines(),
        "catalogue": _catalogue(),
    }
    if json:
        print_json(document)
        return
    for key, value in document.items():
        if isinstance(value, dict):
            print(key)
            for name, detail in value.items():
                print_field(name, detail, 17, indent=2)
        else:
            print_field(key, value, 19)


def _store(db: str) -> dict[str, str]:
    from gpuscout.store.database.upgrade import store_status
    from gpuscout.sweeps.errors import GpuscoutError

    try:
        status = store_status(db)
    except GpuscoutError as error:
        return {"state": error.message}
    return {"url": status.url, "state": status.summary}


def _engines() -> dict[str, str]:
    from gpuscout.runner.engines.base import MissingEngine
    from gpuscout.runner.engines.registry import create_engine, engine_names
    from gpuscout.sweeps.text import message_of

    found = {}
    for name in engine_names():
        try:
            engine = create_engine(name)
            found[name] = engine.reason if isinstance(engine, MissingEngine) else f"fingerprint {engine.fingerprint()}"
        except Exception as error:
            found[name] = f"does not load: {type(error).__name__}: {message_of(error)}"
    return found


def _catalogue() -> dict[str, int]:
    from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
    from gpuscout.sweeps.models.catalogue import ModelCatalogue
    from gpuscout.sweeps.workloads import PRESETS

    return {
        "models": len(ModelCatalogue.load().names()),
        "gpus": len(GPUCatalogue.load().names()),
        "workloads": len(PRESETS),
    }
