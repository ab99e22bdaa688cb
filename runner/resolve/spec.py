"""Resolving: every name of a spec looked up (models, GPUs, engines), every default filled in, once and frozen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeGuard

from gpuscout.runner.engines.base import Cost, is_exclusive, measures, settled, task_seconds, trust_of
from gpuscout.runner.engines.registry import cached_engine, create_engine
from gpuscout.runner.resolve.hub_errors import HubModel
from gpuscout.runner.resolve.models import KnownModels, ModelFinder, target_of
from gpuscout.runner.resolve.models import resolve_model as resolve_model  # part of the Python API
from gpuscout.sweeps.errors import GpuFileError, GpuscoutError, InputError, SpecError, SpecProblem, UnknownNameError
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.gpus.library import gpus_with
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.names import has_wildcard
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.spec.entries import EngineEntry, GpuSelector, ModelEntry
from gpuscout.sweeps.spec.names import Problems, RuleNames
from gpuscout.sweeps.spec.rules import Rule
from gpuscout.sweeps.spec.spec import InvalidSpecError, SweepSpec
from gpuscout.sweeps.sweep import EnginePart, Placement, Sweep, SweptModel

# Steps of at most 1.5 above 2: the winner under an SLO depends on points near the limit.
CHEAP_LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
EXPENSIVE_LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# A block of a cheap engine should take a fraction of a second and a sweep have enough blocks to share out; a block of
# an expensive one is one task, or a second of quick ones, unless the store would hold more rows for blocks than anybody
# waits for.
_CHEAP_BLOCK, _SMALLEST_CHEAP_BLOCK, _CHEAP_BLOCKS = 4096, 256, 64
_MOST_EXPENSIVE_BLOCKS = 20_000
_EXPENSIVE_BLOCK_S, _FEWEST_EXPENSIVE_BLOCKS = 1.0, 64


Precisions = tuple[Precision | None, ...]


def resolve(spec: SweepSpec, *, gpu_file: Path | None = None, known: KnownModels | None = None) -> Sweep:
    """Return the sweep a spec describes. `gpu_file` adds to the one the spec may name.

    `known` are models fetched before (those of a store), asked before the Hugging Face Hub; None: there are none.
    Raises SpecError with every name that cannot be resolved, each with its place in the spec.
    """
    problems = Problems(spec)
    names = _look_up(spec, gpu_file, known, problems)
    if not problems.found:
        _check_zip(spec, len(names.models), len(names.gpus), problems)
    if problems.found:
        raise SpecError(problems.found)
    sweep = Sweep(
        name=spec.name,
        models=names.models,
        gpus=names.gpus,
        engines=names.engines,
        workloads=spec.swept_workloads,
        servers=spec.servers,
        precision=_precisions(spec.precision),
        kv_precision=_precisions(spec.kv_precision),
        tensor_parallel=None if spec.tensor_parallel == "auto" else spec.tensor_parallel,
        pipeline_parallel=spec.pipeline_parallel,
        data_parallel=spec.data_parallel,
        expert_parallel=spec.expert_parallel,
        gpu_memory_utilization=spec.gpu_memory_utilization,
        max_model_len=spec.max_model_len,
        server_options=spec.server_options,
        speculative=spec.speculative,
        zipped=spec.zip,
        exclude=names.exclude,
        only=names.only,
        max_gpus=spec.limits.max_gpus,
    )
    for number, part in enumerate(sweep.engines):
        with problems.at("engines", number):
            if refused := refusal(part, sweep):
                raise InputError(f"engine {part.name}: {refused}")
    if problems.found:
        raise SpecError(problems.found)
    return _with_block_sizes(sweep)


def refusal(part: EnginePart, sweep: Sweep) -> str | None:
    """Return the reason why an engine of a sweep cannot answer for it; None: it can."""
    refuses = getattr(cached_engine(part.name, part.options), "refuses", None)
    why: str | None = None if refuses is None else refuses(sweep)
    return why


def all_problems(
    invalid: InvalidSpecError, *, gpu_file: Path | None = None, known: KnownModels | None = None
) -> SpecError:
    """Return the problems of an invalid spec, and of the names in its sound part: all at once."""
    problems = Problems(invalid.sound, invalid.broken)
    # A store that cannot be asked is told about when the spec can be used.
    with suppress(GpuscoutError):
        _look_up(invalid.sound, gpu_file, known, problems)
    reported = {(problem.file, problem.line, problem.column, problem.key) for problem in invalid.problems}
    more = (p for p in problems.found if (p.file, p.line, p.column, p.key) not in reported)
    return SpecError([*invalid.problems, *more])


@dataclass(frozen=True)
class _Names:
    """Objects that the names of a spec stand for, as far as they are known."""

    models: tuple[SweptModel, ...]
    gpus: tuple[GPUSpec, ...]
    engines: tuple[EnginePart, ...]
    exclude: tuple[Rule, ...]
    only: tuple[Rule, ...]


def _look_up(spec: SweepSpec, gpu_file: Path | None, known: KnownModels | None, problems: Problems) -> _Names:
    models = _swept_models(spec, known, problems)
    catalogue = _Gpus(spec, gpu_file, problems)
    gpus: dict[str, GPUSpec] = {}
    engines: list[EnginePart] = []
    for number, selector in enumerate(spec.gpus):
        with problems.at("gpus", number):
            gpus.update((gpu.name, gpu) for gpu in catalogue.selected(selector))
    for number, engine in enumerate(engine_entries(spec)):
        with problems.at("engines", number):
            engines.append(engine_part(engine, spec.concurrency if spec.load == "concurrency" else (1,)))
    # A model that cannot be found may still be named by a rule.
    written = [entry.name or entry.model for entry in spec.models if problems.about("models")]
    rules = RuleNames([*models, *written], None if catalogue.incomplete else catalogue.known, catalogue.resolve)
    names = _Names(
        tuple(models.values()),
        tuple(gpus.values()),
        tuple(engines),
        rules.resolved("exclude", spec.exclude, problems),
        rules.resolved("only", spec.only, problems),
    )
    if not problems.about("models"):
        _check_tensor_parallel(spec, [swept.architecture for swept in models.values()], problems)
    return names


def _swept_models(spec: SweepSpec, known: KnownModels | None, problems: Problems) -> dict[str, SweptModel]:
    """Return the models by their names. One that several entries ask for is asked for what any of them says."""
    models: dict[str, SweptModel] = {}
    first: dict[str, int] = {}
    finder = ModelFinder(known)
    finder.prepare(_hub_models(spec))
    for number, entry in enumerate(spec.models):
        with problems.at("models", number):
            for swept in _models(finder, spec, entry, number):
                name = swept.architecture.name
                if name not in models:
                    models[name], first[name] = swept, number
                elif models[name].architecture == swept.architecture:
                    models[name] = _asked_twice(spec, models[name], swept)
                else:
                    raise InputError(
                        f"models[{first[name]}] is another model called {json.dumps(name)}",
                        hint="give one of them a name of its own: {model: …, name: …}",
                    )
    return models


def _asked_twice(spec: SweepSpec, one: SweptModel, other: SweptModel) -> SweptModel:
    """Return the union of what two entries ask of a model; an entry without precisions asks for those of the sweep."""

    def union(axis: Precisions, *asked: Precisions | None) -> Precisions | None:
        if asked == (None, None):
            return None
        return tuple(dict.fromkeys(p for precisions in asked for p in (axis if precisions is None else precisions)))

    return SweptModel(
        one.architecture,
        union(_precisions(spec.precision), one.precision, other.precision),
        union(_precisions(spec.kv_precision), one.kv_precision, other.kv_precision),
    )


def explained_names(spec: SweepSpec, *, gpu_file: Path | None = None) -> list[str]:
    """Return the meaning that short names and aliases of a spec were given, such as "A100 is A100-SXM-80GB"."""
    gpus = _Gpus(spec, gpu_file, Problems(spec)).known
    parts = [
        gpus.explain(selector.name)
        for selector in spec.gpus
        if selector.name and not has_wildcard(selector.name) and gpus.find(selector.name) is not None
    ]
    for entry in spec.models:
        if not entry.is_path and not has_wildcard(entry.model):
            target = target_of(entry.model, entry.revision)
            names = (target.name,) if isinstance(target, HubModel) else target
            parts += [f"{entry.model} is {name}" for name in names if name != entry.model]
    return [text.replace(" -> ", " is ") for text in parts if text]


def _hub_models(spec: SweepSpec) -> Iterator[HubModel]:
    """Yield the models that only the Hub (or the store) can tell.

    What is wrong with an entry is told when it is its turn.
    """
    for entry in spec.models:
        with suppress(GpuscoutError):
            target = () if entry.is_path else target_of(entry.model, entry.revision)
            if isinstance(target, HubModel):
                yield target


def _models(finder: ModelFinder, spec: SweepSpec, entry: ModelEntry, number: int) -> list[SweptModel]:
    directory = spec.resolve_path(("models", number), ".")
    written = spec.resolve_path(("models", number), entry.model) if entry.is_path else entry.model
    text = str(Path(written).absolute()) if entry.is_path else written
    found = finder.find(text, revision=entry.revision, directory=directory)
    architectures = [model.architecture for model in found]
    if entry.name is not None:  # which the spec refuses beside a pattern
        architectures = [replace(architectures[0], name=entry.name)]
    return [
        SweptModel(
            architecture,
            precision=None if entry.precision is None else _precisions(entry.precision),
            kv_precision=None if entry.kv_precision is None else _precisions(entry.kv_precision),
        )
        for architecture in architectures
    ]


class _Gpus:
    """The catalogue of GPUs with those of the user's files. Of files with problems, only the names are known."""

    def __init__(self, spec: SweepSpec, gpu_file: Path | None, problems: Problems) -> None:
        self.known = gpus_with()
        self.incomplete = "gpu_file" in problems.broken
        # Folded, as far as anything could be read.
        self._lost: set[str] | None = None if self.incomplete else set()
        own = None if spec.gpu_file is None else Path(spec.resolve_path(("gpu_file",), spec.gpu_file))
        for file, key in ((own, "gpu_file"), (gpu_file, "--gpu-file")):
            if file is None:
                continue
            try:
                self.known = self.known.with_file(file)
                continue
            except GpuFileError as error:
                problems.found += error.problems
                names = {name.casefold() for name in error.names}
            except InputError as error:
                if key == "gpu_file":
                    problems.add((key,), error.message, error.hint)
                else:
                    problems.found.append(SpecProblem(error.message, key=key, hint=error.hint))
                names = set()
            self.incomplete = True
            self._lost = self._lost | names if self._lost is not None and names else None

    def resolve(self, name: str) -> str:
        """Return the canonical name; the name itself when it may be that of a GPU that could not be read."""
        try:
            return self.known.resolve(name).name
        except UnknownNameError:
            if self._lost is None or name.casefold() in self._lost:
                return name
            raise

    def selected(self, selector: GpuSelector) -> tuple[GPUSpec, ...]:
        plain = selector.vendor is None and selector.family is None and selector.min_memory_gb is None
        if plain and selector.name is not None and not has_wildcard(selector.name):
            if self.known.find(selector.name) is None and (group := self.known.group(selector.name)):
                return group
            name = self.resolve(selector.name)
            return (self.known.get(name),) if name in self.known.names() else ()
        try:
            return self.known.select(
                vendor=selector.vendor,
                family=selector.family,
                glob=selector.name,
                min_memory_gb=selector.min_memory_gb,
            )
        except InputError:
            if self.incomplete:
                return ()
            raise


