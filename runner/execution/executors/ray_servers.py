"""Servers on Ray: one task for each configuration, on a node that has its GPUs; its points come one by one."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from gpuscout.runner.engines.benchmark.servers.gpus import accelerator_types, driver_names
from gpuscout.runner.execution.evaluate import EngineMissing, Job, block_cases, measured_parts
from gpuscout.runner.execution.executors.base import Done, Failed, Part
from gpuscout.runner.execution.executors.server_places import Node, NoSuchNode, ServerPlaces
from gpuscout.runner.execution.retry import FailureKind
from gpuscout.sweeps.curves import Curves
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.sweep import Sweep

_LOOK_AT_NODES_S = 2.0
_ASK_NODE_S = 120.0


class RayServers:
    """Starts jobs whose engine starts servers, each when its GPUs are free; the others wait here.

    `most` servers run at once; None: as many as find GPUs. Used by the executor of the same thread.
    """

    def __init__(
        self,
        expansion: Expansion,
        sweep: Any,
        most: int | None,
        options: Sequence[Mapping[str, Any]],
        demands: Sequence[Mapping[str, float]],
    ) -> None:
        """`sweep` is a reference to the expansion's sweep in Ray's object store.

        `options` are those of its engines, `demands` the resources that these ask for beside the GPUs of a case.
        """
        self._options = options
        self._demands = demands
        self._expansion = expansion
        self._sweep = sweep
        self._places = ServerPlaces(most)
        self._waiting: deque[Job] = deque()
        self._names: dict[str, tuple[str, ...]] = {}
        self._looked_at = -_LOOK_AT_NODES_S
        self._due: dict[Any, float] = {}
        self.running: dict[Any, Job] = {}
        """By the generator of what a task gives."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self.running)

    def add(self, job: Job) -> None:
        self._waiting.append(job)

    def start(self) -> Failed | None:
        """Start what finds its GPUs free. What no node can start fails."""
        if not self._waiting:
            return None
        self._look_at_nodes()
        for _ in range(len(self._waiting)):
            job = self._waiting.popleft()
            case = block_cases(self._expansion, job.block).case(int(job.positions[0]))
            try:
                asked = self._demands[self._expansion.engine_of(job.block)]
                node = self._places.take(_key(job), case.gpu, case.num_gpus, asked)
            except NoSuchNode as error:
                return Failed(job, FailureKind.ENGINE_MISSING, str(error))
            if node is None:
                self._waiting.append(job)
            else:
                self.running[self._started(job, node, case.num_gpus)] = job
        return None

    def note(self, generator: Any, given: Part | Done | Failed | None) -> None:
        """Note that a task has begun (None), has measured a point, or has ended."""
        if isinstance(given, Done | Failed):
            self._leave(generator)
        elif (limit_s := self._timeout_s(self.running[generator])) is not None:
            self._due[generator] = time.monotonic() + limit_s

    def overdue(self) -> Failed | None:
        """Return a task that has measured nothing for `task_timeout_s` and is to be ended; None: there is none."""
        import ray

        for generator, due in self._due.items():
            if time.monotonic() >= due:
                job = self.running[generator]
                ray.cancel(generator, force=True)
                self._leave(generator)
                return Failed(job, FailureKind.TIMEOUT, f"nothing was measured for {self._timeout_s(job):g} s")
        return None

    def _leave(self, generator: Any) -> None:
        self._due.pop(generator, None)
        self._places.leave(_key(self.running.pop(generator)))

    def _timeout_s(self, job: Job) -> float | None:
        return self._expansion.sweep.engines[self._expansion.engine_of(job.block)].placement.task_timeout_s

    def close(self) -> None:
        """End what runs. Its worker is killed, and with it its server."""
        import ray

        self._waiting.clear()
        for generator in self.running:
            with suppress(ray.exceptions.RayError, ConnectionError):
                ray.cancel(generator, force=True)
        self.running.clear()

    def _started(self, job: Job, node: str, gpus: int) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        placed = {
            **self._options[self._expansion.engine_of(job.block)],
            "num_gpus": gpus,
            "num_returns": "streaming",
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        }
        return ray.remote(_measure_on_worker).options(**placed).remote(self._sweep, job)

    def _look_at_nodes(self) -> None:
        import ray

        if time.monotonic() - self._looked_at < _LOOK_AT_NODES_S:
            return
        self._looked_at = time.monotonic()
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        alive = [node for node in nodes if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
        self._names.update(_names_of([node["NodeID"] for node in alive if node["NodeID"] not in self._names]))
        self._places.update(
            [
                Node(
                    node["NodeID"],
                    int(node["Resources"]["GPU"]),
                    self._names[node["NodeID"]] or tuple(accelerator_types(node["Resources"])),
                    tuple(sorted(node["Resources"].items())),
                )
                for node in alive
                if node["NodeID"] in self._names
            ]
        )


def _key(job: Job) -> tuple[int, int]:
    return job.block, int(job.positions[0])


def _names_of(nodes: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the names of the GPUs of these nodes; nodes that have left are missing."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=0)(driver_names)
    asked: dict[str, Any] = {
        node: ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in nodes
    }
    names = {}
    for node, answer in asked.items():
        with suppress(ray.exceptions.RayError):
            names[node] = tuple(ray.get(answer, timeout=_ASK_NODE_S))
    return names


def _measure_on_worker(sweep: Sweep, job: Job) -> Iterator[Part | Done | Failed | None]:
    """Yield None as soon as it has begun, then each point as soon as it is measured, and last how the job ended."""
    raylet = os.getppid()
    yield None
    try:
        for found in measured_parts(Expansion(sweep), job):
            if os.getppid() != raylet:
                # The node has gone, and with it the server: what became of that is not the case's fault.
                os._exit(1)
            yield Done(job, found) if isinstance(found, Curves) else Part(job, *found)
    except EngineMissing as error:
        yield Failed(job, FailureKind.ENGINE_MISSING, str(error))
