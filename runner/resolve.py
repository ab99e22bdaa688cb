"""Resolving: every name of a spec looked up (catalogue, local files), every default filled in, once and frozen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from gpuscout.runner.engines.base import Cost
from gpuscout.runner.engines.registry import create_engine
from gpuscout.sweeps.architecture import ModelArchitecture
from gpuscout.sweeps.errors import GpuscoutError, InputError, ModelConfigError, SpecError, SpecProblem
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.gpu_catalogue import GpuCatalogue
from gpuscout.sweeps.gpus import GpuSpec
from gpuscout.sweeps.model_config import architecture_from_config
from gpuscout.sweeps.models import ModelCatalogue
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.rules import Rule, has_wildcard
from gpuscout.sweeps.spec import SweepSpec
from gpuscout.sweeps.spec_entries import EngineEntry, GpuSelector, ModelEntry
from gpuscout.sweeps.sweep import EnginePart, Sweep, SweptModel

# Steps of at most 1.5 above 2: the winner under an SLO depends on points near the limit.
CHEAP_LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
DEAR_LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# A block of a cheap engine should take a fraction of a second and a sweep have enough blocks to share out; a block of
# a dear one is one task, unless the store would hold more rows for blocks than anybody waits for.
_CHEAP_BLOCK, _SMALLEST_CHEAP_BLOCK, _CHEAP_BLOCKS = 4096, 256, 64
_MOST_DEAR_BLOCKS = 20_000
_LARGEST_CONFIG_BYTES = 16 << 20


def resolve(spec: SweepSpec, *, gpu_file: Path | None = None) -> Sweep:
    """The sweep a spec describes. `gpu_file` adds to the one the spec may name.

    Raises SpecError with every name that cannot be resolved, each with its place in the spec.
    """
    problems = _Problems(spec)
    catalogue = _gpu_catalogue(spec, gpu_file)
    models: dict[str, SweptModel] = {}
    gpus: dict[str, GpuSpec] = {}
    engines: list[EnginePart] = []
    for number, entry in enumerate(spec.models):
        with problems.at("models", number):
            for swept in _models(spec, entry, number):
                models.setdefault(swept.architecture.name, swept)
    for number, selector in enumerate(spec.gpus):
        with problems.at("gpus", number):
            for gpu in _gpus(catalogue, selector):
                gpus.setdefault(gpu.name, gpu)
    for number, engine in enumerate(spec.engines):
        with problems.at("engines", number):
            engines.append(_engine(engine, spec.concurrency))
    exclude = _rules("exclude", spec.exclude, catalogue, problems)
    only = _rules("only", spec.only, catalogue, problems)
    if not problems.found:
        _check_zip(spec, len(models), len(gpus), problems)
        _check_tensor_parallel(spec, [swept.architecture for swept in models.values()], problems)
    if problems.found:
        raise SpecError(problems.found)
    sweep = Sweep(
        name=spec.name,
        models=tuple(models.values()),
        gpus=tuple(gpus.values()),
        engines=tuple(engines),
        workloads=spec.workloads,
        servers=spec.servers,
        precision=_precisions(spec.precision),
        kv_precision=_precisions(spec.kv_precision),
        tensor_parallel=None if spec.tensor_parallel == "auto" else spec.tensor_parallel,
        pipeline_parallel=spec.pipeline_parallel,
        data_parallel=spec.data_parallel,
        expert_parallel=spec.expert_parallel,
        gpu_memory_utilization=spec.gpu_memory_utilization,
        max_model_len=spec.max_model_len,
        zipped=spec.zip,
        exclude=exclude,
        only=only,
        max_gpus=spec.limits.max_gpus,
    )
    return _with_block_sizes(sweep)


def explained_names(spec: SweepSpec, *, gpu_file: Path | None = None) -> list[str]:
    """What short names and aliases of a spec were taken to mean, such as "A100 is A100-SXM-80GB"."""
    gpus = _gpu_catalogue(spec, gpu_file)
    told = [gpus.explain(selector.name) for selector in spec.gpus if selector.name and not has_wildcard(selector.name)]
    for entry in spec.models:
        if not _is_path(entry.model) and not has_wildcard(entry.model):
            names = ModelCatalogue.load().resolve(entry.model)
            told += [f"{entry.model} is {name}" for name in names if name != entry.model]
    return [text.replace(" -> ", " is ") for text in told if text]


class _Problems:
    """Collects what is wrong with a spec's names, so that one does not hide the next."""

    def __init__(self, spec: SweepSpec) -> None:
        self._spec = spec
        self.found: list[SpecProblem] = []

    def add(self, path: tuple[str | int, ...], message: str, hint: str | None = None) -> None:
        self.found.append(self._spec.problem(path, message, hint))

    @contextmanager
    def at(self, *path: str | int) -> Iterator[None]:
        """Errors of the block belong to this place of the spec. Those of another file stay what they are."""
        try:
            yield
        except SpecError:
            raise
        except GpuscoutError as error:
            self.add(path, error.message, error.hint)


def resolve_model(text: str, *, directory: Path | None = None) -> ModelArchitecture:
    """The architecture of one model: a catalogue name, a bare name that is unique, a folder or a config.json.

    Raises UnknownNameError, InputError when a name is not unique, ModelConfigError for a damaged configuration.
    """
    path = Path(directory or ".", Path(text).expanduser())
    if _is_path(text):
        return _local_model(path, name=None)
    catalogue = ModelCatalogue.load()
    names = catalogue.resolve(text)
    if len(names) > 1:
        raise InputError(f'"{text}" stands for {len(names)} models', hint=", ".join(names))
    return catalogue.get(names[0])