def engine_entries(spec: SweepSpec) -> tuple[EngineEntry, ...]:
    """Return the engines of a spec; files named by options (`…_file`) count from the spec's folder."""
    return tuple(
        entry.model_copy(
            update={
                "options": {
                    name: os.path.abspath(spec.resolve_path(("engines", number), value))
                    if _is_file(name, value)
                    else value
                    for name, value in entry.options.items()
                }
            }
        )
        for number, entry in enumerate(spec.engines)
    )


def names_file(entry: EngineEntry) -> bool:
    """Return whether an option of the engine names a file."""
    return any(_is_file(name, value) for name, value in entry.options.items())


def _is_file(option: str, value: object) -> TypeGuard[str]:
    return option.endswith("_file") and isinstance(value, str)


def engine_part(entry: EngineEntry, concurrency: tuple[int, ...] | None = None) -> EnginePart:
    """Return an engine of a sweep with its ladder; None: the one for its kind. Raises UnknownNameError, InputError."""
    engine = settled(create_engine(entry.name, entry.options))
    ladder = concurrency or (CHEAP_LADDER if engine.cost is Cost.CHEAP else EXPENSIVE_LADDER)
    # How large blocks should be is only known once the whole sweep is.
    size = _CHEAP_BLOCK if engine.cost is Cost.CHEAP else 1
    placement = Placement() if entry.run is None else Placement(**entry.run.model_dump(exclude_none=True))
    return EnginePart(entry.name, engine.fingerprint(), dict(engine.options), ladder, size, placement, trust_of(engine))


