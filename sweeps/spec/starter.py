"""The specs that ship with gpuscout: the starter of `gpuscout init`, and the examples."""

from __future__ import annotations

from importlib.resources import files

_FOLDER = files("gpuscout.sweeps") / "examples"
_STARTER = "starter"


def starter_spec() -> str:
    """Return a small commented spec that runs as it is."""
    return example_spec(_STARTER)


def example_names() -> tuple[str, ...]:
    """Return the names of all specs that ship, the starter included."""
    return tuple(
        sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))
    )


def example_spec(name: str) -> str:
    """Return the text of a spec that ships."""
    return (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
