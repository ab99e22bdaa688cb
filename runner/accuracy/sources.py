"""Sources of measured runs: the public files, CSV files, and the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuscout.runner.accuracy.names import RunNames
from gpuscout.runner.accuracy.selection import fit_for_fitting
from gpuscout.store.measured import MeasuredRun, public_runs
from gpuscout.store.measured.runs import comparable_runs
from gpuscout.sweeps.errors import InputError

PUBLIC, STORED = "public", "stored"
_CONTENT = (
    "model", "gpu", "tp", "pp", "dp", "ep", "precision", "kv_precision", "server", "input_len", "output_len",
    "concurrency", "ttft_ms", "itl_ms", "output_tokens_per_s",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Runs that estimates are compared with, and how many could not be.

    `not_comparable`: their concurrency is not known. `variants`: their deployment was not a plain one (drafted tokens,
    cached prefixes, disaggregated).
    """

    runs: tuple[MeasuredRun, ...]
    not_comparable: int = 0
    variants: int = 0


def measured_runs(
    sources: Sequence[str], db: str, names: RunNames | None = None, *, implausible: bool = False
) -> Measured:
    """Return the runs of all sources, at least one; a run that two of them hold counts once.

    `names` says what models and GPUs are called in full; None: the catalogues. `implausible`: also stored runs that
    beat their hardware.

    A source is `public`, `public:FILE`, `stored`, `stored:PATTERN` (a file or source of an import) or a CSV file.
    Raises InputError, UnknownNameError, and what `open_store` raises.
    """
    found: list[MeasuredRun] = []
    seen: set[tuple[object, ...]] = set()
    not_comparable = variants = 0
    for source in sources:
        kind, _, part = source.partition(":")
        parts = [part] if part else []
        if kind == PUBLIC:
            runs: Sequence[MeasuredRun] = public_runs(*parts)
        elif kind == STORED:
            stored = _stored(db, parts, implausible=implausible)
            runs = stored.runs
            not_comparable += stored.not_comparable
            variants += stored.variants
        elif Path(source).exists():
            of_file, at_a_rate = comparable_runs(Path(source))
            plain = [run for run in of_file if run.variant is None]
            runs = (names or RunNames()).called(plain)
            not_comparable += at_a_rate
            variants += len(of_file) - len(plain)
        else:
            raise InputError(f"no file {source}", hint="--measured takes public, stored or a CSV file")
        contents = [_content(run) for run in runs]  # within one source, equal ones are repeats
        found += [run for run, content in zip(runs, contents, strict=True) if content not in seen]
        seen.update(contents)
    if not found:
        where = ", ".join("the store" if source == "stored" else source for source in sources)
        rated = (
            f": all {not_comparable:,} are at a request rate whose concurrency is not known" if not_comparable else ""
        )
        raise InputError(
            f"no measured runs in {where} to compare with{rated}",
            hint="`gpuscout import --list` lists what was imported" if not rated else None,
        )
    return Measured(tuple(found), not_comparable, variants)


def not_fitted(runs: Sequence[MeasuredRun]) -> list[int]:
    """Return the positions of runs that are not among the public ones that engines are fitted to."""
    fitted = {_content(run) for run in fit_for_fitting(public_runs())}
    return [position for position, run in enumerate(runs) if _content(run) not in fitted]


def _stored(db: str, patterns: Sequence[str], *, implausible: bool) -> Measured:
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.measured.imported import runs_of_variants, runs_without_concurrency
    from gpuscout.store.measured.stored import stored_runs

    with open_store(db) as store, store.reading() as connection:
        runs = stored_runs(connection, patterns, rate_driven=True, implausible=implausible)
        unknown, variants = (count(connection, patterns) for count in (runs_without_concurrency, runs_of_variants))
        return Measured(tuple(runs), unknown, variants)


def _content(run: MeasuredRun) -> tuple[object, ...]:
    """Return the measurement without the names that a store or a file gives it."""
    return tuple(getattr(run, name) for name in _CONTENT)
