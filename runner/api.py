"""The Python API of a run: from a spec to results in a store, with the same defaults as the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpuscout.runner.choose import Choice, choose_executor
from gpuscout.runner.controller import Progress, RunReport, run_sweep
from gpuscout.runner.resolve import resolve
from gpuscout.store.connect import Store
from gpuscout.sweeps.errors import SpecError
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.spec import SweepSpec


def expand(spec: SweepSpec, *, gpu_file: Path | None = None) -> Expansion:
    """The tasks of a spec, with all names looked up. Raises SpecError with every name that is not known."""
    return Expansion(resolve(spec, gpu_file=gpu_file))


def run(
    spec: SweepSpec,
    store: Store,
    *,
    executor: str = "auto",
    ray_address: str | None = None,
    gpu_file: Path | None = None,
    on_start: Callable[[Choice], None] = lambda choice: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    lock_wait_s: float | None = 0.0,
) -> RunReport:
    """Compute and store what the store lacks of a sweep.

    `executor` is auto, in-process or ray. `lock_wait_s` is how long to wait for another runner of a SQLite store;
    None waits for ever. Raises SpecError (also when the sweep has more tasks than `limits.max_tasks`),
    SweepInterrupted after Ctrl-C, StoreBusyError, StoreUnreachableError.

    >>> spec = parse_spec("{name: first, models: Qwen3-8B, gpus: [L4, H100], workloads: chat}")
    >>> with open_store("gpuscout.db", create=True) as store:
    ...     report = run(spec, store)
    """
    expansion = expand(spec, gpu_file=gpu_file)
    _check_limits(spec, expansion)
    return run_sweep(
        store,
        expansion,
        description=spec.description or "",
        spec_text=spec.text,
        choose=lambda work_s: choose_executor(expansion, executor=executor, ray_address=ray_address, work_s=work_s),
        on_start=on_start,
        on_progress=on_progress,
        lock_wait_s=lock_wait_s,
    )


def _check_limits(spec: SweepSpec, expansion: Expansion) -> None:
    limit = spec.limits.max_tasks
    # Counting costs a pass over the product, which need not be made when the product itself is small enough.
    if limit is None or expansion.raw_combinations * len(expansion.sweep.engines) <= limit:
        return
    tasks = expansion.census().tasks
    if tasks > limit:
        raise SpecError(
            [spec.problem(("limits", "max_tasks"), f"the sweep has {tasks:,} tasks, {limit:,} are allowed")]
        )