def _with_block_sizes(sweep: Sweep) -> Sweep:
    raw = Expansion(sweep).raw_combinations

    def size(part: EnginePart) -> int:
        engine = cached_engine(part.name, part.options)
        if measures(engine) and not is_exclusive(engine):
            # Workloads vary fastest: a block is one configuration, for which one server is started.
            return 1 if any("workloads" in group for group in sweep.zipped) else len(sweep.workloads)
        if part.block_size == 1:
            # Storing a block takes some milliseconds of the one controller, so that quick tasks need company.
            company = min(int(_EXPENSIVE_BLOCK_S / task_seconds(engine)), raw // _FEWEST_EXPENSIVE_BLOCKS)
            return max(1, company, -(-raw // _MOST_EXPENSIVE_BLOCKS))
        return min(_CHEAP_BLOCK, max(_SMALLEST_CHEAP_BLOCK, -(-raw // _CHEAP_BLOCKS)))

    return replace(sweep, engines=tuple(replace(part, block_size=size(part)) for part in sweep.engines))


def _precisions(names: tuple[Precision | Literal["native"], ...]) -> Precisions:
    return tuple(None if name == "native" else Precision(name) for name in names)


def _check_tensor_parallel(spec: SweepSpec, models: list[ModelSpec], problems: Problems) -> None:
    """Refuse sizes that no model can use; those that some cannot use are reported beside the results."""
    if spec.tensor_parallel == "auto":
        return
    usable = {size for model in models for size in model.tensor_parallel_sizes(max(spec.tensor_parallel))}
    useless = [size for size in spec.tensor_parallel if size not in usable]
    if not useless:
        return
    heads = ", ".join(map(str, sorted({model.attention_heads for model in models})))
    path = ("tensor_parallel", spec.tensor_parallel.index(useless[0])) if len(useless) == 1 else ("tensor_parallel",)
    problems.add(
        path,
        f"{_runs(useless)} {'does' if len(useless) == 1 else 'do'} not divide the heads and widths of any model in "
        f"this sweep (attention heads: {heads})",
    )


def _runs(sizes: Iterable[int]) -> str:
    """Return whole numbers as text, neighbours drawn together: 3, 5 to 7, 9."""
    runs: list[list[int]] = []
    for size in sorted(set(sizes)):
        if runs and size == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], size]
        else:
            runs.append([size])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def _check_zip(spec: SweepSpec, models: int, gpus: int, problems: Problems) -> None:
    """Check axes in lockstep again: globs give models and GPUs only now, and lengths must still be equal."""
    for number, group in enumerate(spec.zip):
        lengths = {axis: {"models": models, "gpus": gpus}.get(axis) or len(getattr(spec, axis)) for axis in group}
        if len(set(lengths.values())) > 1:
            stated = ", ".join(f"{axis} {length}" for axis, length in lengths.items())
            problems.add(("zip", number), f"axes in lockstep have different lengths: {stated}")
        if {"precision", "kv_precision"} & set(group) and any(
            entry.precision or entry.kv_precision for entry in spec.models
        ):
            problems.add(("zip", number), "a model has precisions of its own, which cannot run in lockstep")
