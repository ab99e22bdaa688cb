"""Why configurations are not ranked, in lines for people: in short, in full, and where none is ranked at all."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from gpuscout.runner.cli.common import count
from gpuscout.runner.cli.show.wording import (
    GLUE,
    at_load,
    behind,
    cause,
    describe,
    figure,
    glued_limit,
    load,
    name_of,
    quantity,
    trust,
    workload,
    wrapped,
)
from gpuscout.store.ranking.types import Cause, Group, Kind, Loser, Losers, Operating, Ranking
from gpuscout.sweeps.slo import Slo


def nothing(ranking: Ranking, group: Group) -> str:
    """Why no configuration of this group is recommended, and what comes closest."""
    if group.unreachable:
        told = [
            f"no configuration meets {glued_limit(unmet.slo)}: closest is {describe(unmet.nearest, group)} with "
            f"{_came_to(ranking, unmet.slo, unmet.value, unmet.nearest)} {at_load(unmet.nearest)}"
            for unmet in group.unreachable
        ]
        return "; ".join(told)
    if group.closest:
        figures = ", ".join(
            f"{name_of(slo)}{GLUE}{_came_to(ranking, slo, value, group.closest)}"
            for slo, value in zip(ranking.question.slos, group.closest_values, strict=True)
        )
        return (
            f"no configuration meets all limits at once, though each can be met: closest is "
            f"{describe(group.closest, group)} with {figures} {at_load(group.closest)}"
        )
    told = [
        f"{losers.count:,} {_reason(losers)}, {'nearest is' if loser.ratio else 'such as'} "
        f"{describe(loser, group)}: {loser.detail}"
        for losers in group.losers
        for loser in losers.examples[:1]
    ]
    none = "no configuration can be ranked" if group.unranked else "no configuration runs"
    if any(losers.cause is Cause.MISSES_SLO for losers in group.losers):
        none = "no configuration is known to meet all limits"
    if any(losers.cause is Cause.NO_PERCENTILE for losers in group.losers):
        none = "no configuration meets a limit on a percentile"
    elif any(losers.cause is Cause.NOT_TRUSTED for losers in group.losers):
        none = f"no configuration can be trusted as asked (--trust {ranking.question.trust})"
    return f"{none}: " + "; ".join(told)


def _came_to(ranking: Ranking, slo: Slo, value: float | None, config: Operating) -> str:
    """What was reached of a limit: "79.4 ms (1.9 x the mean)" where a tail is assumed."""
    told = quantity(value, slo.column, exact=True)
    tail = ranking.question.assume_tail
    if slo.percentile is None or config.kind is not Kind.ESTIMATED or tail is None:
        return told
    return f"{told} ({tail:g} x the mean)"


def summary(ranking: Ranking, width: int) -> list[str]:
    """How many configurations were out for each reason, with the one that came nearest to being ranked."""
    counted: dict[str, int] = defaultdict(int)
    nearest: dict[str, tuple[float, str]] = {}
    for group in ranking.groups:
        for losers in group.losers:
            reason = _reason(losers)
            counted[reason] += losers.count
            for loser in losers.examples[:1]:
                told = f"{group.model} on {describe(loser, group)}: {loser.detail}"
                how_near = (loser.ratio if loser.ratio is not None else float("inf"), told)
                nearest[reason] = min(nearest.get(reason, how_near), how_near)
    rows = []
    for reason, number in sorted(counted.items(), key=lambda item: -item[1]):
        example = ""
        if reason in nearest:  # what is nearest may be of a group that is not shown
            ratio, told = nearest[reason]
            example = f"; {'nearest' if ratio < float('inf') else 'such as'} {told}"
        rows.append((number, reason + example))
    left_out: dict[str, list[Any]] = defaultdict(list)
    for exclusion in ranking.exclusions:
        left_out[exclusion.reason].append(exclusion)
    rows += [
        (sum(e.combinations for e in alike), f"{reason}; such as {_of(alike[0].model)}{alike[0].detail}")
        for reason, alike in left_out.items()
    ]
    if not rows:
        return []
    candidates = sum(group.candidates for group in ranking.groups)
    total = candidates + sum(counted.values())
    lines = [f"{candidates:,} of {count(total, 'configuration')} qualify; why others are out (--explain lists all):"]
    digits = max(len(f"{number:,}") for number, _ in rows)
    for number, text in rows:
        first, *rest = wrapped(text, width, indent=4 + digits)
        lines += [f"  {number:>{digits},}  {first.lstrip()}", *rest]
    return lines


def explained(ranking: Ranking, width: int) -> list[str]:
    """Every configuration: the ranked with how far they are behind, the others with what removed them."""
    aim = ranking.question.aim
    lines = []
    for group in ranking.groups:
        lines.append(f"{group.model}, {workload(group)}: {count(group.candidates, 'configuration')} ranked")
        for config in group.configs:
            told = f"{config.place:>4}. {describe(config, group)}: {figure(config.objective)}{GLUE}{aim.unit}"
            told += f" at c={load(config)}"
            told += f" ({behind(ranking, config)})" if config.place > 1 else ""
            told += f"; {config.told_kind}: {trust(config)}"
            told += "".join(
                f"; {opinion.engine} says {figure(opinion.objective) if opinion.objective is not None else 'no'}"
                for opinion in config.opinions[1:]
            )
            lines += wrapped(told, width, indent=2)
        for losers in group.losers:
            reason = _reason(losers)
            lines.append(f"  {reason}: {losers.count:,}")
            for loser in losers.examples:
                lines += wrapped(f"{describe(loser, group)}: {_in_full(loser)}", width, indent=4)
        lines.append("")
    if ranking.exclusions:
        lines.append("left out of the sweep, because no engine could run it:")
        for exclusion in ranking.exclusions:
            told = f"{exclusion.combinations:,} {exclusion.reason}: {_of(exclusion.model)}{exclusion.detail}"
            lines += wrapped(told, width, indent=2)
    return lines


def _reason(losers: Losers) -> str:
    return cause(losers.cause, losers.slo) if losers.slo is None else f"misses {glued_limit(losers.slo)}"


def _in_full(loser: Loser) -> str:
    return f"{loser.detail} ({loser.note})" if loser.note else loser.detail


def _of(model: str | None) -> str:
    return f"{model}: " if model else ""
