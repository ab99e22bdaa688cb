"""The executor that evaluates blocks as Ray tasks, on a local Ray of its own or on a running cluster."""

from __future__ import annotations

import logging
import os
from typing import Any

from gpuscout.runner.evaluate import BlockJob, evaluate_block, failed
from gpuscout.runner.executors.base import Done
from gpuscout.sweeps.curves import Curves
from gpuscout.sweeps.errors import GpuscoutError
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.sweep import Sweep

# Blocks in flight for each CPU: one runs, one waits, so that no worker idles while the controller writes.
_JOBS_PER_CPU = 2

_expansions: dict[bytes, Expansion] = {}


class RayExecutor:
    """Starts a local Ray unless `address` names a cluster or this process is connected already, and stops it again.

    Ray never retries a block (`max_retries=0`): the controller alone decides that.
    """

    def __init__(self, expansion: Expansion, *, address: str | None = None, num_cpus: int | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Otherwise Ray warns about how a later version of it will treat GPUs.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self._ray: Any = ray
        self._started = not ray.is_initialized()
        if self._started:
            _start(address, num_cpus)
        self.slots = max(1, int(self._ray.cluster_resources().get("CPU", 1))) * _JOBS_PER_CPU
        where = f"cluster {address}" if address else "a local Ray"
        self.description = f"on {where} with {self.slots // _JOBS_PER_CPU} CPUs"
        self._sweep = ray.put(expansion.sweep)
        self._task = ray.remote(num_cpus=1, max_retries=0)(_evaluate_on_worker)
        self._running: dict[Any, BlockJob] = {}

    def submit(self, job: BlockJob) -> None:
        self._running[self._task.remote(self._sweep, job)] = job

    def next_done(self, timeout_s: float) -> Done | None:
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        if not ready:
            return None
        job = self._running.pop(ready[0])
        try:
            return Done(job, self._ray.get(ready[0]))
        except self._ray.exceptions.RayTaskError as error:
            return _all_failed(job, Outcome.ERROR, str(error.cause))
        except self._ray.exceptions.RayError as error:
            return _all_failed(job, Outcome.CRASHED, f"the worker died: {type(error).__name__}")

    def close(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._started:
            self._ray.shutdown()


def _start(address: str | None, num_cpus: int | None) -> None:
    import ray

    try:
        ray.init(
            address=address or "local",
            num_cpus=None if address else num_cpus,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise GpuscoutError(
            f"Ray did not start: {error}" if address is None else f"no Ray cluster answers at {address}: {error}",
            hint="--executor in-process runs without Ray",
        ) from error


def _evaluate_on_worker(sweep: Sweep, job: BlockJob) -> list[Curves]:
    digest = sweep.digest()
    if digest not in _expansions:
        _expansions.clear()
        _expansions[digest] = Expansion(sweep)
    return evaluate_block(_expansions[digest], job)


def _all_failed(job: BlockJob, outcome: Outcome, detail: str) -> Done:
    return Done(job, [failed(len(ask.positions), outcome, detail) for ask in job.asks])
