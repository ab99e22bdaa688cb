"""Parts that all answers about sized deployments share: their groups, reasons, sums of money and documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from gpuscout.runner.cli.show.certainty import without_range
from gpuscout.runner.cli.show.document import picked
from gpuscout.runner.cli.show.fitted import short_gpu
from gpuscout.runner.cli.show.wording import (
    case_of,
    cause,
    configuration,
    measured_aside,
    not_shown,
    said_of,
    wrapped,
    wrapped_all,
)
from gpuscout.store.queries.sizing.capacity import Out
from gpuscout.store.ranking.question.asked import Kind, Question
from gpuscout.store.ranking.question.confidence import CAUTIOUS
from gpuscout.store.ranking.types import Group, RankedConfig, Ranking


class SizedGroup(Protocol):
    @property
    def group(self) -> Group: ...


class SizedPlan(Protocol):
    @property
    def config(self) -> RankedConfig: ...
    @property
    def requests_per_s_per_replica(self) -> float: ...


G = TypeVar("G", bound=SizedGroup)


def shown_groups(rankings: Sequence[Ranking], groups: Iterable[G]) -> tuple[list[G], list[str]]:
    """Return the groups of an answer that are shown and add up, and the note on the others."""
    groups = list(groups)
    aside = measured_aside(rankings[0].question, (one.group for one in groups))
    return [one for one in groups if case_of(one.group) not in aside], [not_shown(aside)] if aside else []


def answer_lines(
    width: int,
    premises: Iterable[str],
    blocks: Iterable[tuple[str, list[str], Iterable[str]]],
    remarks: Iterable[str],
) -> list[str]:
    """Return an answer folded to a width. A block is a group: its heading, the lines of its table, and notes."""
    lines = wrapped_all(premises, width)
    for heading, table, notes in blocks:
        lines += ["", *wrapped(heading, width), *table, *wrapped_all(notes, width, indent=2)]
    return [*lines, "", *wrapped_all(remarks, width)]


def gpus_out(outs: Iterable[Out]) -> Iterator[str]:
    """Yield the GPU types that cannot do it, those with the same reason together."""
    for reason, same in by_reason(outs):
        yield f"out: {', '.join(short_gpu(one.gpu) for one in same)}: {said_of(len(same), reason)}"


def by_reason(outs: Iterable[Out]) -> list[tuple[str, list[Out]]]:
    reasons: dict[str, list[Out]] = {}
    for one in outs:
        reasons.setdefault(cause(one.cause, one.slo), []).append(one)
    return sorted(reasons.items())


def with_range(figure: str, ends: tuple[float, float] | None, kind: Kind, show: Callable[[float], str]) -> str:
    """Return text such as "364,095 (298,000–452,000)"."""
    return without_range(figure, kind) if ends is None else f"{figure} ({show(ends[0])}–{show(ends[1])})"


def whole_dollars(usd: float | None) -> str:
    return "-" if usd is None else f"{usd:,.0f}"


def question_document(question: Question) -> dict[str, object]:
    """Return the question of a sizing as JSON types."""
    return {
        "slos": [str(slo) for slo in question.slos],
        "assumed_tail": question.assume_tail,
        "trust": str(question.trust),
        "confidence": question.confidence,
        "safe_confidence": max(CAUTIOUS, question.confidence),
    }


def plan_row(group: Group, plan: SizedPlan) -> dict[str, Any]:
    """Return the configuration of a plan and how far it is to be trusted."""
    return {
        "gpu": plan.config.gpu,
        "configuration": configuration(plan.config, group.input_len, group.output_len),
        **picked(plan.config, "backed", kind="kind_label", limits_met="likelihood"),
        **picked(plan, "requests_per_s_per_replica"),
    }


def outs_document(outs: Iterable[Out]) -> list[dict[str, object]]:
    return [{"gpu": one.gpu, "cause": one.cause.value, "slo": str(one.slo) if one.slo else None} for one in outs]
