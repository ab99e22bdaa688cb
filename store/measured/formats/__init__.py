"""The formats of measured results: one module a tool, and this registry, which recognises files.

A format is one more entry of `FORMATS`: how it is called, what it is, whether a file looks like it, and its reader,
which turns a file into `Contents` and raises InputError with the place of what is wrong. Readers are pure: they know
no store, no catalogue and no flags. Exports of gpuscout hold estimates as well: `store/transfer` reads those back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpuscout.store.measured.formats import (
    aiperf,
    guidellm,
    inference_perf,
    inferencex,
    llm_d,
    llm_optimizer,
    table,
    vllm,
)
from gpuscout.store.measured.formats.reported import Contents, Load, Reported
from gpuscout.store.measured.formats.source_file import SourceFile
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest

__all__ = [
    "FORMATS",
    "Contents",
    "Format",
    "Load",
    "Reported",
    "SourceFile",
    "check_format",
    "find_format",
    "recognise",
]


@dataclass(frozen=True)
class Format:
    """A file format: `name` is typed, `about` is shown; `recognises` must be quick and may raise InputError.

    `published`: its runs are as others published them: one whose figures contradict each other is kept apart and
    refuses no file, and a version that was not told stays unknown.
    """

    name: str
    about: str
    recognises: Callable[[SourceFile], bool]
    read: Callable[[SourceFile], Contents]
    published: bool = False


FORMATS: tuple[Format, ...] = (
    Format("vllm", "JSON of `vllm bench serve`", vllm.recognises, vllm.read),
    Format("guidellm", "GuideLLM's JSON report", guidellm.recognises, guidellm.read),
    Format("llm-d", "llm-d Benchmark Report v0.2", llm_d.recognises, llm_d.read),
    Format("aiperf", "JSON export of AIPerf or GenAI-Perf", aiperf.recognises, aiperf.read),
    Format(
        "inference-perf",
        "a stage of inference-perf",
        inference_perf.recognises,
        inference_perf.read,
    ),
    Format("llm-optimizer", "JSON of `llm-optimizer --output-json`", llm_optimizer.recognises, llm_optimizer.read),
    Format("inferencex", "rows of InferenceX's interface", inferencex.recognises, inferencex.read, published=True),
    Format("csv", "CSV, one line a run", table.recognises, table.read),
)
_ALSO = {"genai-perf": "aiperf", "llmd": "llm-d", "inferencemax": "inferencex"}


def find_format(name: str) -> Format:
    """Return a format by its name. Raises UnknownNameError."""
    wanted = name.casefold().replace("_", "-")
    wanted = _ALSO.get(wanted, wanted)
    for known in FORMATS:
        if known.name == wanted:
            return known
    names = [known.name for known in FORMATS]
    raise UnknownNameError("format", name, nearest(name, [*names, *_ALSO]), hint=f"known: {', '.join(names)}")


def check_format(file: SourceFile, chosen: Format) -> None:
    """Raise InputError for a file that is plainly of another format than the one that somebody named."""
    try:
        others = [] if chosen.recognises(file) else [known.name for known in FORMATS if known.recognises(file)]
    except InputError:
        return  # its reader says what is wrong
    if others:
        raise InputError(f"{file.name}: not {chosen.about}, it looks like {others[0]}", hint="leave the format out")


def recognise(file: SourceFile) -> Format:
    """Return the one format a file is of.

    Raises InputError when no format or several match, or the file cannot be parsed.
    """
    found = [known for known in FORMATS if known.recognises(file)]
    if len(found) == 1:
        return found[0]
    if not found:
        all_of_them = ", ".join(f"{known.name} ({known.about})" for known in FORMATS)
        raise InputError(f"{file.name}: unrecognised format", hint=f"known: {all_of_them}")
    names = [known.name for known in found]
    raise InputError(
        f"{file.name}: may be of {len(found)} formats: {', '.join(names)}",
        hint=f"say which: gpuscout import {names[0]} {file.name}",
    )
