"""The executor that evaluates jobs as Ray tasks, on a local Ray of its own or on a running cluster."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from gpuscout.runner.engines.base import is_exclusive, measures
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.runner.execution.evaluate import EngineMissing, Job, evaluate_job
from gpuscout.runner.execution.executors import shipping
from gpuscout.runner.execution.executors.base import Done, Failed, Part
from gpuscout.runner.execution.executors.child import Child, needs_child
from gpuscout.runner.execution.executors.in_process import cannot_wait
from gpuscout.runner.execution.executors.last_words import LastWords
from gpuscout.runner.execution.executors.ray_servers import RayServers
from gpuscout.runner.execution.retry import FailureKind
from gpuscout.sweeps.errors import GpuscoutError
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.sweep import EnginePart, Sweep

# Jobs in flight for each that runs at once: one waits, so that no worker idles while the controller writes.
_JOBS_PER_PLACE = 2
# Clusters grow and shrink; how often to look.
_COUNT_EVERY_S = 5.0
_LOOK_UP_S = 1.0
_CHECK_S = 120.0
_KNOCK_S = 10.0
_LOG_LEVEL = logging.ERROR
_GO_ON = "run the same command to go on when the cluster is back, or without --ray-address to go on here"


class RayExecutor:
    """Starts a local Ray unless `address` names a cluster or this process is connected already, and stops it again.

    Ray never retries a job (`max_retries=0`): the controller alone decides that. Engines that must be stoppable run
    in a child of the worker, so that their hangs, crashes and memory are theirs alone and a dead worker means that
    its machine or Ray is in trouble. On a cluster the workers run this very gpuscout, which is sent along.
    """

    def __init__(
        self,
        expansion: Expansion,
        *,
        address: str | None = None,
        num_cpus: int | None = None,
        max_servers: int | None = None,
    ) -> None:
        import ray

        self._ray: Any = ray
        self._expansion = expansion
        self._running: dict[Any, Job] = {}
        self._servers: RayServers | None = None
        self._counted_at = 0.0
        self._started = not ray.is_initialized()
        self._address = address
        self._max_servers = max_servers
        self._last_words: LastWords | None = None
        if self._started:
            _start(address, num_cpus)
        try:
            if address is not None and self._started:
                self._last_words = LastWords(_gone(address), f"    {_GO_ON}")
            if address is not None:
                _check_versions(address)
            else:
                self._check_demands()
            self._sweep = ray.put(expansion.sweep)
            evaluate = ray.remote(_evaluate_on_worker)
            if any(map(_serves, expansion.sweep.engines)):
                options = [_ray_options(part) for part in expansion.sweep.engines]
                demands = [_demands(part) for part in expansion.sweep.engines]
                self._servers = RayServers(expansion, self._sweep, max_servers, options, demands)
            self._tasks = [evaluate.options(**_ray_options(part)) for part in expansion.sweep.engines]
            self.description = f"on {f'cluster {address}' if address else 'a local Ray'} with {self._cpus():g} CPUs"
        except BaseException:
            self.close()
            raise

    @property
    def slots(self) -> int:
        now = time.monotonic()
        if not self._counted_at or now - self._counted_at > _COUNT_EVERY_S:
            self._counted_at = now
            with self._cluster():
                resources = self._ray.cluster_resources()
            places = max(self._places(part, resources) for part in self._expansion.sweep.engines)
            self._slots = max(1, places) * _JOBS_PER_PLACE
        return self._slots

    def submit(self, job: Job) -> None:
        engine = self._expansion.engine_of(job.block)
        if self._servers is not None and _serves(self._expansion.sweep.engines[engine]):
            self._servers.add(job)
            return
        task = self._tasks[engine]
        with self._cluster():
            self._running[task.remote(self._sweep, job)] = job

    def next_done(self, timeout_s: float) -> Done | Failed | Part | None:
        if self._servers is not None:
            with self._cluster():
                refused = self._servers.start()
            if refused is not None:
                return refused
        servers = {} if self._servers is None else self._servers.running
        if not self._running and not servers:
            time.sleep(timeout_s)
            return None
        with self._cluster():
            ready, _ = self._ray.wait([*self._running, *servers], num_returns=1, timeout=timeout_s)
        if not ready:
            return None if self._servers is None else self._servers.overdue()
        if ready[0] not in servers:
            ended: Done | Failed = self._given(self._running.pop(ready[0]), ready[0])
            return ended
        assert self._servers is not None
        given: Done | Failed | Part | None = self._given(servers[ready[0]], next(ready[0]))
        self._servers.note(ready[0], given)
        return given

    def _given(self, job: Job, reference: Any) -> Any:
        """Return the result of a task for a job, or its failure."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.OutOfMemoryError:
            return Failed(
                job, FailureKind.OUT_OF_MEMORY, "the worker's machine ran out of memory and Ray ended the worker"
            )
        except errors.RuntimeEnvSetupError as error:
            return Failed(job, FailureKind.ENGINE_MISSING, f"its runtime_env could not be set up: {_one_line(error)}")
        except errors.RayTaskError as error:
            return Failed(
                job, FailureKind.ERROR, f"the worker failed: {type(error.cause).__name__}: {_one_line(error.cause)}"
            )
        except errors.RayError as error:
            return Failed(job, FailureKind.WORKER_LOST, f"the worker or its machine died ({type(error).__name__})")

    def close(self) -> None:
        for reference in self._running:
            with suppress(self._ray.exceptions.RayError, ConnectionError):
                self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._servers is not None:
            self._servers.close()
        if self._started:
            with suppress(ConnectionError):
                self._ray.shutdown()
        if self._last_words is not None:
            self._last_words.take_back()

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        """Yield a cluster that went away, where Ray says so; where it ends this process, the last words do."""
        try:
            yield
        except (ConnectionError, self._ray.exceptions.RaySystemError) as error:
            raise GpuscoutError(f"{_gone(self._address or 'here')} ({_one_line(error)})", hint=_GO_ON) from error

    def _cpus(self) -> float:
        return float(self._ray.cluster_resources().get("CPU", 1))

    def _places(self, part: EnginePart, resources: dict[str, float]) -> int:
        if _serves(part):
            return int(min(resources.get("GPU", 0.0), self._max_servers or math.inf))
        return _places(part, resources)

    def _check_demands(self) -> None:
        """Check engines' demands on a local Ray, which never grows; a cluster may, so tasks wait there."""
        resources = self._ray.cluster_resources()
        for part in self._expansion.sweep.engines:
            if not _places(part, resources):
                asked = ", ".join(f"{name}: {amount:g}" for name, amount in _demands(part).items())
                raise GpuscoutError(
                    f"engine {part.name} asks Ray for more than this machine has ({asked})",
                    hint="run on a cluster with --ray-address, or ask for less under `run:` of the engine",
                )


