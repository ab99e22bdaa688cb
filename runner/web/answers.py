"""Answers to questions that come over HTTP: each is a command of gpuscout, run in this process, in its own words.

A question names a command and gives its options as parameters: `?slo=itl<=30ms&min_memory=80` is `--slo 'itl<=30ms'
--min-memory 80`. Only the commands and options of `QUESTIONS` can be asked: none of them writes or starts a run,
and those of the REST API open no file of the caller's choice and never reach the network (`fit`, which would, is not
among them).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from typing import Any

from gpuscout.runner.cli.main import all_commands
from gpuscout.runner.cli.options import AimOptions, Filters, LimitOptions, PriceOptions, SloOptions
from gpuscout.runner.cli.streams import captured
from gpuscout.sweeps.errors import GpuscoutError, InputError, nearest

_AIM = tuple(one.name for one in fields(AimOptions))
_LIMITS = tuple(one.name for one in fields(LimitOptions))
_SLOS = tuple(one.name for one in fields(SloOptions))
_FILTERS = tuple(one.name for one in fields(Filters))
_PRICES = tuple(one.name for one in fields(PriceOptions))
_LONGEST_VALUE = 500
_MOST_VALUES = 200
_IN_WORDS = {"load": "0:00=2,8:00=40", "have": "H100=16"}
MOST_ROWS = 1000
"""Of a list of points, how many rows one answer has at most."""


@dataclass(frozen=True)
class Kind:
    """One kind of question: the words of its command, the options that may be given, and whether it takes a store."""

    command: tuple[str, ...]
    options: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    store: bool = True


QUESTIONS: Mapping[str, Kind] = {
    "sweeps": Kind(("sweeps", "list")),
    "sweep": Kind(("sweeps", "show"), places=("name",)),
    "models": Kind(("models", "list"), places=("pattern",), store=False),
    "gpus": Kind(("gpus", "list"), ("vendor", "family"), ("pattern",), store=False),
    "gpu": Kind(("gpus", "show"), places=("name",), store=False),
    "workloads": Kind(("workloads", "list"), store=False),
    "prices": Kind(("prices", "list"), ("books",)),
    "points": Kind(
        ("query",), (*_FILTERS, *_SLOS, *_PRICES, "rate", "columns", "sort", "limit", "offset", "all_versions")
    ),
    "recommend": Kind(("recommend",), (*_AIM, *_FILTERS, *_PRICES, "rate", "top", "explain")),
    "pareto": Kind(
        ("pareto",),
        (*_FILTERS, *_SLOS, *_PRICES, "rate", "metrics", "across", "dominated", "queued", "columns", "all_versions"),
    ),
    "compare": Kind(("compare",), (*_AIM, *_FILTERS, *_PRICES, "rate", "tokens_per_day", "cached"), ("a", "b")),
    "capacity": Kind(
        ("capacity",),
        (
            *(*_LIMITS, *_FILTERS, *_PRICES, "rate", "tokens_rate", "headroom", "min_replicas", "spare"),
            *("whole_nodes", "top", "load", "step", "startup", "scale_up", "scale_down", "most_missed"),
            *("reserved_price", "batch", "within", "interruptions", "lost_work", "spot_price"),
        ),
    ),
    "place": Kind(
        ("place",),
        (*_LIMITS, *_FILTERS, *_PRICES, "have", "rate", "tokens_rate", "headroom", "min_replicas", "least"),
    ),
    "fit": Kind(
        ("fit",),
        ("context", "precision", "kv_precision", "tp", "pp", "dp", "ep", "server", "gpu_memory_utilization"),
        ("model", "gpus"),
    ),
    "deploy": Kind(
        ("deploy",), (*_AIM, *_FILTERS, *_PRICES, "rank", "config", "run_with", "draft", "rate", "headroom", "image")
    ),
    "accuracy": Kind(("accuracy",), (*_PRICES, "measured", "engine", "by")),
}


@dataclass(frozen=True)
class Answer:
    """Output of a command, its messages, and its exit status: 0, or 6 where nothing qualifies."""

    text: str
    messages: str
    exit_status: int


@dataclass(frozen=True)
class Question:
    """A question of a kind, with its parameters by name. Raises InputError for names and values that cannot be."""

    name: str
    given: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        allowed = {*self.kind.options, *self.kind.places}
        for name, values in self.given.items():
            if name not in allowed:
                raise InputError(
                    f'unknown parameter "{name}"',
                    hint=f"{_meant(name, allowed)}allowed: {', '.join(sorted(allowed)) or 'none'}",
                )
            if len(values) > _MOST_VALUES or any(len(value) > _LONGEST_VALUE for value in values):
                raise InputError(f"{name}: expected at most {_MOST_VALUES} values of {_LONGEST_VALUE} characters")
            if any("\0" in value for value in values):
                raise InputError(f"{name}: a value holds a character that is not text")
        self._check_bounds()

    def _check_bounds(self) -> None:
        """Refuse what the command line allows and a server does not: unbounded lists, and files."""
        limits = self.given.get("limit", ())
        if any(not value.isdecimal() or not 1 <= int(value) <= MOST_ROWS for value in limits):
            raise InputError(f"limit: expected a number from 1 to {MOST_ROWS}")
        for source in self.given.get("measured", ()):
            if source.partition(":")[0] not in ("public", "stored"):
                raise InputError(f'measured: "{source}" is not public or stored', hint="files are read by the command")

        for name in ("load", "have"):
            if any("=" not in value for value in self.given.get(name, ())):
                raise InputError(f"{name}: expected it in words, such as {_IN_WORDS[name]}, not in a file")

    @property
    def kind(self) -> Kind:
        return QUESTIONS[self.name]

    def arguments(self) -> list[str]:
        """Return the options and arguments as the command line takes them, without --db and --json."""
        known = parameters(self.name)
        options: list[str] = []
        for name in self.kind.options:
            flag = known[name].opts[0]
            for value in self.given.get(name, ()):
                if not known[name].is_flag:
                    options.append(f"{flag}={value}")
                elif _is_true(name, value):
                    options.append(flag)
        places = [value for name in self.kind.places for value in self.given.get(name, ())]
        return [*options, *(["--", *places] if places else [])]

    def command(self, store: str | None = None) -> str:
        """Return the command that gives the same answer, to copy into a shell."""
        options, marks, places = _parted(self.arguments())
        words = ["gpuscout", *self.kind.command]
        for option in options:
            flag, equals, value = option.partition("=")
            words += [flag, value] if equals and not value.startswith("-") else [option]
        if store is not None and self.kind.store:
            words += ["--db", store]
        keep_mark = any(place.startswith("-") for place in places)
        return shlex.join([*words, *(marks if keep_mark else []), *places])

    def ask(self, db: str, *form: str) -> Answer:
        """Run the command. `form` is how it prints: --json unless given. Raises GpuscoutError, as the command does."""
        options, marks, places = _parted(self.arguments())
        store = ["--db", db] if self.kind.store else []
        line = [*self.kind.command, *options, *(form or ("--json",)), *store, *marks, *places]
        with captured() as printed, usage_errors():
            status = all_commands().main(args=line, prog_name="gpuscout", standalone_mode=False)
        return Answer(printed.documents.getvalue(), printed.messages.getvalue().strip(), status or 0)

    def groups(self, *kinds: type[Any]) -> tuple[Any, ...]:
        """Return the groups of options of the command, as it would be given them."""
        given = self.options
        return tuple(kind(**{one.name: given[one.name] for one in fields(kind)}) for kind in kinds)

    @cached_property
    def options(self) -> dict[str, Any]:
        """The options of the command by name, as it would be given them."""
        command = _command(self.name)
        with usage_errors():
            found: dict[str, Any] = command.make_context(command.name, self.arguments()).params
        return found


def parameters(name: str) -> dict[str, Any]:
    """Return the parameters of a command by the names that questions give them."""
    return {parameter.name: parameter for parameter in _command(name).params}


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn mistakes on the command line into InputErrors, as all others."""
    try:
        yield
    except GpuscoutError:
        raise
    except Exception as error:
        # Typer's own class, wherever this version of it keeps it.
        told = getattr(error, "format_message", None)
        if told is None:
            raise
        raise InputError(told()) from error


@cache
def _command(name: str) -> Any:
    found = all_commands()
    for word in QUESTIONS[name].command:
        found = found.commands[word]
    return found


def _parted(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Return options, the mark that ends them, and arguments."""
    if "--" not in arguments:
        return list(arguments), [], []
    at = arguments.index("--")
    return list(arguments[:at]), ["--"], list(arguments[at + 1 :])


def _is_true(name: str, value: str) -> bool:
    word = value.casefold()
    if word not in ("", "1", "true", "yes", "on", "0", "false", "no", "off"):
        raise InputError(f'{name}: "{value}" is neither true nor false')
    return word not in ("0", "false", "no", "off")


def _meant(name: str, allowed: Iterable[str]) -> str:
    near = nearest(name, allowed, limit=1)
    return f"did you mean {near[0]}?   " if near else ""
