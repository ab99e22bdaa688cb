"""Axes of server options and of speculative decoding in a spec, each a list of mappings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.servers.options import OPTIONS, SYNONYMS, ServerOptions, defaults_in_words
from gpuscout.sweeps.spec.axes import NumericAxis
from gpuscout.sweeps.spec.faults import Fault, Faults, InvalidValue, entries_of, one_or_more, unexpected, unknown_key
from gpuscout.sweeps.speculative import MOST_DRAFT_TOKENS, NO_DRAFTS, Speculative

_OPTIONS = {name: NumericAxis(1, option.most) for name, option in OPTIONS.items()}
_SHARE = NumericAxis(0, 1, whole=False)
_SPECULATIVE = {"draft_tokens": NumericAxis(1, MOST_DRAFT_TOKENS), "acceptance": _SHARE, "draft_cost": _SHARE}
_MEANING = {
    "draft_tokens": "tokens drafted for a sequence in every step",
    "acceptance": "probability that a drafted token holds if those before it did",
    "draft_cost": "what drafting one token takes, as a share of a decode step: 0 for n-grams, 0.05 for an MTP or EAGLE "
    "head, more for a model",
}
_NONE = "none"
_MOST_ENTRIES = 1_000
_EXAMPLE = "for example speculative: [none, {draft_tokens: 3, acceptance: 0.7, draft_cost: 0.05}]"


def parse_server_options(value: object) -> tuple[ServerOptions, ...]:
    """Return one mapping of options or a list of them; several values of an option stand for as many mappings.

    Raises InvalidValue with everything wrong.
    """
    entries = entries_of(value)
    faults = Faults()
    options: list[ServerOptions] = []
    for path, entry in entries:
        if not isinstance(entry, Mapping):
            hint = "for example server_options: [{}, {max_num_seqs: 256}]; {} is the server's defaults"
            faults.add(replace(unexpected("a mapping of server options", entry, path), hint=hint))
            continue
        wrong = Faults()
        for name in entry:
            if name not in OPTIONS:
                spelled = str(name).lstrip("-").replace("-", "_").casefold()
                wrong.add(unknown_key(str(name), OPTIONS, synonyms={str(name).casefold(): _called(spelled)}))
        options += [tuple(sorted(one.items())) for one in _product(entry, _OPTIONS, wrong, defaults_in_words)]
        with faults.within(path):
            wrong.raise_if_any()
    faults.raise_if_any()
    _check_size(options)
    return tuple(options)


def parse_speculative(value: object) -> tuple[Speculative, ...]:
    """Return `none`, a mapping, or a list of them. Raises InvalidValue with everything wrong."""
    entries = entries_of(value)
    faults = Faults()
    drafts: list[Speculative] = []
    for path, entry in entries:
        if entry is None or (isinstance(entry, str) and entry.casefold() == _NONE):
            drafts.append(NO_DRAFTS)
            continue
        if not isinstance(entry, Mapping):
            faults.add(replace(unexpected(f'"{_NONE}" or a mapping', entry, path), hint=_EXAMPLE))
            continue
        wrong = Faults()
        for name in entry:
            if name not in _SPECULATIVE:
                wrong.add(unknown_key(str(name), _SPECULATIVE, synonyms={"num_speculative_tokens": "draft_tokens"}))
        for name, meaning in _MEANING.items():
            if name not in entry:
                wrong.add(Fault(f"missing `{name}`: {meaning}", hint=_EXAMPLE))
        drafts += [Speculative(**one) for one in _product(entry, _SPECULATIVE, wrong) if len(one) == len(_SPECULATIVE)]
        with faults.within(path):
            wrong.raise_if_any()
    faults.raise_if_any()
    _check_size(drafts)
    return tuple(drafts)


def _called(spelled: str) -> str:
    """Return the name here of an option that a server calls otherwise."""
    return spelled if spelled in OPTIONS else SYNONYMS.get(spelled, "")


def _check_size(found: list[Any]) -> None:
    if len(found) > _MOST_ENTRIES:
        raise InvalidValue(Fault(f"{len(found):,} combinations are too many; at most {_MOST_ENTRIES:,}"))


def _product(
    entry: Mapping[str, object], axes: Mapping[str, NumericAxis], faults: Faults, default: Any = None
) -> Iterator[dict[str, Any]]:
    """Return the combinations of the values of a mapping; what is wrong with a value goes to `faults`."""
    columns: dict[str, tuple[Any, ...]] = {}
    for name, axis in axes.items():
        if name not in entry:
            continue
        try:
            columns[name] = axis.parse(entry[name])
        except InvalidValue as invalid:
            default_hint = None if default is None else f"default: {default(name)}"
            hinted = (
                replace(f, hint="; ".join(part for part in (f.hint, default_hint) if part)) for f in invalid.faults
            )
            faults.add(*(invalid.faults if default_hint is None else hinted), under=(name,))
    combinations = 1
    for column in columns.values():
        combinations *= len(column)
    if combinations > _MOST_ENTRIES:
        faults.add(Fault(f"{combinations:,} combinations are too many; at most {_MOST_ENTRIES:,}"))
        return iter(())
    return (dict(zip(columns, row, strict=True)) for row in itertools.product(*columns.values()))


def options_in_flags(texts: Iterable[str]) -> dict[str, list[int | float | str]]:
    """Read "max_num_seqs=128,256" and more as a spec has it, with numbers where there are any. Raises InputError."""
    options: dict[str, list[int | float | str]] = {}
    for text in texts:
        name, equals, values = (part.strip() for part in text.partition("="))
        if not (name and equals and values):
            raise InputError(
                f'invalid server option "{text}": expected NAME=VALUE', hint="for example max_num_seqs=256"
            )
        if name in options:
            raise InputError(f"server option {name} is given twice", hint=f"several values: {name}=128,256")
        options[name] = [_plain(value) for value in values.split(",")]
    return options


def drafts_in_flags(texts: Iterable[str]) -> list[str | dict[str, int | float | str]]:
    """Return text such as "none" and "draft_tokens=3,acceptance=0.7,draft_cost=0.05" as a spec has them.

    Raises InputError.
    """
    drafts: list[str | dict[str, int | float | str]] = []
    for text in texts:
        if text.strip().casefold() == _NONE:
            drafts.append(_NONE)
            continue
        pairs = [[part.strip() for part in word.partition("=")] for word in text.replace(",", " ").split()]
        given = {name: _plain(value) for name, _, value in pairs}
        if not pairs or len(given) < len(pairs) or not all(all(pair) for pair in pairs):
            raise InputError(
                f'invalid speculative decoding "{text}": expected none, or NAME=VALUE of {", ".join(_SPECULATIVE)}',
                hint="for example draft_tokens=3,acceptance=0.7,draft_cost=0.05",
            )
        drafts.append(given)
    return drafts


def _plain(text: str) -> int | float | str:
    """Return a number where it is one."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def options_asked(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the values of server options that results are wanted of. Raises InputError."""
    given = options_in_flags(texts)
    _sound("server option", lambda: parse_server_options(given) if given else ())
    return {name: tuple(int(value) for value in values) for name, values in given.items()}


