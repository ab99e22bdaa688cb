"""Options of commands that plan and run sweeps: a sweep without a file, what is asked of it, where it is computed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscout.runner.cli.options import (
    AimOptions,
    Many,
    PriceOptions,
    counted_gpus,
    number_of_tokens,
    under,
    whole_numbers,
)
from gpuscout.sweeps.errors import InputError, quoted
from gpuscout.sweeps.gpus.groups import DATACENTER
from gpuscout.sweeps.names import bare, parted, squeeze
from gpuscout.sweeps.servers import ONE_OF_SERVERS
from gpuscout.sweeps.servers.options import OPTIONS
from gpuscout.sweeps.workloads import PRESETS

if TYPE_CHECKING:
    from gpuscout.runner.api.run import RunOptions
    from gpuscout.store.ranking.question.asked import Question
    from gpuscout.sweeps.spec.spec import SweepSpec


_sweep = under("Sweep without a file")


@dataclass(frozen=True)
class SweepFlags:
    """A sweep in flags in place of a spec file. What repeats may also be written with commas."""

    model: Annotated[Many, _sweep("--model", help="A model; repeat for more.")] = None
    gpu: Annotated[
        Many, _sweep("--gpu", help="H100, 2xH200, 'RTX*', Hopper, AMD …; else all priced data-centre GPUs; repeat.")
    ] = None
    exclude: Annotated[Many, _sweep("--exclude", help="GPUs to leave out: a name, glob, vendor or family; repeat.")] = (
        None
    )
    workload: Annotated[Many, _sweep("--workload", help=f"A preset ({', '.join(PRESETS)}); repeat for more.")] = None
    input_len: Annotated[str | None, _sweep("--input-len", metavar="N", help="Tokens of input, such as 32k.")] = None
    output_len: Annotated[str | None, _sweep("--output-len", metavar="N", help="Tokens of output.")] = None
    tp: Annotated[str | None, _sweep("--tp", "--num-gpus", help="Tensor parallelism: auto, or 1,2,4.")] = None
    pp: Annotated[str | None, _sweep("--pp", help="Pipeline stages: 1,2.")] = None
    dp: Annotated[str | None, _sweep("--dp", help="Data-parallel ranks: 1,2.")] = None
    precision: Annotated[Many, _sweep("--precision", help="native, fp8, bf16 …; repeat for more.")] = None
    server: Annotated[Many, _sweep("--server", help=f"{ONE_OF_SERVERS}; repeat.")] = None
    server_option: Annotated[
        Many, _sweep("--server-option", metavar="NAME=VALUE", help="max_num_seqs=256, or 128,256; repeat for others.")
    ] = None
    speculative: Annotated[
        Many,
        _sweep("--speculative", help="none, draft_tokens=3,acceptance=0.7,draft_cost=0.05; repeat for more."),
    ] = None
    concurrency: Annotated[
        str | None, _sweep("--concurrency", "--users", help="Requests in flight, one a user: 1,8,64.")
    ] = None
    request_rate: Annotated[
        str | None,
        _sweep("--request-rate", help="Requests/s that arrive at one deployment, instead of so many in flight: 1,2,4."),
    ] = None
    engine: Annotated[Many, _sweep("--engine", help="An engine, also instead of those of a spec; repeat.")] = None
    endpoint: Annotated[
        str | None,
        _sweep("--endpoint", metavar="URL", help="Measure the server running there, such as http://localhost:8000/v1."),
    ] = None
    engine_option: Annotated[
        Many, _sweep("--engine-option", metavar="NAME=VALUE", help="Option of the engine: api_key_env=MY_KEY; repeat.")
    ] = None
    max_gpus: Annotated[int | None, _sweep("--max-gpus", help="At most this many GPUs.")] = None
    name: Annotated[str | None, _sweep("--name", help="Name of the sweep.")] = None

    def spec(self, file: Path | None) -> SweepSpec:
        """Return the spec of a file, with the engines of the flags if any, or the spec that the flags describe."""
        from gpuscout.runner.engines.registry import about
        from gpuscout.sweeps.spec.entries import EngineEntry
        from gpuscout.sweeps.spec.spec import load_spec, spec_from_mapping

        given = {flag: value for flag, value in vars(self).items() if value is not None}
        if file is not None:
            replaced = [given.pop(flag) for flag in ("engine", "endpoint", "engine_option") if flag in given]
            if given:
                names = ", ".join("--" + flag.replace("_", "-") for flag in given)
                raise InputError(f"{names} cannot be combined with a spec file", hint=f"write it into {file}")
            spec = load_spec(file)
            if replaced:
                engines = tuple(EngineEntry.model_validate(engine) for engine in self._engines())
                for engine in engines:
                    about(engine.name)  # an unknown one is not the file's fault
                spec = spec.model_copy(update={"engines": engines})
            return spec
        if not given:
            raise InputError("name a spec file, or at least --model", hint="gpuscout init writes a spec to start from")
        return spec_from_mapping(self._mapping(), flags=_FLAGS)

    def on(self, inventory: Mapping[str, int]) -> SweepFlags:
        """Return the sweep over these GPUs, as many as there are; of all models unless some are named."""
        if self.gpu:
            raise InputError("--have names the GPUs: leave --gpu out")
        largest = max(inventory.values())
        stages = [str(stages) for stages in (1, 2, 4) if stages <= largest]
        return replace(
            self,
            model=self.model or ["*"],
            gpu=list(inventory),
            pp=self.pp or ",".join(stages),
            max_gpus=min(largest, self.max_gpus or largest),
            name=self.name or "inventory",
        )

    def _mapping(self) -> dict[str, object]:
        """Return the flags as the mapping of a spec file. Raises InputError."""
        from gpuscout.sweeps.spec.serving import drafts_in_flags, options_in_flags

        lengths = [number_of_tokens(text) for text in (self.input_len, self.output_len)]
        if lengths.count(None) == 1:
            raise InputError("--input-len and --output-len go together")
        workloads: list[object] = [*parted(self.workload)]
        if None not in lengths:
            workloads.append(dict(zip(("input_len", "output_len"), lengths, strict=True)))
        gpus = counted_gpus(self.gpu)
        number = next((number for number, _ in gpus if number is not None), None)
        sizes = {name: _numbers(f"--{name}", getattr(self, name)) for name in ("tp", "pp", "dp")}
        data: dict[str, object] = {
            "name": self.name or _named(parted(self.model), workloads),
            "models": parted(self.model),
            "gpus": [name for _, name in gpus] or priced_datacenter_gpus(),
            "workloads": workloads or ["chat"],
            "tensor_parallel": sizes["tp"],
            "pipeline_parallel": sizes["pp"],
            "data_parallel": sizes["dp"],
            "precision": parted(self.precision),
            "servers": parted(self.server),
            "server_options": options_in_flags(self.server_option) if self.server_option else None,
            "speculative": drafts_in_flags(self.speculative or ()),
            "concurrency": _numbers("--concurrency", self.concurrency),
            "load": None if self.request_rate is None else "request_rate",
            "request_rate": _rates(self.request_rate),
            "engines": self._engines() or (["simulator"] if self.request_rate is not None else []),
            "exclude": [_excluding(text) for text in parted(self.exclude)],
            "only": [] if number is None else [{"num_gpus": number}],
            "limits": None if self.max_gpus is None else {"max_gpus": self.max_gpus},
        }
        return {key: value for key, value in data.items() if value is not None and value != []}

    def _engines(self) -> list[dict[str, object]]:
        """Return the engines of the flags, as entries of a spec. Raises InputError, UnknownNameError."""
        from gpuscout.runner.engines.registry import about

        names = parted(self.engine) or (["benchmark"] if self.endpoint is not None else [])
        options: dict[str, object] = {} if self.endpoint is None else {"endpoint": self.endpoint}
        for text in self.engine_option or ():
            name, equals, value = text.partition("=")
            if not (name.strip() and equals and value.strip()):
                raise InputError(f"invalid --engine-option {quoted(text)}: expected NAME=VALUE, such as repeat=2")
            options[name.strip()] = _scalar(value.strip())
        if options and len(names) != 1:
            raise InputError("--endpoint and --engine-option need exactly one --engine")
        if options:
            known = about(names[0]).options or {}
            options |= {
                name: [part.strip() for part in value.split(",")]
                for name, value in options.items()
                if isinstance(value, str) and name in known and known[name].kind is list
            }
        return [{"name": name, **options} for name in names]


_FLAGS = {
    "name": "--name",
    "models": "--model",
    "gpus": "--gpu",
    "workloads": "--workload",
    "tensor_parallel": "--tp",
    "pipeline_parallel": "--pp",
    "data_parallel": "--dp",
    "precision": "--precision",
    "servers": "--server",
    "server_options": "--server-option",
    **{f"server_options.{name}": f"--server-option {name}" for name in OPTIONS},
    "speculative": "--speculative",
    **{f"speculative.{name}": f"--speculative {name}" for name in ("draft_tokens", "acceptance", "draft_cost")},
    "concurrency": "--concurrency",
    "request_rate": "--request-rate",
    "engines": "--engine",
    "exclude": "--exclude",
    "only": "--gpu",
    "limits": "--max-gpus",
}


def _scalar(text: str) -> object:
    """Return the value of an option as a spec would have it: a number, true or false, or text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _named(models: Sequence[str], workloads: Sequence[object]) -> str:
    """Return the name of a sweep when --name does not give one: "Qwen3-8B-chat"."""
    model = bare(models[0]) if len(models) == 1 else f"{len(models)}-models"
    first = workloads[0] if workloads else "chat"
    load = f"{first['input_len']}-{first['output_len']}" if isinstance(first, dict) else str(first)
    more = f"-and-{len(workloads) - 1}-more" if len(workloads) > 1 else ""
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{model}-{load}{more}").strip("-") or "sweep"


