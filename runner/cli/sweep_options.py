"""Options of commands that plan and run sweeps: a sweep without a file, what is asked of it, where it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.options import Many
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.servers import ONE_OF_SERVERS

if TYPE_CHECKING:
    from gpuscout.runner.api.run import RunOptions
    from gpuscout.sweeps.spec.spec import SweepSpec

# What a sweep from flags is called when --name does not say.
_NAME_OF_FLAGS = "from-flags"
GpuFile = Annotated[Path | None, typer.Option("--gpu-file", help="A YAML file with GPUs of your own.")]


def _sweep(*names: str, help: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Sweep without a file")


@dataclass(frozen=True)
class SweepFlags:
    """A sweep in flags in place of a spec file."""

    model: Annotated[Many, _sweep("--model", help="A model; repeat for more.")] = None
    gpu: Annotated[Many, _sweep("--gpu", help="A GPU; repeat for more.")] = None
    workload: Annotated[Many, _sweep("--workload", help="A preset; repeat for more.")] = None
    input_len: Annotated[int | None, _sweep("--input-len", help="Input tokens.")] = None
    output_len: Annotated[int | None, _sweep("--output-len", help="Output tokens.")] = None
    tp: Annotated[str | None, _sweep("--tp", "--num-gpus", help="GPUs of a deployment: auto, or 1,2,4.")] = None
    precision: Annotated[Many, _sweep("--precision", help="native, fp8, bf16 …; repeat for more.")] = None
    server: Annotated[Many, _sweep("--server", help=f"{ONE_OF_SERVERS}; repeat.")] = None
    concurrency: Annotated[str | None, _sweep("--concurrency", help="Requests in flight: 1,8,64.")] = None
    engine: Annotated[Many, _sweep("--engine", help="An engine, also instead of those of a spec; repeat.")] = None
    max_gpus: Annotated[int | None, _sweep("--max-gpus", help="At most this many GPUs.")] = None
    name: Annotated[str | None, _sweep("--name", help="What to call the sweep.")] = None

    def spec(self, file: Path | None) -> SweepSpec:
        """The spec in a file, with the engines of the flags if there are any, or the one that the flags describe."""
        from gpuscout.runner.engines.registry import about
        from gpuscout.sweeps.spec.entries import EngineEntry
        from gpuscout.sweeps.spec.spec import load_spec, spec_from_mapping

        given = {flag: value for flag, value in vars(self).items() if value is not None}
        if file is not None:
            engines = given.pop("engine", None)
            if given:
                names = ", ".join("--" + flag.replace("_", "-") for flag in given)
                raise InputError(f"{names} cannot be combined with a spec file", hint=f"write it into {file}")
            spec = load_spec(file)
            if engines is not None:
                for name in engines:
                    about(name)  # an unknown one is not the file's fault
                spec = spec.model_copy(update={"engines": tuple(EngineEntry(name=name) for name in engines)})
            return spec
        if not given:
            raise InputError(
                "name a spec file, or at least --model and --gpu", hint="gpuscout init writes a spec to start from"
            )
        lengths = {"input_len", "output_len"} & given.keys()
        if len(lengths) == 1:
            raise InputError("--input-len and --output-len go together")
        if not lengths and "workload" not in given:
            given["workload"] = ["chat"]
        workloads = [*given.get("workload", [])]
        if lengths:
            workloads.append({"input_len": given["input_len"], "output_len": given["output_len"]})
        data = {
            "name": given.get("name", _NAME_OF_FLAGS),
            "models": given.get("model"),
            "gpus": given.get("gpu"),
            "workloads": workloads,
            "tensor_parallel": _numbers("--tp", given["tp"]) if given.get("tp", "auto") != "auto" else None,
            "precision": given.get("precision"),
            "servers": given.get("server"),
            "concurrency": _numbers("--concurrency", given["concurrency"]) if "concurrency" in given else None,
            "engines": given.get("engine"),
            "limits": {"max_gpus": given["max_gpus"]} if "max_gpus" in given else None,
        }
        return spec_from_mapping(
            {key: value for key, value in data.items() if value is not None},
            flags={
                "name": "--name",
                "models": "--model",
                "gpus": "--gpu",
                "workloads": "--workload",
                "tensor_parallel": "--tp",
                "precision": "--precision",
                "servers": "--server",
                "concurrency": "--concurrency",
                "engines": "--engine",
                "limits": "--max-gpus",
            },
        )


@dataclass(frozen=True)
class AskOptions:
    """What is asked of the store when a sweep has run."""

    objective: Annotated[str | None, typer.Option("--objective", "--metric", help="What to rank by in the end.")] = None
    slo: Annotated[Many, typer.Option("--slo", help="A limit: 'ttft<=500ms'; repeat for more.")] = None

    def question(self, spec: SweepSpec) -> dict[str, Any]:
        """What to ask the store in the end: flags replace what the spec says."""
        from gpuscout.store.ranking.types import DEFAULT_OBJECTIVE, measure_of
        from gpuscout.sweeps.slo import OBJECTIVE_SYNONYMS, parse_slo

        asked = OBJECTIVE_SYNONYMS.get(self.objective or "", self.objective)
        chosen = asked or spec.objective or DEFAULT_OBJECTIVE
        measure_of(chosen)  # an objective that is none is better refused before the sweep than after it
        return {"objective": chosen, "slos": tuple(map(parse_slo, self.slo)) if self.slo else spec.slo}


@dataclass(frozen=True)
class ExecutionOptions:
    """Where tasks are computed, and which are tried again."""

    executor: Annotated[str, typer.Option("--executor", help="auto, in-process or ray.")] = "auto"
    ray_address: Annotated[str | None, typer.Option("--ray-address", help="A running Ray cluster.")] = None
    task_timeout: Annotated[
        float | None,
        typer.Option(
            "--task-timeout", metavar="SECONDS", min=0.001, help="End tasks that take longer, of every engine."
        ),
    ] = None
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try tasks again that crashed or timed out in earlier runs, too.")
    ] = False
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another runner of this SQLite store.")] = False

    def arguments(self, gpu_file: Path | None) -> RunOptions:
        """The same as arguments of `run`."""
        return {
            "executor": self.executor,
            "ray_address": self.ray_address,
            "gpu_file": gpu_file,
            "task_timeout_s": self.task_timeout,
            "retry_failed": self.retry_failed,
            "lock_wait_s": None if self.wait else 0.0,
        }


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f'{flag}: "{text}" is not a list of numbers', hint=f"for example {flag} 1,2,4") from error