def fingerprints(parts: Sequence[EnginePart], address: str | None) -> list[str]:
    """Return the fingerprints of engines on the workers of a cluster (None: of a local Ray), each in its `runtime_env`.

    For engines that only the workers have. Raises GpuscoutError when Ray or a `runtime_env` does not start.
    """
    import ray

    connected = ray.is_initialized()
    if not connected:
        _start(address, None)
    try:
        tasks = [ray.remote(_fingerprint).options(**_ray_options(part)).remote(part) for part in parts]
        found: list[str] = ray.get(tasks)
    except ray.exceptions.RayError as error:
        raise GpuscoutError(
            f"no worker could load {', '.join(part.name for part in parts)}: {_one_line(error)}",
            hint="see `run:` of the engine in the spec, its runtime_env first",
        ) from error
    finally:
        if not connected:
            ray.shutdown()
    return found


def _fingerprint(part: EnginePart) -> str:
    return cached_engine(part.name, part.options).fingerprint()


def _gone(address: str) -> str:
    return f"the Ray cluster at {address} went away, or this run was killed; what was finished is stored"


def _start(address: str | None, num_cpus: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise Ray warns about how a later version of it will treat GPUs.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    listens = False
    try:
        if address is None:
            ray.init("local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, logging_level=_LOG_LEVEL)
            return
        listens = _knock(address)
        # The workers of a cluster must run this gpuscout; those of a local Ray do anyway.
        with shipping.packaged() as package:
            ray.init(
                address,
                log_to_driver=False,
                logging_level=_LOG_LEVEL,
                runtime_env={"py_modules": [str(package)]},
            )
    except (OSError, RuntimeError, ValueError) as error:
        if "Version mismatch" in str(error):
            message = f"the cluster at {address} runs other versions than this process: {_one_line(error)}"
            hint = "gpuscout needs the same Ray and the same Python on both sides"
        elif listens:
            message = f"{address} refused this process: {_one_line(error)}"
            hint = "is it the address of a Ray cluster? one with token authentication needs RAY_AUTH_MODE=token and "
            hint += "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH); --executor in-process runs without Ray"
        else:
            failed = "Ray did not start" if address is None else f"no Ray cluster answers at {address}"
            message = f"{failed}: {_one_line(error)}"
            hint = "--executor in-process runs without Ray"
        raise GpuscoutError(message, hint=hint) from error


def _knock(address: str) -> bool:
    """Return whether somebody listens at HOST:PORT; False: `address` is no such thing.

    Raises OSError when nobody does: Ray itself takes minutes to say so, and many lines.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return False
    socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
    return True


def _check_versions(address: str) -> None:
    """Raise GpuscoutError when the workers of the cluster do not run what this process runs."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = shipping.versions()
    ask = ray.remote(num_cpus=0, max_retries=2)(shipping.versions)
    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [node["NodeID"] for node in known if node["Alive"]]
    try:
        # On every machine; on another one should it go away meanwhile.
        asked = [ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True)) for node in nodes]
        found: list[shipping.Versions] = ray.get([each.remote() for each in asked], timeout=_CHECK_S)
    except ray.exceptions.GetTimeoutError as error:
        raise GpuscoutError(f"the cluster at {address} started no worker within {_CHECK_S:.0f} s") from error
    except ray.exceptions.RayError as error:
        raise GpuscoutError(
            f"the workers of the cluster at {address} cannot run gpuscout: {_one_line(error)}",
            hint="install gpuscout's dependencies there: pip install gpuscout",
        ) from error
    for there in found:
        if difference := shipping.difference(here, there):
            raise GpuscoutError(
                f"the cluster at {address} runs {difference}", hint="gpuscout needs the same versions on both sides"
            )


