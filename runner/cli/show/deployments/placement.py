"""A placement as text: a line for each configuration, the nodes, and what is proved or missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpuscout.runner.cli.common import count, out
from gpuscout.runner.cli.show.deployments.sized import gpus_out
from gpuscout.runner.cli.show.fitted import FittedColumn, bare_names, fitted, short_gpu
from gpuscout.runner.cli.show.output import number
from gpuscout.runner.cli.show.wording import (
    caveats_of,
    describe,
    doubt,
    doubts,
    premises,
    print_aside,
    print_lines,
    share,
    workload,
    wrapped_all,
)
from gpuscout.store.queries.placements.nodes import MOST_NODES, Missing, Nodes, Placement
from gpuscout.store.queries.placements.placement_question import Fit, Placing, sustained

_MOST_NODES = 12
_MOST_MISSING = 5
_PROVED = 1e-9


def print_placing(found: Placing, notes: Sequence[str]) -> None:
    width = out().width
    placement = found.fit.placement
    lines = [*wrapped_all(_premises(found), width), ""]
    if placement is not None:
        lines += _table(found, placement, width)
        marks = (doubt(one.config, found.needs[one.need].group) for one in placement.placed)
        lines += [*wrapped_all([*_nodes(found, placement), *doubts(marks)], width, indent=2), ""]
    print_lines(lines + wrapped_all(_remarks(found, notes), width))


def print_placing_aside(found: Placing, notes: Sequence[str]) -> None:
    """Print notes that rows of CSV and Markdown cannot hold."""
    print_aside([*_premises(found), *_remarks(found, notes)])


def _premises(found: Placing) -> list[str]:
    there = ", ".join(map(_pool, found.pools))
    first, *others = premises(found.rankings[0].question, f"{share(found.rules.headroom)} of the capacity kept free")
    return [f"{there}; {first}", *others]


def _remarks(found: Placing, notes: Sequence[str]) -> list[str]:
    """Return the number of GPUs used or missing, with its certainty, and what was not counted."""
    said: list[str] = []
    if found.fit.placement is not None:
        said.append(_used(found, found.fit.placement))
    elif found.impossible:
        for need, outs in found.impossible:
            text = "; ".join(gpus_out(outs))
            said.append(f"{need.group.model}, {workload(need.group)}: no configuration within the limits; {text}")
    else:
        said.append(f"not everything fits{_lacking(found.fit)}")
    said += caveats_of(need.group for need in found.needs)
    said += [_safe(found), *notes]
    said += [f"the store has nothing about {gpu}: gpuscout run --gpu '{gpu}' …" for gpu in found.unknown]
    return [text for text in dict.fromkeys(said) if text]


def _pool(pool: Nodes) -> str:
    """Return text such as "16 x H100 (2 nodes of 8)" """
    return f"{pool.gpus:,} x {short_gpu(pool.gpu)} ({count(pool.nodes, 'node')} of {pool.gpus_per_node})"


def _table(found: Placing, placement: Placement, width: int) -> list[str]:
    shown = sorted(placement.placed, key=lambda one: one.need)
    groups = [found.needs[one.need].group for one in shown]
    names = bare_names(group.model for group in groups)
    columns = [
        FittedColumn("model", [names[group.model] for group in groups], least=12),
        FittedColumn("workload", [group.workload or f"{group.input_len:,}/{group.output_len:,}" for group in groups]),
        FittedColumn("req/s", [number(found.needs[one.need].rate) for one in shown], right=True),
        FittedColumn("configuration", [describe(p.config, g) for p, g in zip(shown, groups, strict=True)], least=14),
        FittedColumn("", [doubt(p.config, g) for p, g in zip(shown, groups, strict=True)]),
        FittedColumn("replicas", [f"{one.replicas:,}" for one in shown], right=True),
        FittedColumn("GPUs", [f"{one.replicas * one.config.num_gpus:,}" for one in shown], right=True),
        FittedColumn("all sustain (80 % range)", [_sustained(found, one.need) for one in shown], right=True, drop=1),
    ]
    return fitted(columns, width, indent=2)


def _sustained(found: Placing, need: int) -> str:
    rate, ends = sustained(found, need)
    return number(rate) if ends is None else f"{number(rate)} ({number(ends[0])}–{number(ends[1])})"


def _nodes(found: Placing, placement: Placement) -> Iterator[str]:
    """Yield text such as "2 nodes of 8 H100: Qwen3-32B chat x2, Qwen3-8B chat x1 (4 times)" """
    names = bare_names(need.group.model for need in found.needs)
    for one in placement.filled[:_MOST_NODES]:
        held = []
        for need, config, replicas in one.contents:
            group = found.needs[need].group
            times = f" ({replicas} times)" if replicas > 1 else ""
            held.append(f"{names[group.model]} {group.workload or ''} x{config.num_gpus}{times}".replace("  ", " "))
        each = f", {one.nodes_per_replica} for each replica" if one.nodes_per_replica > 1 else ""
        called = f" ({', '.join(one.names[:3])}{' …' if len(one.names) > 3 else ''})" if one.names else ""
        where = f"{count(one.nodes, 'node')} of {one.gpus_per_node} {short_gpu(one.gpu)}{called}{each}"
        yield f"{where}: {', '.join(held)}"
    if len(placement.filled) > _MOST_NODES:
        yield f"… {len(placement.filled) - _MOST_NODES} more kinds of nodes (--json has all)"


def _used(found: Placing, placement: Placement) -> str:
    there = sum(pool.gpus for pool in found.pools)
    text = f"{placement.gpus:,} of {count(there, 'GPU')} are used"
    unit = ""
    if found.rules.least == "usd":
        text += f", {number(placement.used)} USD per hour"
        unit = " USD per hour"
    if placement.gap <= _PROVED:
        return f"{text}: proved to be the least"
    return (
        f"{text}; at least {number(placement.bound) if unit else f'{placement.bound:,.0f}'}{unit} are needed "
        f"({share(placement.gap)} less): --time-limit 5min searches longer"
    )


def _lacking(fit: Fit) -> str:
    """Return text such as ": 4 more H100 (1 node of 8) would do, or 8 more L40S (1 node of 8)" """
    if not fit.missing:
        return f", and with up to {MOST_NODES:,} further nodes of each stored type no solution was found (--time-limit)"
    options = " or ".join(map(_more, fit.missing[:_MOST_MISSING]))
    return f": {options} would do"


def _more(missing: Missing) -> str:
    text = " and ".join(
        f"{one.gpus:,} more {short_gpu(one.gpu)} ({count(one.nodes, 'node')} of {one.gpus_per_node})"
        for one in missing.added
    )
    return text if missing.bound >= missing.gpus else f"{text}, or a little fewer (at least {missing.bound:,})"


def _safe(found: Placing) -> str:
    if found.impossible:
        return ""
    if found.safe is None:
        return "safe: not every model and workload meets the limits with a probability of 90 %, on any GPU"
    if found.safe.placement is not None:
        return f"safe: with a probability of 90 % it holds on {found.safe.placement.gpus:,} of these GPUs"
    return f"safe: to hold with a probability of 90 % not everything fits{_lacking(found.safe)}"
