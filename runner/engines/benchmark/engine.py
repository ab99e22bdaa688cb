"""The engine `benchmark`: cases are measured on real servers, and stored as measured runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from gpuscout.runner.engines.base import About, Cost, Ended, Expected, Measurement
from gpuscout.runner.engines.benchmark.adaptive import around_limits, between
from gpuscout.runner.engines.benchmark.errors import BenchmarkError
from gpuscout.runner.engines.benchmark.measure import measure
from gpuscout.runner.engines.benchmark.options import LABELS, OPTIONS, SERVER, LoadOptions, ServedOptions
from gpuscout.runner.engines.benchmark.servers.command import check_command
from gpuscout.runner.engines.benchmark.traffic.endpoint import Endpoint, checked_url, probe
from gpuscout.store.measured import MeasuredRun
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import Curves, IntArray
from gpuscout.sweeps.errors import InputError, quoted
from gpuscout.sweeps.gpus.library import gpus_with
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.secret import check_variable, secret_in
from gpuscout.sweeps.settings import SHORT_SIZES, STARTED
from gpuscout.sweeps.slo import parse_slo
from gpuscout.sweeps.sweep import Sweep

VERSION = "1"


class BenchmarkEngine:
    """Measures on a server that is running (`endpoint`), or on servers that it starts, under the load of each workload.

    An endpoint is one deployment: what of it the sweep varies is said by labels (`gpu`, `tp` …), and cases that differ
    from them are not measured. Without one, each configuration gets a server of its own.
    """

    name = "benchmark"
    cost = Cost.EXPENSIVE
    in_process = False
    measures = True
    understands = STARTED
    about = About(
        covers="measures OpenAI-compatible servers, running ones or its own; its results are measured runs",
        install="pip install 'gpuscout[bench]'",
        options=OPTIONS,
    )

    def __init__(self, **options: object) -> None:
        given = {name: value for name, value in options.items() if value is not None}
        if "endpoint" in given:
            given["endpoint"] = checked_url(str(given["endpoint"]))
        if "gpu" in given:
            known = gpus_with().find(str(given["gpu"]))
            given["gpu"] = str(given["gpu"]) if known is None else known.name
        self.options: Mapping[str, object] = {
            name: value for name, value in given.items() if value != OPTIONS[name].default
        }
        self._load = LoadOptions(**{f.name: given[f.name] for f in fields(LoadOptions) if f.name in given})  # type: ignore[arg-type]
        self._server = ServedOptions(
            **{name: given[name] for name in SERVER if name in given and name != "command"},  # type: ignore[arg-type]
            command=tuple(_texts(given.get("command"))) or None,
        )
        check_variable(self._load.api_key_env)
        if secret := secret_in(self._load.generator_command or ""):
            raise InputError(f"invalid generator_command: {quoted(secret)} would be stored with the results")
        if self._server.command is not None:
            check_command(self._server.command)
        self._limits = tuple(parse_slo(text) for text in _texts(given.get("adaptive")))
        self._labels = {name: given[name] for name in LABELS if name in given}

    @property
    def exclusive(self) -> str:
        """The endpoint: two loads on one server would disturb each other; those on servers of their own do not."""
        return str(self.options.get("endpoint", ""))

    def missing(self) -> str | None:
        """Return the reason why it cannot run here; None: it can."""
        lacking = [name for name in ("aiohttp", "psutil") if importlib.util.find_spec(name) is None]
        return f"{' and '.join(lacking)} not installed: pip install 'gpuscout[bench]'" if lacking else None

    def fingerprint(self) -> str:
        return VERSION

    def unsupported_traffic(self, traffic: object) -> str | None:
        """Return None: requests of every kind can be sent, and a trace is at hand when a sweep is run."""
        return None

    def refuses(self, sweep: Sweep) -> str | None:
        """Refuse sweeps of several deployments at one endpoint, unless the labels say which of them it is."""
        if "endpoint" not in self.options:
            return self._refuses_to_serve(sweep)
        if own := [name for name in SERVER if name in self.options]:
            named = ", ".join(f"`{name}`" for name in own)
            return f"{named}: only for servers that gpuscout starts, not for a running `endpoint`"
        varied = {
            "model": len(sweep.models) > 1,
            "gpu": len(sweep.gpus) > 1,
            "server": len(sweep.servers) > 1,
            "precision": len(sweep.precision) > 1 or any(len(swept.precision or ()) > 1 for swept in sweep.models),
            "kv_precision": len(sweep.kv_precision) > 1
            or any(len(swept.kv_precision or ()) > 1 for swept in sweep.models),
            "gpu_memory_utilization": len(sweep.gpu_memory_utilization) > 1,
            "max_model_len": len(sweep.max_model_len) > 1,
            "server_options": len(sweep.server_options) > 1,
            "speculative": len(sweep.speculative) > 1,
            **{short: len(getattr(sweep, name) or (1, 2)) > 1 for short, name in SHORT_SIZES.items()},
        }
        open_ends = [name for name, several in varied.items() if several and name not in self._labels]
        if open_ends:
            labels = ", ".join(f"`{name}`" for name in open_ends)
            return (
                f"an endpoint is one deployment, and this sweep has several: say which by {labels} of the engine, "
                "or sweep a single one"
            )
        most = self._load.max_in_flight
        ladder = next(part.ladder for part in sweep.engines if part.name == self.name and part.options == self.options)
        if max(ladder) > most:
            return f"a concurrency of {max(ladder):,} is above `max_in_flight` ({most:,})"
        return None

    def expected(self, cases: CaseColumns, ladders: Sequence[tuple[int, ...]]) -> Expected:
        """Return the effort of measuring the cases of one block."""
        from gpuscout.runner.engines.benchmark.expected import expected

        server = None if self.exclusive else self._server
        return expected(cases, ladders, self._load, server, adaptive=bool(self._limits))

    def left(self, ladder: Sequence[int], runs: Sequence[MeasuredRun]) -> Sequence[int]:
        """Return the steps that are worth measuring beside these runs: all, or those around the limits."""
        return between(ladder, self._limits, runs) if self._limits else ladder

    def evaluate(self, cases: CaseColumns, ladder: IntArray) -> Curves:
        raise NotImplementedError("this engine measures")

    def measure(self, cases: CaseColumns, ladders: Sequence[tuple[int, ...]]) -> Iterator[Measurement | Ended]:
        """Yield every point as soon as it is measured, and how each case ended."""
        if "endpoint" not in self.options:
            from gpuscout.runner.engines.benchmark.servers.served import Served

            load = self._load
            served = Served(self._server, self._measured, load.request_timeout_s, load.api_key_env)
            yield from served.measure(cases, ladders)
            return
        for row, ladder in enumerate(ladders):
            case = cases.case(row)
            if other := self._other_than(case):
                yield Ended(row, Outcome.NOT_SUPPORTED, f"the endpoint is another deployment: {other}")
                continue
            try:
                model = str(self.options.get("served_model_name", case.model.name))
                endpoint = probe(str(self.options["endpoint"]), model, api_key_env=self._load.api_key_env)
                for run in self._measured(endpoint, case, ladder):
                    yield Measurement(row, run)
            except BenchmarkError as error:
                yield Ended(row, error.outcome, error.message)
            else:
                yield Ended(row)

    def _measured(self, endpoint: Endpoint, case: Case, ladder: Sequence[int]) -> Iterator[MeasuredRun]:
        """Return the points of a case on a running server: of the whole ladder, or those around the limits."""
        if self._limits and not case.traffic.open_loop:
            return around_limits(ladder, self._limits, lambda step: measure(endpoint, case, (step,), self._load))
        return measure(endpoint, case, ladder, self._load)

    def _refuses_to_serve(self, sweep: Sweep) -> str | None:
        if labels := [name for name in (*LABELS, "served_model_name") if name in self.options]:
            return f"{', '.join(f'`{name}`' for name in labels)} describes an `endpoint`, but none is given"
        if "model_path" in self.options and len(sweep.models) > 1:
            return "`model_path` names one model, but this sweep has several"
        part = next(part for part in sweep.engines if part.name == self.name and part.options == self.options)
        if part.placement.memory_limit_gb is not None:
            return "`memory_limit_gb` would limit the servers, too: leave it out"
        if part.placement.num_gpus:
            return "`num_gpus` is that of each case (tensor, pipeline and data parallelism): leave it out"
        return None

    def _other_than(self, case: Case) -> str | None:
        """Return the difference between a case and the labels of the endpoint; None: they agree."""
        of_case = {
            "model": case.model.name,
            "gpu": case.gpu.name,
            "server": case.server,
            "precision": case.precision.value,
            "kv_precision": case.kv_precision.value,
            "gpu_memory_utilization": case.gpu_memory_utilization,
            "max_model_len": case.max_model_len,
            **{short: getattr(case, name) for short, name in SHORT_SIZES.items()},
        }
        other = [f"{name} {said}" for name, said in self._labels.items() if of_case[name] != said]
        return ", ".join(other) or None


def _texts(value: object) -> list[str]:
    return list(value) if isinstance(value, list) else []
