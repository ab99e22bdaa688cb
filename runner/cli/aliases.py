"""Options as other tools call them: not accepted, but named in the message that says which option is meant."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

_MEANT = {
    "--rps": "--rate",
    "--qps": "--rate",
    "--request-rate": "--rate",
    "--requests-per-second": "--rate",
    "--isl": "--input-len",
    "--osl": "--output-len",
    "--input-length": "--input-len",
    "--output-length": "--output-len",
    "--input-tokens": "--input-len",
    "--output-tokens": "--output-len",
    "--max-concurrency": "--concurrency",
    "--batch-size": "--concurrency",
    "--tensor-parallel": "--tp",
    "--tensor-parallel-size": "--tp",
    "--backend": "--server",
    "--hardware": "--gpu",
    "--database": "--db",
    "--store": "--db",
    "--sla": "--slo",
    "--tail": "--assume-tail",
}


class Suggesting(TyperGroup):
    """A group of commands that answers options of other tools with their names here."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Of click, or of the copy of it that typer carries, by its release.
            meant = _MEANT.get(getattr(error, "option_name", None) or "")
            command = getattr(getattr(error, "ctx", None), "command", None)
            if meant and any(meant in option.opts for option in getattr(command, "params", ())):
                error.possibilities = [meant]  # type: ignore[attr-defined]
            raise
