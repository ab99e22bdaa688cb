"""Exports in their three formats: written row by row, read row by row with the place of every row for messages."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import IO, Any

from gpuscout.store.transfer.columns import COLUMNS, LONGEST_VALUE, NAMES, Value
from gpuscout.sweeps.errors import InputError, needing
from gpuscout.sweeps.reading import GZIP_MAGIC, TooLarge, json_lines, results_mb, streamed_mb

_AT_ONCE = 20_000
_PARQUET_MAGIC = b"PAR1"
# A row is longer the more concurrencies its task was asked for.
_LONGEST_START = 2**22
_LONGEST_LINE = 16 * LONGEST_VALUE
# No other file has all of these.
_MARKS = frozenset(("kind", "task_key", "run_digest", "case_digest"))


class Format(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


def format_of(file: Path) -> Format:
    """Return the format that a file name asks for. Raises InputError."""
    try:
        return Format(file.suffix.removeprefix(".").lower())
    except ValueError:
        raise InputError(f"{file}: unknown file ending", hint="--format csv, jsonl or parquet") from None


def is_export(file: Path) -> bool:
    """Return whether a file looks like an export, by its beginning. Raises OSError."""
    try:
        with _unpacked(file) as stream:
            line = stream.readline(_LONGEST_START)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False
    if line.startswith(_PARQUET_MAGIC):
        return True
    return all(mark.encode() in line for mark in _MARKS - {"task_key", "run_digest"}) and (
        b"task_key" in line or b"run_digest" in line
    )


def write_text(rows: Iterable[Sequence[Value]], stream: IO[str], form: Format) -> int:
    """Write CSV or JSON Lines; how many rows."""
    count = 0
    if form is Format.CSV:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(NAMES)
        for row in rows:
            lines.writerow([_CSV_BOOLEANS[value] if isinstance(value, bool) else value for value in row])
            count += 1
        return count
    for row in rows:
        document = {name: value for name, value in zip(NAMES, row, strict=True) if value is not None}
        stream.write(json.dumps(document, allow_nan=False, ensure_ascii=False, separators=(",", ":")) + "\n")
        count += 1
    return count


def write_file(rows: Iterable[Sequence[Value]], stream: IO[bytes], form: Format) -> int:
    """Write any format; how many rows. Raises InputError for Parquet without pyarrow."""
    if form is Format.PARQUET:
        return write_parquet(rows, stream)
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    try:
        return write_text(rows, text, form)
    finally:
        text.detach()


def write_parquet(rows: Iterable[Sequence[Value]], file: IO[bytes]) -> int:
    """Write a Parquet file; how many rows. Raises InputError without pyarrow."""
    pyarrow, parquet = _pyarrow()
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    schema = pyarrow.schema([(column.name, kinds[column.kind]) for column in COLUMNS])
    count, left = 0, iter(rows)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while part := list(islice(left, _AT_ONCE)):
            values = zip(*part, strict=True)
            columns = [pyarrow.array(column, kind.type) for column, kind in zip(values, schema, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
            count += len(part)
    return count


def read_rows(file: Path) -> Iterator[tuple[str, dict[str, Value]]]:
    """Yield the place ("results.csv:17") and the values of every row, None where it has none, gzip or not.

    Raises InputError.
    """
    try:
        with _unpacked(file) as stream:
            start = stream.read(4 * len(_PARQUET_MAGIC))
        if start.startswith(_PARQUET_MAGIC):
            yield from _read_parquet(file)
        elif start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
            yield from _read_json_lines(file)
        else:
            raise InputError(
                f"{file}: CSV exports are for other programs, which may change them: they do not come back in",
                hint="gpuscout export --output FILE.jsonl or FILE.parquet writes what import takes",
            )
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _unpacked(file: Path) -> gzip.GzipFile | io.BufferedReader:
    """Return the bytes of a file, or of what was packed with gzip into it. Raises OSError."""
    with file.open("rb") as stream:
        packed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return gzip.open(file) if packed else file.open("rb")


def _lines(file: Path) -> Generator[str, None, None]:
    """Yield the lines of a text file, read one by one. Raises TooLarge, by the line and by the whole."""
    read = 0
    with io.TextIOWrapper(_unpacked(file), encoding="utf-8-sig", newline="") as stream:
        while line := stream.readline(_LONGEST_LINE + 1):
            read += len(line)
            if len(line) > _LONGEST_LINE:
                raise TooLarge(str(file), f"{_LONGEST_LINE:,} characters in a line", "an export has shorter ones")
            if read > streamed_mb() * 1_000_000:
                raise TooLarge(str(file), f"{streamed_mb():,} MB unpacked")
            yield line


_CSV_BOOLEANS = {True: "true", False: "false"}


def _read_json_lines(file: Path) -> Iterator[tuple[str, dict[str, Value]]]:
    with closing(_lines(file)) as stream:
        for number, document in json_lines(str(file), stream):
            place = f"{file}:{number}"
            _check_names(place, document)
            yield place, _checked(place, document)


def _read_parquet(file: Path) -> Iterator[tuple[str, dict[str, Value]]]:
    pyarrow, parquet = _pyarrow()
    try:
        schema = parquet.read_schema(file)
        _check_names(str(file), schema.names)
        if nested := next((each.name for each in schema if pyarrow.types.is_nested(each.type)), None):
            raise InputError(f"{file}: {nested}: expected one value a row")
        # As a dictionary: a text of a thousand rows is there once, however often it is named.
        texts = [column.name for column in COLUMNS if column.kind is str and column.name in schema.names]
        source = parquet.ParquetFile(file, read_dictionary=texts)
        sizes = [source.metadata.row_group(group).total_byte_size for group in range(source.num_row_groups)]
        if max(sizes, default=0) > results_mb() * 1_000_000:
            raise TooLarge(str(file), f"{results_mb():,} MB in one row group, unpacked")
        number = 0
        for batch in source.iter_batches(batch_size=_AT_ONCE):
            for values in zip(*(_values(column) for column in batch.columns), strict=True):
                number += 1
                place = f"{file}, row {number}"
                yield place, _checked(place, dict(zip(batch.schema.names, values, strict=True)))
    except pyarrow.ArrowException as error:
        raise InputError(f"{file}: not a whole Parquet file ({str(error).splitlines()[0]})") from error


def _values(column: Any) -> list[Any]:
    """Return the values of a column of Parquet; equal texts are one object."""
    if not hasattr(column, "dictionary"):
        return list(column.to_pylist())
    words = column.dictionary.to_pylist()
    return [None if code is None else words[code] for code in column.indices.to_pylist()]


def _checked(place: str, document: dict[str, Any]) -> dict[str, Value]:
    try:
        return _UNKNOWN | {name: _BY_NAME[name].check(value) for name, value in document.items()}
    except InputError as error:
        raise InputError(f"{place}: {error.message}") from error


def _check_names(place: str, names: Iterable[str]) -> None:
    names = list(names)
    if unknown := [name for name in names if name not in _BY_NAME]:
        raise InputError(
            f"{place}: unknown column {json.dumps(unknown[0], ensure_ascii=False)}",
            hint="an export has the columns that `gpuscout export` writes and no others",
        )
    if len(set(names)) < len(names):
        raise InputError(f"{place}: duplicate column")


_BY_NAME = {column.name: column for column in COLUMNS}
_UNKNOWN: dict[str, Value] = dict.fromkeys(NAMES)


def _pyarrow() -> tuple[Any, Any]:
    with needing("Parquet needs pyarrow", hint="pip install 'gpuscout[parquet]'"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet
