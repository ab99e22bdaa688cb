"""Reasons why configurations are or are not ranked, in lines for people: all, or the closest where none is ranked."""

from __future__ import annotations

from gpuscout.runner.cli.common import count
from gpuscout.runner.cli.show.certainty import met, ranged, trust
from gpuscout.runner.cli.show.wording import (
    GLUE,
    at_load,
    behind,
    cause,
    counted,
    describe,
    figure,
    glued_limit,
    load,
    name_of,
    quantity,
    share,
    wrapped,
)
from gpuscout.store.ranking.question.asked import Kind
from gpuscout.store.ranking.types import Cause, Group, Loser, Losers, Operating, Ranking
from gpuscout.sweeps.slo import Slo


def nothing(ranking: Ranking, group: Group) -> str:
    """Return the reason why no configuration of this group is recommended, and the nearest ones."""
    if group.unreachable:
        texts = [
            f"no configuration meets {glued_limit(unmet.slo)}: closest is {describe(unmet.nearest, group)} with "
            f"{_came_to(ranking, unmet.slo, unmet.value, unmet.nearest)} {at_load(unmet.nearest)}"
            for unmet in group.unreachable
        ]
        return "; ".join(texts)
    if group.closest:
        figures = ", ".join(
            f"{name_of(slo)}{GLUE}{_came_to(ranking, slo, value, group.closest)}"
            for slo, value in zip(ranking.question.slos, group.closest_values, strict=True)
        )
        return (
            f"no configuration meets all limits at once, though each can be met: closest is "
            f"{describe(group.closest, group)} with {figures} {at_load(group.closest)}"
        )
    texts = [
        f"{counted(losers.count, _reason(losers))}, {'nearest is' if loser.ratio else 'such as'} "
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
    return f"{none}: " + "; ".join(texts)


def _came_to(ranking: Ranking, slo: Slo, value: float | None, config: Operating) -> str:
    """Return the value reached for a limit: "79.4 ms (1.9 x the mean)" where a tail is assumed."""
    told = quantity(value, slo.column, exact=True)
    tail = ranking.question.assume_tail
    if slo.percentile is None or config.kind is not Kind.ESTIMATED or tail is None:
        return told
    return f"{told} ({tail:g} x the mean)"


def explained(ranking: Ranking, width: int) -> list[str]:
    """Return every configuration: the ranked with how far they are behind, the others with what removed them."""
    aim = ranking.question.aim
    lines = []
    for group in ranking.groups:
        lines.append(f"{group.model}: {count(group.candidates, 'configuration')} ranked")
        for config in group.configs:
            value = ranged(config.objective, config.objective_range, config.kind)
            text = f"{config.place:>4}. {describe(config, group)}: {value}{GLUE}{aim.unit} at c={load(config)}"
            text += f" ({behind(ranking, config)})" if config.place > 1 else ""
            text += f"; {config.kind_label}: {trust(config)}"
            text += f"; limits met: {met(config)}" if config.chances else ""
            text += f"; {server}" if (server := _server(config)) else ""
            text += f"; deploy cannot write it: {config.cannot_start}" if config.cannot_start else ""
            text += "".join(
                f"; {opinion.engine} says {figure(opinion.objective) if opinion.objective is not None else 'no'}"
                for opinion in config.opinions[1:]
            )
            lines += wrapped(text, width, indent=2)
        for losers in group.losers:
            reason = _reason(losers)
            lines.append(f"  {reason}: {losers.count:,}")
            for loser in losers.examples:
                lines += wrapped(f"{describe(loser, group)}: {_in_full(loser)}", width, indent=4)
        lines.append("")
    if ranking.exclusions:
        lines.append("left out of the sweep, because no engine could run it:")
        for exclusion in ranking.exclusions:
            text = f"{exclusion.combinations:,} {exclusion.reason}: {_of(exclusion.model)}{exclusion.detail}"
            lines += wrapped(text, width, indent=2)
    return lines


def _server(config: Operating) -> str:
    """Return the state of a simulated server: "3.2 requests wait, KV cache 41 % full, 0.4 % preempted"."""
    texts = []
    if config.requests_waiting is not None:
        texts.append(f"{figure(config.requests_waiting)} requests wait")
    if config.kv_cache_usage is not None:
        texts.append(f"KV cache {share(config.kv_cache_usage)} full")
    if config.preempted_share is not None:
        texts.append(f"{share(config.preempted_share) if config.preempted_share else 'none'} preempted")
    if config.goodput_per_s is not None:
        texts.append(f"goodput {figure(config.goodput_per_s)}/s")
    return ", ".join(texts)


def _reason(losers: Losers) -> str:
    return cause(losers.cause, losers.slo) if losers.slo is None else f"misses {glued_limit(losers.slo)}"


def _in_full(loser: Loser) -> str:
    return f"{loser.detail} ({loser.note})" if loser.note else loser.detail


def _of(model: str | None) -> str:
    return f"{model}: " if model else ""
