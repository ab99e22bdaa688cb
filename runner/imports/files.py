"""Imports result files one at a time; a broken file is skipped without affecting the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gpuscout.runner.engines.plausible import contradiction, implausible
from gpuscout.runner.imports import inferencex
from gpuscout.runner.imports.complete import Completer, NotSaid
from gpuscout.runner.imports.stated import Mappings
from gpuscout.store.database.connect import Store
from gpuscout.store.measured.formats import FORMATS, Format, Reported, SourceFile, check_format, find_format, recognise
from gpuscout.store.measured.runs import PUBLIC_FILES, MeasuredRun, public_file
from gpuscout.store.measured.stored import store_durably, stored_digests, under_other_facts
from gpuscout.sweeps.errors import GpuscoutError, InputError, UnknownNameError

PUBLIC = "public"


@dataclass
class ImportedFile:
    """One file: its runs, complete and not yet stored, or why there are none. `new` says which runs were stored now."""

    name: str
    format: str | None = None
    runs: list[MeasuredRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: GpuscoutError | None = None
    new: list[bool] = field(default_factory=list)

    @property
    def added(self) -> int:
        return sum(self.new)

    @property
    def already_stored(self) -> int:
        return len(self.new) - self.added


def split_format(arguments: Sequence[str]) -> tuple[Format | None, list[str]]:
    """Return the format, when the first of `[FORMAT] FILE…` is one, and the files. Raises InputError."""
    first, rest = arguments[0], list(arguments[1:])
    try:
        chosen = find_format(first)
    except UnknownNameError as error:
        if Path(first).exists() or is_public(first):
            return None, list(arguments)
        if rest and not any(character in first for character in "./*\\"):
            hint = f"formats: {', '.join(known.name for known in FORMATS)}"
            raise UnknownNameError("file or format", first, error.suggestions, hint=hint) from None
        return None, list(arguments)
    if not rest:
        raise InputError(f"no files given for the format {chosen.name}", hint=f"for a file of that name: ./{first}")
    return chosen, rest


def read_files(names: Iterable[str], chosen: Format | None, completer: Completer) -> Iterator[ImportedFile]:
    """Yield every file, read and completed, in order; what is wrong with one is its `error`."""
    for name in _expanded(names):
        yield _sound_or_refused(name, lambda file: _read(file, _source(file.name), chosen, completer))


def read_online(question: inferencex.Question, completer: Completer) -> ImportedFile:
    """Return the runs that InferenceX answers a question with, as one file."""

    def ask(file: ImportedFile) -> None:
        _read(file, inferencex.ask(question), find_format(inferencex.NAME), completer, question.wants)

    return _sound_or_refused(f"{inferencex.NAME}:{question.short_name}", ask)


def _sound_or_refused(name: str, read: Callable[[ImportedFile], None]) -> ImportedFile:
    file = ImportedFile(name)
    try:
        read(file)
    except InputError as error:
        file.error, file.runs = error, []
    return file


def store_file(store: Store, file: ImportedFile) -> None:
    """Store what is new of a file in one transaction, and note it in `file.new`.

    Raises StoreBusyError when somebody deletes meanwhile what the runs refer to, StoreUnreachableError.
    """

    again, file.new = store_durably(store, file.runs)
    _note_again(file, again)


def compare_files(files: Sequence[ImportedFile], store: Store | None) -> None:
    """Note in `new` of each file what storing them all would add; without a store, nothing is there yet."""
    known: set[bytes] = set()
    again: list[dict[int, str]] = [{} for _ in files]
    if store is not None:
        with store.reading() as connection:
            known = stored_digests(connection, [run for file in files for run in file.runs])
            again = [under_other_facts(connection, file.runs) for file in files]
    for file in files:
        for run in file.runs:
            digest = run.digest()
            file.new.append(digest not in known)
            known.add(digest)
    for file, places in zip(files, again, strict=True):
        _note_again(file, places)


def _note_again(file: ImportedFile, places: Mapping[int, str]) -> None:
    """Report runs that are new only because their description differs from that of an earlier import."""
    if found := [place for position, place in places.items() if file.new[position]]:
        runs = "1 run has" if len(found) == 1 else f"{len(found):,} runs have"
        file.notes.append(
            f"{file.name}: {runs} exactly the figures of stored ones of {found[0]}, but another deployment or load; "
            f"if those are wrong: gpuscout import --remove {found[0]}"
        )


def _source(name: str) -> SourceFile:
    return public_file(name.partition(":")[2]) if is_public(name) else SourceFile.open(Path(name))


def _read(
    file: ImportedFile,
    source: SourceFile,
    chosen: Format | None,
    completer: Completer,
    wanted: Callable[[Reported], bool] = lambda run: True,
) -> None:
    public = is_public(file.name)
    if chosen:
        check_format(source, chosen)
    kind = chosen or recognise(source)
    file.format = kind.name
    published = public or kind.published
    contents = kind.read(source)
    file.notes += contents.notes
    runs = [run for run in contents.runs if wanted(run)]
    if not runs:
        raise InputError(f"{file.name}: contains no runs", hint=contents.notes[0] if contents.notes else None)
    if public:  # which neither flags nor mappings speak of
        completer = replace(completer, flags={}, mappings=Mappings())
    lacking: dict[str, int] = {}
    served: str | None = None
    places_by_note: dict[str, list[str]] = {}  # places by what is told of them
    places: list[str] = []  # of the runs
    contradictions: list[str | None] = []
    for reported in runs:
        try:
            run, notes = completer.complete(reported, file.name, version_may_lack=published)
        except NotSaid as missing:
            served = served or missing.served
            for name in missing.fields:
                lacking[name] = lacking.get(name, 0) + 1
            continue
        except InputError as error:
            if not published:
                raise
            # A collection of others: a model or GPU that nobody knows here does not keep out the rest.
            places_by_note.setdefault(
                f"left out: {error.message.removeprefix(f'{file.name}{reported.place}: ')}", []
            ).append(file.name + reported.place)
            continue
        place = file.name + reported.place
        wrong = contradiction(run)
        if wrong is not None and not published:
            raise InputError(f"{place}: the figures contradict each other: {wrong}")
        file.runs.append(run)
        places.append(place)
        contradictions.append(wrong)
        for note in notes:
            places_by_note.setdefault(note, []).append(place)
    # Public runs are as they were published: what contradicts itself there is kept apart, too.
    causes = [wrong or cause for wrong, cause in zip(contradictions, implausible(file.runs), strict=True)]
    file.runs = [replace(run, implausible=cause) for run, cause in zip(file.runs, causes, strict=True)]
    for place, cause in zip(places, causes, strict=True):
        if cause is not None:
            places_by_note.setdefault(f"implausible, and never ranked unless asked for: {cause}", []).append(place)
    for note, where in places_by_note.items():
        more = f" and {len(where) - 1:,} more" if len(where) > 1 else ""
        file.notes.append(f"{where[0]}{more}: {note}")
    if lacking:
        incomplete = NotSaid(lacking, served)
        some = "" if set(lacking.values()) == {len(runs)} else " for some of its runs"
        raise InputError(f"{file.name}: {incomplete.message}{some}", hint=incomplete.hint)


def _expanded(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name == PUBLIC:
            yield from (f"{PUBLIC}:{file}" for file in PUBLIC_FILES)
        else:
            yield name


def is_public(name: str) -> bool:
    """Return whether this names runs that ship with the package."""
    return name == PUBLIC or name.startswith(f"{PUBLIC}:")
