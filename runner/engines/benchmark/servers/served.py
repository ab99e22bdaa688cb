"""Servers that gpuscout starts: one for each configuration, all workloads of it measured before it is ended."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from gpuscout.runner.engines.base import Ended, Measurement
from gpuscout.runner.engines.benchmark.errors import BenchmarkError
from gpuscout.runner.engines.benchmark.expected import unfit_cases
from gpuscout.runner.engines.benchmark.options import ServedOptions
from gpuscout.runner.engines.benchmark.processes import end_orphans
from gpuscout.runner.engines.benchmark.servers.command import Command, command_for
from gpuscout.runner.engines.benchmark.servers.gpus import (
    is_one_of,
    memory_is_known,
    names_here,
    node_gpus,
    visible_devices,
    wait_for_memory,
)
from gpuscout.runner.engines.benchmark.servers.server import RunningServer, ServerFailed, free_port
from gpuscout.runner.engines.benchmark.traffic.client import api_key
from gpuscout.runner.engines.benchmark.traffic.endpoint import Endpoint, probe
from gpuscout.store.measured import MeasuredRun
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.outcomes import Outcome

# Between the first connection that a dying server resets and its end.
_DYING_S = 5.0
_LOOK_S = 0.1
# A server that completes no prompt within this is taken to hang.
_STILL_S = 60.0

Measure = Callable[[Endpoint, Case, Sequence[int]], Iterator[MeasuredRun]]


@dataclass(frozen=True)
class Served:
    """Measures cases on servers of its own. `measure_on` measures one case on a running server.

    A request that takes longer than `request_timeout_s` has failed; `api_key_env` names the environment variable with
    the key that the servers want.
    """

    options: ServedOptions
    measure_on: Measure
    request_timeout_s: float
    api_key_env: str | None = None

    def measure(self, cases: CaseColumns, ladders: Sequence[tuple[int, ...]]) -> Iterator[Measurement | Ended]:
        """Yield every point as soon as it is measured, and how each case ended, one configuration after the other."""
        configurations: dict[object, list[int]] = {}
        unfit = unfit_cases(cases) if self.options.fit_check else {}
        for row, ladder in enumerate(ladders):
            if ladder and row in unfit:
                yield Ended(
                    row, Outcome.DOES_NOT_FIT, f"no server was started: {unfit[row]}; `fit_check: false` starts one"
                )
            elif ladder:
                configurations.setdefault(_configuration(cases.case(row)), []).append(row)
            else:
                yield Ended(row)
        for rows in configurations.values():
            yield from self._configuration({row: cases.case(row) for row in rows}, ladders)

    def _configuration(
        self, cases: dict[int, Case], ladders: Sequence[tuple[int, ...]]
    ) -> Iterator[Measurement | Ended]:
        """Yield the cases of one configuration by row.

        After a crash the server is started again for those not yet begun.
        """
        first = next(iter(cases.values()))
        waiting = dict(cases)
        if why_not := _not_here(first):
            yield from (Ended(row, Outcome.ENGINE_MISSING, why_not) for row in waiting)
            return
        end_orphans()
        while waiting:
            try:
                longest = max(case.context_len for case in cases.values())
                command = command_for(first, port := free_port(), longest, self.options)
            except InputError as error:
                hint = f" ({error.hint})" if error.hint else ""
                yield from (Ended(row, Outcome.NOT_SUPPORTED, error.message + hint) for row in waiting)
                return
            if busy := wait_for_memory():
                yield from (Ended(row, Outcome.ERROR, f"no server was started: {busy}") for row in waiting)
                return
            yield from self._served(command, port, waiting, ladders)

    def _served(
        self, command: Command, port: int, waiting: dict[int, Case], ladders: Sequence[tuple[int, ...]]
    ) -> Iterator[Measurement | Ended]:
        """Start a server and measure on it, until all is measured or it dies; takes what has ended out of `waiting`."""
        ended: list[Ended] = []
        started = time.monotonic()
        about = " ".join(command.arguments)
        try:
            server = RunningServer(
                command.arguments, port, about=about, files=command.files, environment=self._environment(),
                key=api_key(self.api_key_env),
            )  # fmt: skip
        except BenchmarkError as failure:
            yield from self._all_ended(waiting, failure)
            return
        try:
            server.wait_until_healthy(self.options.health_timeout_s)
            # Its address says nothing, for it is gone soon.
            source = f"servers of gpuscout on {socket.gethostname()}"
            details = {
                "server_command": list(command.arguments),
                "server_start_s": round(time.monotonic() - started, 1),
                "visible_devices": visible_devices(),
                "gpu_memory_checked": memory_is_known(),
            }
            endpoint = probe(f"{server.url}/v1", server.model, api_key_env=self.api_key_env)
            for row, case in list(waiting.items()):
                try:
                    for run in self.measure_on(endpoint, case, ladders[row]):
                        # Whoever answers at the port of a server that has ended is another one.
                        if crash := server.crashed(f"while {_workload(case)} was measured"):
                            raise crash
                        yield Measurement(row, replace(run, source=source, details={**run.details, **details}))
                    ended.append(Ended(row))
                except BenchmarkError as error:
                    lost = _lost(server, case, self.request_timeout_s)
                    ended.append(Ended(row, (lost or error).outcome, (lost or error).message))
                    if lost is not None:
                        break
                finally:
                    del waiting[row]
        except (ServerFailed, BenchmarkError) as failure:
            ended += self._all_ended(waiting, failure)
        finally:
            server.stop()
        kept = wait_for_memory()
        yield from (replace(each, detail=_joined(each.detail, kept)) for each in ended)

    @staticmethod
    def _all_ended(waiting: dict[int, Case], failure: ServerFailed | BenchmarkError) -> list[Ended]:
        ended = [Ended(row, failure.outcome, failure.message) for row in waiting]
        waiting.clear()
        return ended

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        if self.options.path is not None:
            environment["PATH"] = os.pathsep.join([self.options.path, environment.get("PATH", os.defpath)])
        return environment


def _configuration(case: Case) -> object:
    """Return the configuration that a server is started with.

    A context that is exactly what the workload takes is nothing it was asked for.
    """
    asked = None if case.max_model_len == case.traffic.longest(case.input_len, case.output_len) else case.max_model_len
    return (
        case.model, case.gpu.name, case.server, case.precision, case.kv_precision, case.tensor_parallel,
        case.pipeline_parallel, case.data_parallel, case.expert_parallel, case.gpu_memory_utilization,
        case.server_options, case.speculative, asked,
    )  # fmt: skip


def _not_here(case: Case) -> str | None:
    """Return the reason why this node cannot measure a case; None: it can."""
    names = names_here()
    wanted = f"{case.num_gpus} x {case.gpu.name}"
    if not names:
        return (
            f"not supported here: the case is for {wanted}, and neither nvidia-smi, amd-smi, rocm-smi nor Ray show GPUs"
        )
    if not is_one_of(case.gpu, names):
        return f"not supported here: the case is for {wanted}, this node has {', '.join(dict.fromkeys(names))}"
    shown = len(node_gpus())
    if shown and shown < case.num_gpus:
        return f"not supported here: the case is for {wanted}, {shown} may be used"
    return None


def _workload(case: Case) -> str:
    return f"{case.input_len:,} in / {case.output_len:,} out"


def _lost(server: RunningServer, case: Case, request_timeout_s: float) -> ServerFailed | None:
    """Return the failure of a server that has ended, is about to or no longer answers; None: it goes on."""
    workload = f"{_workload(case)} was measured"
    if server.how_it_ended() is None and server.answers(min(request_timeout_s, _STILL_S)):
        return None
    until = time.monotonic() + _DYING_S
    while time.monotonic() < until:
        if crash := server.crashed(f"while {workload}"):
            return crash
        time.sleep(_LOOK_S)
    return server.failed(f"the server stopped answering while {workload}", Outcome.TIMEOUT)


def _joined(detail: str | None, kept: str | None) -> str | None:
    details = [text for text in (detail, f"after the server had ended, {kept}" if kept else None) if text]
    return "; ".join(details) or None
