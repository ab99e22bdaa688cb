"""Expansion: the product of a sweep's axes as blocks of cases, any block found without the ones before it.

A combination is a raw index into the product; its mixed-radix digits are positions on the dimensions (an axis, or
axes that run in lockstep). Whether a combination can run is looked up in small tables by these positions, so a block
is a handful of array operations and a sweep of millions of tasks is counted in bounded memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gpuscout.sweeps.cases import CaseColumns
from gpuscout.sweeps.precision import PRECISIONS, Precision
from gpuscout.sweeps.servers.options import OPTIONS, ServerOptions, default_options, server_options, unknown_to
from gpuscout.sweeps.spec.rules import Rule
from gpuscout.sweeps.sweep import AXES, EnginePart, Sweep
from gpuscout.sweeps.traffic.traffic import Traffic

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_Row = TypeVar("_Row")
_Column = TypeVar("_Column")

_RUNS, _NOT_ASKED = 0, -1
_CENSUS_ROWS = 1 << 17


@dataclass(frozen=True)
class Exclusion:
    """`combinations` of a sweep that no engine could run, for one reason. `model` is None where it does not matter."""

    reason: str
    detail: str
    model: str | None
    combinations: int


@dataclass(frozen=True)
class Census:
    """Numbers of tasks of a sweep: in each block, and the combinations left out by reason.

    `combinations` counts what was asked for: `sum(block_tasks)` plus all exclusions. Combinations that were not
    asked for (tensor parallel sizes that `auto` does not pick, a precision named twice) are in neither.
    """

    block_tasks: Ints
    exclusions: tuple[Exclusion, ...]

    @property
    def tasks(self) -> int:
        return int(self.block_tasks.sum())

    @property
    def excluded(self) -> int:
        return sum(exclusion.combinations for exclusion in self.exclusions)

    @property
    def combinations(self) -> int:
        return self.tasks + self.excluded


@dataclass(frozen=True)
class _Reason:
    """Reason why combinations are left out. `axes` are those the explanation depends on, by which they are counted."""

    code: str
    axes: tuple[str, ...]
    describe: Callable[[dict[str, int]], str]


class Expansion:
    """The tasks of a sweep. Deterministic and pure: two expansions of equal sweeps agree block by block."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._models = [swept.architecture for swept in sweep.models]
        self._tensor_parallel = np.array(sweep.tensor_parallel or self._automatic_sizes(), dtype=np.int64)
        self._precision_axis = _axis_values(sweep.precision, [m.precision for m in sweep.models])
        self._kv_axis = _axis_values(sweep.kv_precision, [m.kv_precision for m in sweep.models])
        self._lengths = {
            "models": len(sweep.models),
            "gpus": len(sweep.gpus),
            "servers": len(sweep.servers),
            "precision": len(self._precision_axis),
            "kv_precision": len(self._kv_axis),
            "pipeline_parallel": len(sweep.pipeline_parallel),
            "data_parallel": len(sweep.data_parallel),
            "expert_parallel": len(sweep.expert_parallel),
            "tensor_parallel": len(self._tensor_parallel),
            "gpu_memory_utilization": len(sweep.gpu_memory_utilization),
            "max_model_len": len(sweep.max_model_len),
            "server_options": len(sweep.server_options),
            "speculative": len(sweep.speculative),
            "workloads": len(sweep.workloads),
        }
        self._dimensions = _dimensions(sweep.zipped)
        self._radices = [self._lengths[group[0]] for group in self._dimensions]
        self.raw_combinations = math.prod(self._radices)

    # Blocks

    @cached_property
    def _first_blocks(self) -> list[int]:
        """The number of the first block of each engine, and one past the last block."""
        starts = [0]
        for part in self.sweep.engines:
            starts.append(starts[-1] + -(-self.raw_combinations // part.block_size))
        return starts

    @property
    def block_count(self) -> int:
        return self._first_blocks[-1]

    def first_block(self, engine: int) -> int:
        """Return the number of the first block of the engine at this position; its blocks follow one another."""
        return self._first_blocks[engine]

    def engine_of(self, block: int) -> int:
        """Return the position in `sweep.engines` of the engine that answers this block."""
        if not 0 <= block < self.block_count:
            raise IndexError(f"block {block} of {self.block_count}")
        return next(i for i, start in enumerate(self._first_blocks[1:]) if block < start)

    def block(self, block: int) -> CaseColumns:
        """Return the cases of one block, in the order of the product."""
        engine = self.engine_of(block)
        part = self.sweep.engines[engine]
        start = (block - self._first_blocks[engine]) * part.block_size
        positions, status = self._positions(start, min(start + part.block_size, self.raw_combinations), part)
        return self._cases({axis: column[status == _RUNS] for axis, column in positions.items()})

    def blocks(self) -> Iterator[CaseColumns]:
        return (self.block(number) for number in range(self.block_count))

    def census(self) -> Census:
        """Count every block and every exclusion; one pass over the product, a chunk at a time."""
        counts: list[Ints] = []
        excluded: Counter[tuple[str, str, str | None]] = Counter()
        for part in self.sweep.engines:
            chunk = max(1, _CENSUS_ROWS // part.block_size) * part.block_size
            for start in range(0, self.raw_combinations, chunk):
                stop = min(start + chunk, self.raw_combinations)
                positions, status = self._positions(start, stop, part)
                counts.append(
                    np.add.reduceat((status == _RUNS).astype(np.int64), np.arange(0, stop - start, part.block_size))
                )
                self._count_exclusions(positions, status, excluded)
        return Census(
            np.concatenate(counts) if counts else np.zeros(0, dtype=np.int64),
            tuple(
                Exclusion(reason, detail, model, count)
                for (reason, detail, model), count in sorted(excluded.items(), key=lambda item: -item[1])
            ),
        )

    def _count_exclusions(
        self, positions: dict[str, Ints], status: Ints, excluded: Counter[tuple[str, str, str | None]]
    ) -> None:
        for code in np.unique(status[status > _RUNS]).tolist():
            reason = self._reasons[code - 1]
            rows = status == code
            combined = np.zeros(int(rows.sum()), dtype=np.int64)
            for axis in reason.axes:
                combined = combined * self._lengths[axis] + positions[axis][rows]
            for group, count in zip(*(a.tolist() for a in np.unique(combined, return_counts=True)), strict=True):
                at: dict[str, int] = {}
                for axis in reversed(reason.axes):
                    group, at[axis] = divmod(group, self._lengths[axis])
                model = self._models[at["models"]].name if "models" in at else None
                excluded[(reason.code, reason.describe(at), model)] += count

    # Combinations

    def _positions(self, start: int, stop: int, part: EnginePart) -> tuple[dict[str, Ints], Ints]:
        """Return positions on every axis of the combinations [start, stop), and whether each one runs.

        The status is `_RUNS`, `_NOT_ASKED`, or 1 + the position in `_reasons` of the first reason against it.
        """
        rest = np.arange(start, stop, dtype=np.int64)
        positions: dict[str, Ints] = {}
        along: list[Ints] = []
        for radix, group in zip(reversed(self._radices), reversed(self._dimensions), strict=True):
            rest, digit = np.divmod(rest, radix)
            along.append(digit)
            positions.update(dict.fromkeys(group, digit))
        along.reverse()
        status = np.zeros(stop - start, dtype=np.int64)
        for number, excluded in enumerate(self._obstacles(positions, part), start=1):
            status[excluded & (status == _RUNS)] = number
        status[~self._asked(positions, along)] = _NOT_ASKED
        return positions, status

    def _asked(self, positions: dict[str, Ints], along: list[Ints]) -> Bools:
        model = positions["models"]
        asked = self._length_asked[positions["max_model_len"], positions["workloads"]]
        asked = asked & self._options_asked[positions["gpus"], positions["servers"], positions["server_options"]]
        for table, digit in zip(self._precision_asked, along, strict=True):
            if table is not None:
                asked = asked & table[model, digit]
        if self.sweep.tensor_parallel is None:
            asked = asked & self._automatic[model, positions["gpus"], positions["tensor_parallel"]]
        return asked

    def _obstacles(self, positions: dict[str, Ints], part: EnginePart) -> Iterator[Bools]:
        """Yield one mask for each of `_reasons`, in their order."""
        model = positions["models"]
        for rule in self.sweep.exclude:
            yield self._matches(rule, positions, part)
        if self.sweep.only:
            kept = np.zeros(len(model), dtype=bool)
            for rule in self.sweep.only:
                kept |= self._matches(rule, positions, part)
            yield ~kept
        yield ~self._heads_divide[model, positions["tensor_parallel"]]
        yield ~self._layers_suffice[model, positions["pipeline_parallel"]]
        yield self._dense[model] & (self._value("expert_parallel", positions) > 1)
        yield ~self._experts_divide[model, positions["expert_parallel"]]
        yield (self._value("tensor_parallel", positions) * self._value("data_parallel", positions)) % self._value(
            "expert_parallel", positions
        ) != 0
        yield ~self._context_suffices[model, positions["max_model_len"], positions["workloads"]]
        yield ~self._options_known[positions["servers"], positions["server_options"]]
        if self.sweep.max_gpus is not None:
            yield self._num_gpus(positions) > self.sweep.max_gpus

    @cached_property
    def _reasons(self) -> list[_Reason]:
        sweep, models = self.sweep, self._models
        reasons = [_excluded_by(f"exclude[{number}]: {rule}") for number, rule in enumerate(sweep.exclude)]
        if sweep.only:
            reasons.append(_excluded_by("matches no rule of only"))
        reasons += [
            _Reason(
                "TP does not divide the model",
                ("models", "tensor_parallel"),
                lambda at: (
                    f"tensor parallel {self._tensor_parallel[at['tensor_parallel']]} does not divide "
                    f"{models[at['models']].indivisible(self._tensor_parallel[at['tensor_parallel']])}"
                ),
            ),
            _Reason(
                "more pipeline stages than layers",
                ("models", "pipeline_parallel"),
                lambda at: (
                    f"pipeline parallel {sweep.pipeline_parallel[at['pipeline_parallel']]} needs more than "
                    f"{models[at['models']].layers} layers"
                ),
            ),
            _Reason(
                "EP needs a mixture of experts",
                ("models",),
                lambda at: "expert parallelism needs a mixture-of-experts model",
            ),
            _Reason(
                "EP does not divide the experts",
                ("models", "expert_parallel"),
                lambda at: (
                    f"expert parallel {sweep.expert_parallel[at['expert_parallel']]} does not divide "
                    f"{models[at['models']].experts} experts"
                ),
            ),
            _Reason(
                "EP does not divide TP x DP",
                ("expert_parallel", "tensor_parallel", "data_parallel"),
                lambda at: (
                    f"expert parallel {sweep.expert_parallel[at['expert_parallel']]} does not divide tensor "
                    f"parallel {self._tensor_parallel[at['tensor_parallel']]} x data parallel "
                    f"{sweep.data_parallel[at['data_parallel']]}"
                ),
            ),
            _Reason(
                "longer than the context",
                ("models", "max_model_len", "workloads"),
                self._describe_context,
            ),
            _Reason(
                "option of another server",
                ("servers", "server_options"),
                lambda at: str(unknown_to(sweep.servers[at["servers"]], sweep.server_options[at["server_options"]])),
            ),
        ]
        if sweep.max_gpus is not None:
            reasons.append(_Reason("more GPUs than limits.max_gpus", (), lambda at: f"more than {sweep.max_gpus} GPUs"))
        return reasons

    def _describe_context(self, at: dict[str, int]) -> str:
        workload = self.sweep.workloads[at["workloads"]]
        needed = workload.longest
        limit = self.sweep.max_model_len[at["max_model_len"]]
        if limit is not None and limit < needed:
            return f"workload {workload.name} takes {needed:,} tokens, max_model_len is {limit:,}"
        context = self._models[at["models"]].max_context
        return f"{max(needed, limit or 0):,} tokens are more than the model's context of {context:,}"

    # Tables: what depends on the values of few axes, worked out once

    def _automatic_sizes(self) -> tuple[int, ...]:
        """Return every tensor parallel size that `auto` may pick for some GPU."""
        largest = max((gpu.fast_link_gpus for gpu in self.sweep.gpus), default=1)
        return tuple(1 << power for power in range(largest.bit_length()))

    @cached_property
    def _heads_divide(self) -> Bools:
        largest = int(self._tensor_parallel.max(initial=1))
        sizes = [set(model.tensor_parallel_sizes(largest)) for model in self._models]
        return _table(lambda m, t: t in sizes[m], range(len(sizes)), self._tensor_parallel.tolist())

    @cached_property
    def _automatic(self) -> Bools:
        """(model, GPU, size): powers of two that divide the heads and stay within one node's fast link."""
        within = _table(lambda gpu, t: t <= gpu.fast_link_gpus, self.sweep.gpus, self._tensor_parallel.tolist())
        return self._heads_divide[:, None, :] & within[None, :, :]

    @cached_property
    def _layers_suffice(self) -> Bools:
        return _table(lambda model, stages: stages <= model.layers, self._models, self.sweep.pipeline_parallel)

    @cached_property
    def _dense(self) -> Bools:
        return np.array([not model.is_moe for model in self._models], dtype=bool)

    @cached_property
    def _experts_divide(self) -> Bools:
        return _table(
            lambda model, ep: ep == 1 or model.experts % ep == 0,
            self._models,
            self.sweep.expert_parallel,
        )

    @cached_property
    def _context_lengths(self) -> Ints:
        """(max_model_len, workload): tokens one sequence may grow to."""
        needed = np.array([workload.longest for workload in self.sweep.workloads], dtype=np.int64)
        return np.array(
            [needed if limit is None else np.full_like(needed, limit) for limit in self.sweep.max_model_len]
        )

    @cached_property
    def _context_suffices(self) -> Bools:
        """(model, max_model_len, workload)"""
        needed = np.array([workload.longest for workload in self.sweep.workloads], dtype=np.int64)
        context = np.array([m.max_context or np.iinfo(np.int64).max for m in self._models], dtype=np.int64)
        fits_limit = self._context_lengths >= needed
        return fits_limit[None] & (self._context_lengths[None] <= context[:, None, None])

    @cached_property
    def _length_asked(self) -> Bools:
        """(max_model_len, workload): False for the second of two that come to the same lengths."""
        lengths = self._context_lengths
        asked = np.ones(lengths.shape, dtype=bool)
        zipped = {axis for group in self.sweep.zipped for axis in group}
        if "max_model_len" in zipped or "workloads" in zipped:
            return asked
        seen: set[tuple[int, int, int, Traffic]] = set()
        for (limit, position), length in np.ndenumerate(lengths):
            workload = self.sweep.workloads[position]
            case = (int(length), workload.input_len, workload.output_len, workload.traffic)
            asked[limit, position] = case not in seen
            seen.add(case)
        return asked

    @cached_property
    def _options_known(self) -> Bools:
        """(server, options)"""
        return _table(
            lambda server, options: unknown_to(server, options) is None, self.sweep.servers, self.sweep.server_options
        )

    @cached_property
    def _option_values(self) -> tuple[tuple[ServerOptions, ...], Ints]:
        """The options of cases, without defaults; and (GPU, server, options): which of them a combination has."""
        numbers: dict[ServerOptions, int] = {}
        codes = [
            [
                [
                    numbers.setdefault(server_options(given, server, gpu.name, gpu.memory_usable_gib), len(numbers))
                    for given in self.sweep.server_options
                ]
                for server in self.sweep.servers
            ]
            for gpu in self.sweep.gpus
        ]
        shape = (len(self.sweep.gpus), len(self.sweep.servers), len(self.sweep.server_options))
        return tuple(numbers), np.array(codes, dtype=np.int64).reshape(shape)

    def _option_in_force(self, name: str) -> Ints:
        """Return (GPU, server, options): the value of an option, as given or by default."""
        options, codes = self._option_values
        given = np.array([dict(one).get(name, 0) for one in options], dtype=np.int64)[codes]
        defaults = [
            [default_options(server, gpu.name, gpu.memory_usable_gib)[name] for server in self.sweep.servers]
            for gpu in self.sweep.gpus
        ]
        return np.where(given > 0, given, np.array(defaults, dtype=np.int64)[:, :, None])

    @cached_property
    def _options_asked(self) -> Bools:
        """(GPU, server, options): False for the second of two that come to the same there."""
        _, codes = self._option_values
        if any("server_options" in group for group in self.sweep.zipped):
            return np.ones(codes.shape, dtype=bool)
        asked = np.zeros(codes.shape, dtype=bool)
        for gpu, server in np.ndindex(codes.shape[:2]):
            asked[gpu, server, np.unique(codes[gpu, server], return_index=True)[1]] = True
        return asked

    @cached_property
    def _precision_codes(self) -> Ints:
        """(model, precision): the code of the weight precision, the model's own looked up."""
        return _precision_codes(self._precision_axis, [model.precision for model in self._models])

    @cached_property
    def _kv_codes(self) -> Ints:
        return _precision_codes(self._kv_axis, [model.kv_precision for model in self._models])

    @cached_property
    def _precision_asked(self) -> list[Bools | None]:
        """For each dimension with a precision axis: (model, position on it), False where the model was not asked so.

        A model's own list replaces the axis; of two entries that come to the same precision the first stands.
        """
        return [self._asked_on(group) for group in self._dimensions]

    def _asked_on(self, group: tuple[str, ...]) -> Bools | None:
        axes = [axis for axis in ("precision", "kv_precision") if axis in group]
        if not axes:
            return None
        codes = {"precision": self._precision_codes, "kv_precision": self._kv_codes}
        values = {"precision": self._precision_axis, "kv_precision": self._kv_axis}
        others = [axis for axis in group if axis not in axes]
        asked = np.zeros((len(self._models), self._lengths[group[0]]), dtype=bool)
        for number, swept in enumerate(self.sweep.models):
            own = {"precision": swept.precision, "kv_precision": swept.kv_precision}
            shared = {"precision": self.sweep.precision, "kv_precision": self.sweep.kv_precision}
            seen: set[tuple[int, ...]] = set()
            for position in range(asked.shape[1]):
                if not others and any(
                    values[axis][position] not in (shared[axis] if own[axis] is None else own[axis] or ())
                    for axis in axes
                ):
                    continue
                come_to = (*(int(codes[axis][number, position]) for axis in axes), *([position] if others else ()))
                asked[number, position] = come_to not in seen
                seen.add(come_to)
        return asked

    # Values

    def _value(self, axis: str, positions: dict[str, Ints]) -> Ints:
        values = self._tensor_parallel if axis == "tensor_parallel" else np.asarray(getattr(self.sweep, axis))
        return values[positions[axis]]

    def _num_gpus(self, positions: dict[str, Ints]) -> Ints:
        gpus = self._value("tensor_parallel", positions) * self._value("pipeline_parallel", positions)
        return gpus * self._value("data_parallel", positions)

    def _matches(self, rule: Rule, positions: dict[str, Ints], part: EnginePart) -> Bools:
        """Return the combinations that a rule matches; a condition is asked once for each distinct value."""
        matched = np.ones(len(positions["models"]), dtype=bool)
        for name, condition in rule.conditions.items():
            values, codes = self._rule_field(name, positions, part)
            matched &= np.array([condition.matches(value) for value in values], dtype=bool)[codes]
        return matched

    def _rule_field(self, name: str, positions: dict[str, Ints], part: EnginePart) -> tuple[Sequence[object], Ints]:
        """Return the distinct values of a field that rules may name, and which of them every combination has."""
        sweep = self.sweep
        zeros = np.zeros(len(positions["models"]), dtype=np.int64)
        match name:
            case "engine":
                return [part.name], zeros
            case "model":
                return [model.name for model in self._models], positions["models"]
            case "gpu":
                return [gpu.name for gpu in sweep.gpus], positions["gpus"]
            case "vendor":
                return [gpu.vendor for gpu in sweep.gpus], positions["gpus"]
            case "family":
                return [gpu.family for gpu in sweep.gpus], positions["gpus"]
            case "server":
                return sweep.servers, positions["servers"]
            case "precision":
                return PRECISIONS, self._precision_codes[positions["models"], positions["precision"]]
            case "kv_precision":
                return PRECISIONS, self._kv_codes[positions["models"], positions["kv_precision"]]
            case "workload":
                return [workload.name_at_any_rate for workload in sweep.workloads], positions["workloads"]
            case "input_len":
                return [workload.input_len for workload in sweep.workloads], positions["workloads"]
            case "output_len":
                return [workload.output_len for workload in sweep.workloads], positions["workloads"]
            case "num_gpus":
                values, codes = np.unique(self._num_gpus(positions), return_inverse=True)
                return values.tolist(), codes
            case "max_model_len":
                lengths = self._context_lengths[positions["max_model_len"], positions["workloads"]]
                values, codes = np.unique(lengths, return_inverse=True)
                return values.tolist(), codes
            case "draft_tokens":
                return [drafts.draft_tokens for drafts in sweep.speculative], positions["speculative"]
            case _ if name in OPTIONS:
                in_force = self._option_in_force(name)
                at = in_force[positions["gpus"], positions["servers"], positions["server_options"]]
                values, codes = np.unique(at, return_inverse=True)
                return values.tolist(), codes
            case "tensor_parallel":
                return self._tensor_parallel.tolist(), positions["tensor_parallel"]
            case _:
                return getattr(sweep, name), positions[name]

    def _cases(self, positions: dict[str, Ints]) -> CaseColumns:
        model, workload = positions["models"], positions["workloads"]
        input_len = np.array([w.input_len for w in self.sweep.workloads], dtype=np.int64)
        output_len = np.array([w.output_len for w in self.sweep.workloads], dtype=np.int64)
        options, option_codes = self._option_values
        return CaseColumns(
            models=tuple(self._models),
            gpus=self.sweep.gpus,
            servers=self.sweep.servers,
            model=model,
            gpu=positions["gpus"],
            server=positions["servers"],
            precision=self._precision_codes[model, positions["precision"]],
            kv_precision=self._kv_codes[model, positions["kv_precision"]],
            tensor_parallel=self._value("tensor_parallel", positions),
            pipeline_parallel=self._value("pipeline_parallel", positions),
            data_parallel=self._value("data_parallel", positions),
            expert_parallel=self._value("expert_parallel", positions),
            gpu_memory_utilization=np.asarray(self.sweep.gpu_memory_utilization, dtype=np.float64)[
                positions["gpu_memory_utilization"]
            ],
            max_model_len=self._context_lengths[positions["max_model_len"], workload],
            input_len=input_len[workload],
            output_len=output_len[workload],
            traffics=tuple(w.traffic for w in self.sweep.workloads),
            traffic=workload,
            server_options=options,
            options=option_codes[positions["gpus"], positions["servers"], positions["server_options"]],
            drafts=self.sweep.speculative,
            draft=positions["speculative"],
        )


def _excluded_by(rule: str) -> _Reason:
    return _Reason("excluded by a rule", (), lambda at: rule)


def _dimensions(zipped: tuple[tuple[str, ...], ...]) -> list[tuple[str, ...]]:
    """Return the axes in their order; axes in lockstep stand together, where the first of them stands."""
    group_of = {axis: group for group in zipped for axis in group}
    ordered = dict.fromkeys(
        tuple(a for a in AXES if a in group_of[axis]) if axis in group_of else (axis,) for axis in AXES
    )
    return list(ordered)


def _axis_values(
    shared: tuple[Precision | None, ...], own: Sequence[tuple[Precision | None, ...] | None]
) -> tuple[Precision | None, ...]:
    """Return the sweep's precisions as given, then those that only single models name."""
    extra = dict.fromkeys(p for values in own for p in values or () if p not in shared)
    return (*shared, *extra)


def _precision_codes(axis: Sequence[Precision | None], native: Sequence[Precision]) -> Ints:
    return np.array([[(own if p is None else p).code for p in axis] for own in native], dtype=np.int64)


def _table(holds: Callable[[_Row, _Column], bool], rows: Sequence[_Row], columns: Sequence[_Column]) -> Bools:
    return np.array([[holds(row, column) for column in columns] for row in rows], dtype=bool).reshape(
        len(rows), len(columns)
    )
