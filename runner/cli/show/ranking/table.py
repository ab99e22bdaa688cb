"""A ranking as a table: one line for each answer, a matrix of several workloads, and the notes around them.

Ten models fit into 24 lines of 80 columns: what there is to say of a row is a mark, of which the last line says what it
stands for; sentences are for questions about one or two answers, and for `--explain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from gpuscout.runner.cli.common import out
from gpuscout.runner.cli.show.certainty import met, ranged
from gpuscout.runner.cli.show.fitted import LAST_RESORT, FittedColumn, bare_names, fitted, short_gpu
from gpuscout.runner.cli.show.prices import price_notes
from gpuscout.runner.cli.show.ranking.document import ranking_document
from gpuscout.runner.cli.show.ranking.explained import explained, nothing
from gpuscout.runner.cli.show.ranking.notes import (
    DETAILED,
    UNBACKED,
    after,
    before,
    details,
    is_old,
    legend,
    marks,
    one_of,
    print_notes,
)
from gpuscout.runner.cli.show.wording import (
    CAUSES,
    GLUE,
    LATENCIES,
    behind,
    case_of,
    caveats_of,
    describe,
    figure,
    glued_limit,
    load,
    measured_aside,
    name_of,
    not_shown,
    quantity,
    unglued,
    workload,
    wrapped,
    wrapped_all,
)
from gpuscout.store.ranking.measures import MEASURES
from gpuscout.store.ranking.question.asked import Kind
from gpuscout.store.ranking.rows import shown
from gpuscout.store.ranking.types import Cause, Group, RankedConfig, Ranking
from gpuscout.sweeps.slo import Slo

__all__ = ["TIES", "explanation", "print_notes", "print_ranking", "ranking_document"]

TIES = 4
"""GPU types that are looked at for ties with the best."""
# Objectives that have no column of their own otherwise.
_VALUES = {"cost": "USD/Mtok", "cost-per-hour": "USD/h", "energy": "kWh/Mtok"}
# Those that have one.
_OBJECTIVES = {
    "ttft_ms": "ttft",
    "itl_ms": "itl",
    "e2e_s": "e2e",
    "output_tokens_per_s": "throughput",
    "tokens_per_s_per_gpu": "throughput-per-gpu",
}
# Configurations whose prices an explanation tells.
_PRICED = 6
_LEAST_MODEL, _LEAST_GPU = 14, 16
_NOTHING = "none"


def print_ranking(ranking: Ranking, *, top: int = 1) -> None:
    """Print `top` configurations of every model and workload.

    Measured runs of other lengths than sweeps have are told by their number unless the question names them: public ones
    would bury the answer.
    """
    for line in ranking_lines(ranking, out().width, top=top):
        print(line)


def ranking_lines(ranking: Ranking, width: int, *, top: int = 1) -> list[str]:
    """Return the output of `print_ranking` in a terminal of this width."""
    aside = measured_aside(ranking.question, ranking.groups)
    groups = [group for group in ranking.groups if case_of(group) not in aside]
    ranking = replace(ranking, groups=tuple(groups))
    lines = [*wrapped_all(before(ranking, groups, top=top), width)]
    if aside:
        lines += wrapped_all([not_shown(aside)], width)
    blocks = [list(same) for _, same in groupby(groups, key=lambda group: (group.input_len, group.output_len))]
    if len(blocks) > 1 and top == 1 and (matrix := _matrix(ranking, groups, width)):
        lines += matrix
        shown_rows, with_load = [[*group.configs[:1]] for group in groups], False
    else:
        shown_rows, with_load = [shown(group, top) for group in groups], True
        for block in blocks:
            lines += [*wrapped_all([f"{workload(block[0])}: {_objective(ranking)}"], width)]
            lines += _block(ranking, block, top, width)
            if len(groups) <= DETAILED:
                for group in block:
                    lines += wrapped_all(details(ranking, group), width, indent=2)
    rows = [marks(ranking, group, config) for group, own in zip(groups, shown_rows, strict=True) for config in own]
    configs = [config for own in shown_rows for config in own] if with_load else []
    if not with_load:
        rows = [_matrix_marks(ranking, group) for group in groups]
        if old := [
            short_gpu(gpu) for gpu in dict.fromkeys(g.best.gpu for g in groups if g.best) if is_old(ranking, gpu)
        ]:
            lines += wrapped_all([f"prices over 180 days old: {', '.join(old)}"], width)
    if (used := legend(ranking, rows, configs)) is not None:
        lines += wrapped(used, width, indent=0)
    if any(" spread " in line for line in lines):
        lines += wrapped_all(["spread: the lowest and the highest opinion of the same configuration"], width)
    lines += wrapped_all(after(ranking, groups), width)
    if len(groups) > DETAILED and any(not group.configs for group in groups):
        lines += wrapped_all([_why_none(groups)], width)
    return unglued(lines)


def _why_none(groups: Sequence[Group]) -> str:
    """Return the meaning of "none" in a table of many answers: the reason itself where nothing has percentiles."""
    causes = {losers.cause for group in groups if not group.configs for losers in group.losers}
    if Cause.NO_PERCENTILE in causes and Cause.MISSES_SLO not in causes:
        return f"{_NOTHING}: {CAUSES[Cause.NO_PERCENTILE]}"
    return f"{_NOTHING}: no configuration qualifies; {one_of(groups)} says what comes closest"


def explanation(ranking: Ranking, width: int) -> list[str]:
    """Return the full account of one model: all configurations, reasons for exclusion, prices and sellers."""
    backed = any(group.is_backed for group in ranking.groups)
    lines = [] if backed else wrapped_all([UNBACKED], width)
    lines += wrapped_all((f"# {caveat}" for caveat in caveats_of(ranking.groups)), width)
    lines += [line for group in ranking.groups for line in _explained_group(ranking, group, width)]
    lines += wrapped_all(price_notes(ranking, top=_PRICED), width)
    return unglued(lines)


def _explained_group(ranking: Ranking, group: Group, width: int) -> Iterator[str]:
    yield from wrapped(f"{workload(group)}: {_objective(ranking)}", width, indent=0)
    yield from _block(ranking, [group], 1, width)
    for told in details(ranking, group):
        yield from wrapped(told, width, indent=2)
    yield from explained(replace(ranking, groups=(group,)), width)


def _objective(ranking: Ranking) -> str:
    limits = ", ".join(glued_limit(slo) for slo in ranking.question.slos)
    return ranking.question.aim.label + (f", {limits}" if limits else "")


# --- a line an answer --------------------------------------------------------------------------------------------


def _block(ranking: Ranking, groups: Sequence[Group], top: int, width: int) -> list[str]:
    """Return the configurations of all models of one workload."""
    names = bare_names(group.model for group in groups)
    rows: list[tuple[str, Group, RankedConfig | None]] = []
    for group in groups:
        best = shown(group, top)
        rows += [(names[group.model] if place == 0 else "", group, config) for place, config in enumerate(best)]
        if not best:
            rows.append((names[group.model], group, None))
    if all(config is None for _, _, config in rows):
        # Of one or two answers the details say it; of more, a line each does.
        return [] if len(groups) <= DETAILED else [line for group in groups for line in _none(ranking, group, width)]
    cells = {name: _cells(ranking, rows, name) for name in _columns(ranking)}
    drops = {name: place for place, name in enumerate(_droppable(ranking), 1)}
    # Whether limits are met says more than by how much, or how far a row is behind.
    tails = [slo.name for slo in ranking.question.slos if slo.percentile is not None]
    drops |= {name: LAST_RESORT + place for place, name in enumerate(tails, 1)}
    columns = [
        FittedColumn("model", [name for name, _, _ in rows], least=_LEAST_MODEL),
        FittedColumn(
            "best",
            [describe(config, group) if config else _NOTHING for _, group, config in rows],
            least=_LEAST_GPU,
        ),
        FittedColumn("", [marks(ranking, group, config) if config else "" for _, group, config in rows]),
    ]
    columns += [
        FittedColumn(heading, cells[name], right=True, drop=drops.get(name))
        for name, heading in _columns(ranking).items()
    ]
    if top > 1:
        columns.append(
            FittedColumn(
                "behind",
                [_behind(ranking, group, config) for _, group, config in rows],
                right=True,
                drop=LAST_RESORT,
            )
        )
    return fitted(columns, width, indent=2)


def _none(ranking: Ranking, group: Group, width: int) -> list[str]:
    text = f"{group.model}: {nothing(ranking, group)}".replace(GLUE, " ")
    return [f"  {text}" if len(text) <= width - 2 else f"  {text[: width - 3]}…"]


def _behind(ranking: Ranking, group: Group, config: RankedConfig | None) -> str:
    if config is None:
        return ""
    return "best" if config is group.best or config == group.best else behind(ranking, config)


def _columns(ranking: Ranking) -> dict[str, str]:
    """Return the figures to show, with their headings: E2E and rate only where they were asked for."""
    question, aim = ranking.question, ranking.question.aim
    names = [*dict(aim.weights), *question.also]
    asked = {*(MEASURES[name].column for name in names), *(slo.column for slo in question.slos)}
    columns = {"score": "score (80 % range)"} if aim.is_weighted else {}
    columns |= {name: f"{_VALUES[name]} (80 % range)" for name in names if name in _VALUES}
    if any(config.spread for group in ranking.groups for config in group.best_per_gpu):
        columns["spread"] = "spread"
    columns["concurrency"] = "c"
    columns |= {name: head for name, head in LATENCIES.items() if name != "e2e_s" or name in asked}
    columns |= {slo.name: name_of(slo) for slo in question.slos if slo.percentile is not None}
    if "requests_per_s" in asked:
        columns["requests_per_s"] = "req/s"
    columns |= {"output_tokens_per_s": "tok/s", "tokens_per_s_per_gpu": "tok/s/GPU"}
    columns |= {name: f"{columns[name]} (80 % range)" for name, objective in _OBJECTIVES.items() if objective in names}
    return columns | ({"met": "limits met"} if question.slos else {})


def _droppable(ranking: Ranking) -> list[str]:
    """Return the columns a narrow terminal may drop, the first one first; none that ranks or says how surely."""
    question = ranking.question
    names_asked = (*dict(question.aim.weights), *question.also)
    ranking_by = {MEASURES[name].column for name in names_asked}
    limited = {slo.column for slo in question.slos if slo.percentile is None}
    kept = {"tokens_per_s_per_gpu"} if "throughput-per-gpu" in names_asked else set()
    kept |= {column for column in ranking_by if column != "output_tokens_per_s" or "throughput" in names_asked}
    names = ["tokens_per_s_per_gpu", "spread", "output_tokens_per_s", "ttft_ms", "itl_ms", "e2e_s", "requests_per_s"]
    return sorted((name for name in names if name not in kept), key=lambda name: name in limited)


def _cells(ranking: Ranking, rows: Sequence[tuple[str, Group, RankedConfig | None]], name: str) -> list[str]:
    return [_cell(ranking, config, name) if config is not None else "" for _, _, config in rows]


def _cell(ranking: Ranking, config: RankedConfig, name: str) -> str:
    question = ranking.question
    asked = (*dict(question.aim.weights), *question.also)
    if name == "score":
        return ranged(config.objective, config.objective_range, config.kind)
    if name in _VALUES:
        return ranged(config.values[name], config.ranges.get(name), config.kind)
    if name == "met":
        return met(config)
    if name == "spread":
        return "–".join(figure(value) for value in config.spread or ())
    if name == "concurrency":
        return load(config)
    for slo in question.slos:
        if slo.name == name and slo.percentile is not None:
            return _percentile(config, slo)
    value = config.counted("output_tokens_per_s" if name == "tokens_per_s_per_gpu" else name)
    if name == "tokens_per_s_per_gpu" and value is not None:
        value /= config.num_gpus
    objective = _OBJECTIVES.get(name)
    if objective in asked:
        return ranged(value, config.ranges.get(objective), config.kind)
    return quantity(value, name) if name in LATENCIES else figure(value)


def _percentile(config: RankedConfig, slo: Slo) -> str:
    assumed = "" if config.assumed_tail is None else "^"
    return f"{quantity(config.percentiles.get(slo.name), slo.column)}{assumed}"


# --- several workloads -------------------------------------------------------------------------------------------


def _matrix(ranking: Ranking, groups: Sequence[Group], width: int) -> list[str]:
    """Return a row a model, a column a workload: what is best there, and its figure; empty: it does not fit the width.

    Where there is no room for both, the figure gives way to its range, then to a shorter one.
    """
    lengths = list(dict.fromkeys((group.input_len, group.output_len) for group in groups))
    names = bare_names(group.model for group in groups)
    at = {(group.model, (group.input_len, group.output_len)): group for group in groups}
    for cell, gap, what in ((_full_cell, 2, ""), (_range_cell, 2, ", 80 % ranges"), (_tight_cell, 1, ", 80 % ranges")):
        columns = [FittedColumn("model", list(names.values()), least=_LEAST_MODEL)]
        for pair in lengths:
            mine = [at.get((model, pair)) for model in names]
            heading = next(_short_workload(group) for group in mine if group is not None)
            columns.append(FittedColumn(heading, [cell(ranking, group) if group else "" for group in mine]))
        needed = min(columns[0].width, _LEAST_MODEL) + sum(column.width for column in columns[1:])
        if needed + gap * len(lengths) <= width:
            return [*wrapped(f"{_objective(ranking)}{what}", width, indent=0), *fitted(columns, width)]
    return []


def _short_workload(group: Group) -> str:
    return group.workload or f"{group.input_len:,} in / {group.output_len:,} out"


def _full_cell(ranking: Ranking, group: Group) -> str:
    """Return text such as "H200 x2 bf16 2.69 (2.12–3.41) <" """
    best = group.best
    value = "" if best is None else ranged(best.objective, best.objective_range, best.kind)
    return _matrix_cell(ranking, group, value, " ", precision=True)


def _range_cell(ranking: Ranking, group: Group) -> str:
    """Return text such as "H200 x2 2.12–3.41 <" """
    return _matrix_cell(ranking, group, _range(group.best, figure), " ")


def _tight_cell(ranking: Ranking, group: Group) -> str:
    """Return text such as "H200 x2 2.1–3.4<" """
    return _matrix_cell(
        ranking,
        group,
        _range(group.best, lambda value: f"{value:,.{0 if value >= 10 else 1 if value >= 1 else 2}f}"),
        "",
    )


def _range(best: RankedConfig | None, show: Callable[[float], str]) -> str:
    if best is None:
        return ""
    if best.objective_range is None:
        return f"{show(best.objective)} {'measured' if best.kind is Kind.MEASURED else 'unknown'}"
    return "–".join(map(show, best.objective_range))


def _matrix_cell(ranking: Ranking, group: Group, value: str, gap: str, *, precision: bool = False) -> str:
    """Return a configuration with its figure and marks; how old prices are is told once for all."""
    best = group.best
    if best is None:
        return _NOTHING
    name = f"{short_gpu(best.gpu)} x{best.num_gpus}" + (f" {best.precision}" if precision else "")
    return f"{name} {value}{gap}{_matrix_marks(ranking, group)}".strip()


def _matrix_marks(ranking: Ranking, group: Group) -> str:
    return marks(ranking, group, group.best).replace("$", "") if group.best else ""