def _ray_options(part: EnginePart) -> dict[str, Any]:
    """Return the options of `ray.remote` for the tasks of an engine."""
    placement = part.placement
    options: dict[str, Any] = {"max_retries": 0, "num_cpus": placement.num_cpus, "num_gpus": placement.num_gpus}
    if placement.accelerator_type is not None:
        options["accelerator_type"] = placement.accelerator_type
    if placement.resources:
        options["resources"] = dict(placement.resources)
    if placement.runtime_env:
        options["runtime_env"] = {**placement.runtime_env, **_all_modules(placement.runtime_env)}
    return options


def _all_modules(runtime_env: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the job's `py_modules` and this gpuscout, for of two that were sent Ray takes its own only."""
    import ray

    if "py_modules" not in runtime_env:
        return {}
    job = ray.get_runtime_context().runtime_env.get("py_modules") or []
    return {"py_modules": [*runtime_env["py_modules"], *job]}


def _serves(part: EnginePart) -> bool:
    """Return whether an engine starts servers on the GPUs of its cases."""
    engine = cached_engine(part.name, part.options)
    return measures(engine) and not is_exclusive(engine)


def _demands(part: EnginePart) -> dict[str, float]:
    """Return the Ray resources of one task, by their names in `ray.cluster_resources()`."""
    placement = part.placement
    demands = {"CPU": placement.num_cpus, "GPU": placement.num_gpus, **placement.resources}
    if placement.accelerator_type is not None:
        demands[f"accelerator_type:{placement.accelerator_type}"] = 0.001
    return {name: amount for name, amount in demands.items() if amount > 0}


def _places(part: EnginePart, resources: dict[str, float]) -> int:
    """Return the number of tasks of an engine that these resources take at once, should nothing else run."""
    most = [resources.get(name, 0.0) / amount for name, amount in _demands(part).items()]
    return int(min([*most, resources.get("CPU", 1.0) * 100]))


def _one_line(error: BaseException) -> str:
    """Return the error without Ray's traceback: its last line says what happened, a version mismatch is all of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) if "Version mismatch" in str(error) else (lines[-1] if lines else type(error).__name__)


# What a worker keeps between jobs: one sweep, and one child for each of its engines that need one.
_expansions: dict[bytes, Expansion] = {}
_children: dict[tuple[int, str | None], Child] = {}


def _evaluate_on_worker(sweep: Sweep, job: Job) -> Done | Failed:
    digest = sweep.digest()
    if digest not in _expansions:
        _expansions.clear()
        while _children:
            _children.popitem()[1].close()
        _expansions[digest] = Expansion(sweep)
    expansion = _expansions[digest]
    engine = expansion.engine_of(job.block)
    try:
        if not needs_child(sweep.engines[engine]):
            return Done(job, evaluate_job(expansion, job, cannot_wait))
    except EngineMissing as error:
        return Failed(job, FailureKind.ENGINE_MISSING, str(error))
    return _evaluate_in_child(sweep, engine, job)


def _evaluate_in_child(sweep: Sweep, engine: int, job: Job) -> Done | Failed:
    # Ray gives a worker other GPUs from task to task; a process keeps those it was started with.
    key = (engine, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if key not in _children:
        while _children:
            _children.popitem()[1].close()
        _children[key] = Child(sweep, engine)
    child = _children[key]
    child.start(job)
    while True:
        ended = child.poll(_LOOK_UP_S)
        if isinstance(ended, Part):
            raise TypeError("points cannot be shipped from a worker")
        if ended is not None:
            return ended