def _models(spec: SweepSpec, entry: ModelEntry, number: int) -> list[SweptModel]:
    if _is_path(entry.model):
        architectures = [_local_model(Path(spec.resolve_path(("models", number), entry.model)), name=entry.name)]
    else:
        catalogue = ModelCatalogue.load()
        architectures = [catalogue.get(name) for name in catalogue.resolve(entry.model)]
        if entry.revision is not None:
            raise InputError("a revision can only be chosen for a model that is fetched from the Hugging Face Hub")
        if entry.name is not None:
            if len(architectures) > 1:
                raise InputError(f"one name for {len(architectures)} models", hint="leave `name` out")
            architectures = [replace(architectures[0], name=entry.name)]
    return [
        SweptModel(
            architecture,
            precision=None if entry.precision is None else _precisions(entry.precision),
            kv_precision=None if entry.kv_precision is None else _precisions(entry.kv_precision),
        )
        for architecture in architectures
    ]


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or text.endswith(".json")


def _local_model(path: Path, *, name: str | None) -> ModelArchitecture:
    file = path / "config.json" if path.is_dir() else path
    try:
        if file.stat().st_size > _LARGEST_CONFIG_BYTES:
            raise ModelConfigError(f"{file} is too large for a model configuration", hint="at most 16 MiB")
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelConfigError(f"no model configuration at {file}", hint="name a folder with a config.json") from error
    except OSError as error:
        raise ModelConfigError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelConfigError(f"{file} is not JSON: {error}") from error
    folder = file.resolve().parent.name if file.name == "config.json" else file.stem
    return architecture_from_config(config, name=name or folder, source=str(file))


def _gpu_catalogue(spec: SweepSpec, gpu_file: Path | None) -> GpuCatalogue:
    catalogue = GpuCatalogue.load()
    if spec.gpu_file is not None:
        catalogue = catalogue.with_file(Path(spec.resolve_path(("gpu_file",), spec.gpu_file)))
    return catalogue if gpu_file is None else catalogue.with_file(gpu_file)


def _gpus(catalogue: GpuCatalogue, selector: GpuSelector) -> tuple[GpuSpec, ...]:
    plain = selector.vendor is None and selector.family is None and selector.min_memory_gb is None
    if plain and selector.name is not None and not has_wildcard(selector.name):
        return (catalogue.resolve(selector.name),)
    return catalogue.select(
        vendor=selector.vendor,
        family=selector.family,
        glob=selector.name or "*",
        min_memory_gb=selector.min_memory_gb,
    )


def _engine(entry: EngineEntry, concurrency: tuple[int, ...] | None) -> EnginePart:
    engine = create_engine(entry.name, entry.options)
    ladder = concurrency or (CHEAP_LADDER if engine.cost is Cost.CHEAP else DEAR_LADDER)
    # How large blocks should be is only known once the whole sweep is.
    size = _CHEAP_BLOCK if engine.cost is Cost.CHEAP else 1
    return EnginePart(entry.name, engine.fingerprint(), dict(engine.options), ladder, size)


def _with_block_sizes(sweep: Sweep) -> Sweep:
    raw = Expansion(sweep).raw_combinations

    def size(part: EnginePart) -> int:
        if part.block_size == 1:
            return max(1, -(-raw // _MOST_DEAR_BLOCKS))
        return min(_CHEAP_BLOCK, max(_SMALLEST_CHEAP_BLOCK, -(-raw // _CHEAP_BLOCKS)))

    return replace(sweep, engines=tuple(replace(part, block_size=size(part)) for part in sweep.engines))


def _precisions(names: tuple[Precision | Literal["native"], ...]) -> tuple[Precision | None, ...]:
    return tuple(None if name == "native" else Precision(name) for name in names)


def _rules(key: str, rules: tuple[Rule, ...], catalogue: GpuCatalogue, problems: _Problems) -> tuple[Rule, ...]:
    """The rules of a list with GPU aliases replaced by the names they stand for."""
    resolved = []
    for number, rule in enumerate(rules):
        names = {}
        for alias in rule.conditions["gpu"].names if "gpu" in rule.conditions else ():
            with problems.at(key, number, "gpu"):
                names[alias] = catalogue.resolve(alias).name
        resolved.append(rule.renamed("gpu", names))
    return tuple(resolved)


def _check_tensor_parallel(spec: SweepSpec, models: list[ModelArchitecture], problems: _Problems) -> None:
    """A size that no model can use is a mistake; one that some cannot use is told beside the results."""
    if spec.tensor_parallel == "auto":
        return
    for number, size in enumerate(spec.tensor_parallel):
        if not any(size in model.tensor_parallel_sizes(size) for model in models):
            heads = sorted({model.attention_heads for model in models})
            problems.add(
                ("tensor_parallel", number),
                f"{size} does not divide the attention heads of any model in this sweep ({', '.join(map(str, heads))})",
            )


def _check_zip(spec: SweepSpec, models: int, gpus: int, problems: _Problems) -> None:
    """Globs give models and GPUs only now: axes in lockstep must still have equal lengths."""
    for number, group in enumerate(spec.zip):
        lengths = {axis: {"models": models, "gpus": gpus}.get(axis) or len(getattr(spec, axis)) for axis in group}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{axis} {length}" for axis, length in lengths.items())
            problems.add(("zip", number), f"axes in lockstep have different lengths: {told}")
        if {"precision", "kv_precision"} & set(group) and any(
            entry.precision or entry.kv_precision for entry in spec.models
        ):
            problems.add(("zip", number), "a model has precisions of its own, which cannot run in lockstep")