def drafts_asked(texts: Iterable[str]) -> list[dict[str, float]]:
    """Return figures of speculative decoding that results are wanted of, some or all; empty: without it.

    Raises InputError.
    """
    drafts: list[dict[str, float]] = []
    for given in drafts_in_flags(texts):
        asked = {} if isinstance(given, str) else given
        whole = {"draft_tokens": 1, "acceptance": 0, "draft_cost": 0, **asked}
        _sound("speculative decoding", lambda whole=whole: parse_speculative(whole))  # type: ignore[misc]
        drafts.append({name: float(value) for name, value in asked.items()})
    return drafts


def _sound(what: str, parse: Callable[[], object]) -> None:
    try:
        parse()
    except InvalidValue as invalid:
        fault = invalid.faults[0]
        place = what if fault.at_key or not fault.path else f"{what} {fault.path[0]}"
        raise InputError(f"{place}: {fault.message}", hint=fault.hint) from None


def server_options_json_schema() -> dict[str, object]:
    """Return the JSON Schema of what `parse_server_options` takes."""
    described = {
        name: {**axis.json_schema(), "description": f"{OPTIONS[name].help}; default: {defaults_in_words(name)}"}
        for name, axis in _OPTIONS.items()
    }
    entry: dict[str, object] = {"type": "object", "properties": described, "additionalProperties": False}
    return one_or_more(entry)


def speculative_json_schema() -> dict[str, object]:
    """Return the JSON Schema of what `parse_speculative` takes."""
    described = {name: {**axis.json_schema(), "description": _MEANING[name]} for name, axis in _SPECULATIVE.items()}
    mapping = {
        "type": "object",
        "properties": described,
        "required": list(_SPECULATIVE),
        "additionalProperties": False,
    }
    entry: dict[str, object] = {"anyOf": [{"enum": [_NONE, None]}, mapping]}
    return one_or_more(entry)