def priced_datacenter_gpus() -> list[str]:
    """Return the data-centre GPUs that somebody sells by the hour, by the prices that ship."""
    from gpuscout.store.prices.books import shipped_quotes
    from gpuscout.sweeps.gpus.catalogue import GPUCatalogue

    priced = {quote.gpu for quote in shipped_quotes() if quote.exact}
    return [gpu.name for gpu in GPUCatalogue.load().select(glob=DATACENTER) if gpu.name in priced]


def _excluding(text: str) -> dict[str, str]:
    """Return the rule that leaves out a GPU, or the GPUs of a vendor or family."""
    from gpuscout.sweeps.gpus.catalogue import GPUCatalogue

    for field in ("vendor", "family"):
        for value in dict.fromkeys(getattr(gpu, field) for gpu in GPUCatalogue.load()):
            if squeeze(text) == squeeze(value):
                return {field: value}
    return {"gpu": text}


@dataclass(frozen=True)
class AskOptions(AimOptions):
    """Question to the store once a sweep has run: flags replace what the spec says."""

    top: Annotated[int, typer.Option("--top", min=1, help="Configurations per model, those of other GPUs first.")] = 1

    rate: Annotated[
        Many, typer.Option("--rate", help="Size it for a load, too: 20 requests/s, 300/min, chat=50; repeat.")
    ] = None

    def question(self, spec: SweepSpec, prices: PriceOptions, gpus: Iterable[str] = ()) -> Question:
        """Raise InputError, UnknownNameError: better before the sweep than after it."""
        from gpuscout.store.ranking.measures import measure_of
        from gpuscout.store.ranking.question.asked import Question

        asked = self.asked(Question())
        if not self.objective and not self.weight and spec.objective:
            asked = replace(asked, objective=spec.objective)
        if asked.default_slo and spec.slo:
            asked = replace(asked, slos=spec.slo, default_slo=False)
        measure_of(asked.objective)
        return replace(asked, top=max(self.top + 1, 5), prices=prices.rules(gpus))


@dataclass(frozen=True)
class ExecutionOptions:
    """Place where tasks are computed, and the tasks that are tried again."""

    executor: Annotated[str, typer.Option("--executor", help="auto, in-process or ray.")] = "auto"
    ray_address: Annotated[str | None, typer.Option("--ray-address", help="A running Ray cluster.")] = None
    max_servers: Annotated[
        int | None, typer.Option("--max-servers", min=1, help="Most servers that the engine benchmark runs at once.")
    ] = None
    task_timeout: Annotated[
        float | None,
        typer.Option("--task-timeout", metavar="SECONDS", min=0.001, help="Time limit of a task, for every engine."),
    ] = None
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try tasks again that crashed or timed out in earlier runs, too.")
    ] = False
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another runner of this SQLite store.")] = False

    def arguments(self, gpu_file: Path | None) -> RunOptions:
        """Return the same as arguments of `run`."""
        return {
            "executor": self.executor,
            "ray_address": self.ray_address,
            "max_servers": self.max_servers,
            "gpu_file": gpu_file,
            "task_timeout_s": self.task_timeout,
            "retry_failed": self.retry_failed,
            "lock_wait_s": None if self.wait else 0.0,
        }


def _rates(text: str | None) -> list[float] | None:
    """Return the numbers in "0.5,1,2". Raises InputError."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(
            f'--request-rate: expected numbers with commas between them, got "{text}"',
            hint="for example --request-rate 0.5,1,2",
        ) from error


def _numbers(flag: str, text: str | None) -> list[int] | None:
    """Return the numbers in "1,2,4"; None for nothing and for "auto". Raises InputError."""
    return None if text is None or text == "auto" else whole_numbers(flag, text)
