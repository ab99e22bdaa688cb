"""How a ranking is shown to people: tables that fit the terminal, what rows rest on, and notes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from gpuscout.runner.cli.common import count, err, out
from gpuscout.runner.cli.show.prices import price_notes
from gpuscout.runner.cli.show.ranking_document import ranking_document
from gpuscout.runner.cli.show.ranking_explained import explained, nothing, summary
from gpuscout.runner.cli.show.wording import (
    GLUE,
    LATENCIES,
    behind,
    case_of,
    default_limit,
    describe,
    figure,
    glued_limit,
    guessed,
    load,
    measured_aside,
    name_of,
    not_shown,
    quantity,
    shortened,
    tie,
    trust,
    workload,
    wrapped,
)
from gpuscout.store.ranking.confidence import EXPECTED
from gpuscout.store.ranking.rows import listed
from gpuscout.store.ranking.types import MEASURES, Group, Kind, RankedConfig, Ranking
from gpuscout.sweeps.slo import Slo

__all__ = ["print_notes", "print_ranking", "ranking_document"]

# Objectives that have no column of their own otherwise.
_VALUES = {"cost": "USD/Mtok", "cost-per-hour": "USD/h", "energy": "kWh/Mtok"}
_SHORTEST_MODEL = 14


def print_ranking(ranking: Ranking, *, top: int = 1, explain: bool = False) -> None:
    """Print, for each workload, `top` configurations of every model, and why others were out.

    With `explain` every configuration is listed that the ranking holds. Measured runs of other lengths than sweeps have
    are told by their number unless the question names them: public ones would bury the answer.
    """
    width = out().width
    aside = set() if explain else measured_aside(ranking.question, ranking.groups)
    shown = tuple(group for group in ranking.groups if case_of(group) not in aside)
    ranking = replace(ranking, groups=shown)
    lines: list[str] = []
    for _, same in groupby(ranking.groups, key=lambda group: (group.input_len, group.output_len)):
        groups = list(same)
        lines += [*_heading(ranking, groups[0], width), *_Block(ranking, groups, top, width).lines(), ""]
    if aside:
        lines += wrapped(not_shown(aside), width, indent=0)
    lines += _notes(ranking, top, width)
    lines += explained(ranking, width) if explain else summary(ranking, width)
    for line in lines:
        print(line.replace(GLUE, " ").rstrip())


# --- tables ------------------------------------------------------------------------------------------------------


def _heading(ranking: Ranking, group: Group, width: int) -> list[str]:
    limits = ", ".join(glued_limit(slo) for slo in ranking.question.slos)
    objective = f"objective: {ranking.question.aim.label}" + (f", {limits}" if limits else "")
    confidence = ranking.question.confidence
    objective += f", confidence {confidence:g}" if confidence > EXPECTED else ""
    about = workload(group)
    if len(about) + 3 + len(objective) <= width:
        return [f"{about}   {objective}"]
    return [about, *wrapped(objective, width, indent=2)]


class _Block:
    """The configurations of all models of one workload.

    One line a configuration, with its model, if that fits. Else what it rests on goes to a line below it; else the
    model to a line above, and the runner-up below.
    """

    def __init__(self, ranking: Ranking, groups: Sequence[Group], top: int, width: int) -> None:
        self._ranking, self._top, self._width = ranking, top, width
        self._groups = [(group, _in_order(group, top)) for group in groups]
        self._header: list[str] = []
        self._cells: dict[int, list[str]] = {}
        columns = _columns(ranking)
        self._fill(columns)
        for name in _unasked(ranking):
            # A runner-up may go below.
            if self._total(list(self._cells.values()), extra=0, last=top > 1) + 2 <= width or name not in columns:
                continue
            del columns[name]
            self._fill(columns)
        longest = max((len(group.model) for group in groups), default=0)
        name_width = 2 + min(longest, _SHORTEST_MODEL)
        self._trust_below = _trust_tells(ranking)
        if self._trust_below and self._total([*self._with_trust().values()], extra=2) + name_width <= width:
            self._cells, self._trust_below = self._with_trust(), False
            self._header = [*self._header, "kind", "trust"]
        self._widths = [max(len(line[i]) for line in [self._header, *self._cells.values()]) for i in self._places]
        self._one_line = sum(self._widths) + 2 * len(self._widths) + name_width <= width
        if not self._one_line and top == 1:
            self._widths[-1] = 0  # runners-up get a line of their own
        self._name_width = min(longest, width - sum(self._widths) - 2 * len(self._widths) - 2) if self._one_line else 0

    def _fill(self, columns: Mapping[str, str]) -> None:
        """The header and the cells of every row with these columns."""
        self._header = ["best", *columns.values(), "behind" if self._top > 1 else "runner-up"]
        self._cells = {
            id(config): [
                describe(config, group) + (f"{GLUE}?" if guessed(config, group) else ""),
                *(_cell(self._ranking, config, name) for name in columns),
                self._last(group, rows, place),
            ]
            for group, rows in self._groups
            for place, config in enumerate(rows[: self._top])
        }
        self._figures = range(1, 1 + len(columns))

    @property
    def _places(self) -> range:
        return range(len(self._header))

    def _with_trust(self) -> dict[int, list[str]]:
        """Every row with two more cells."""
        return {
            id(config): [*self._cells[id(config)], config.told_kind, trust(config)]
            for _, rows in self._groups
            for config in rows[: self._top]
        }

    def _total(self, cells: Sequence[Sequence[str]], *, extra: int, last: bool = True) -> int:
        """How wide these rows are, with so many of the extra columns, with or without the last."""
        header = [*self._header, "kind", "trust"][: len(self._header) + extra]
        return sum(max(len(line[i]) for line in [header, *cells]) + 2 for i in range(len(header) - (not last)))

    def _last(self, group: Group, rows: Sequence[RankedConfig], place: int) -> str:
        """How far a row is behind the best; where only that is listed, who is next."""
        if self._top > 1:
            return behind(self._ranking, rows[place]) if place else "best"
        return f"{describe(rows[1], group)} ({behind(self._ranking, rows[1])})" if len(rows) > 1 else ""

    def lines(self) -> list[str]:
        found = []
        if self._cells:
            found.append(f"  {'model' if self._one_line else '':{self._name_width}}  {self._row(self._header)}")
        for group, rows in self._groups:
            if not self._one_line or not rows:
                found.append(f"  {group.model}")
            if not rows:
                found += wrapped(nothing(self._ranking, group), self._width, indent=4)
            for place, config in enumerate(rows[: self._top]):
                cells = self._cells[id(config)]
                name = shortened(group.model, self._name_width) if self._one_line and place == 0 else ""
                found.append(f"  {name:{self._name_width}}  {self._row(cells)}")
                if self._trust_below:
                    told = f"{config.told_kind}: {trust(config)}"
                    found += wrapped(told, self._width, indent=self._name_width + 6)
                if not self._one_line and self._top == 1 and cells[-1]:
                    found += wrapped(f"runner-up: {cells[-1]}", self._width, indent=6)
            for caveat in group.caveats:
                found += wrapped(f"? {caveat}", self._width, indent=self._name_width + 6)
            for found_tie in group.ties[:1]:
                found += wrapped(tie(found_tie, group), self._width, indent=self._name_width + 6)
        return found

    def _row(self, cells: Sequence[str]) -> str:
        """Figures to the right, words to the left; a width of 0 leaves a cell out."""
        return "  ".join(
            f"{cell:>{width}}" if place in self._figures else f"{cell:<{width}}"
            for place, (cell, width) in enumerate(zip(cells, self._widths, strict=True))
            if width
        )


def _in_order(group: Group, top: int) -> list[RankedConfig]:
    """The rows to choose from, those that are shown by their places."""
    rows = listed(group)
    return [*sorted(rows[:top], key=lambda config: config.place), *rows[top:]]


def _trust_tells(ranking: Ranking) -> bool:
    """Whether rows differ in what they rest on: otherwise a note says it of all."""
    shown = [config for group in ranking.groups for config in (*group.configs, *group.best_per_gpu)]
    return any(config.kind is Kind.MEASURED or config.backing is not None for config in shown)


def _columns(ranking: Ranking) -> dict[str, str]:
    """The figures to show, with their headings: E2E and rate only where they were asked for."""
    question, aim = ranking.question, ranking.question.aim
    names = [*dict(aim.weights), *question.also]
    asked = {*(MEASURES[name].column for name in names), *(slo.column for slo in question.slos)}
    columns = {"score": "score"} if aim.is_weighted else {}
    columns |= {name: _VALUES[name] for name in names if name in _VALUES}
    if any(config.spread for group in ranking.groups for config in group.best_per_gpu):
        columns["spread"] = "spread"
    columns["concurrency"] = "c"
    columns |= {name: head for name, head in LATENCIES.items() if name != "e2e_s" or name in asked}
    columns |= {slo.name: name_of(slo) for slo in question.slos if slo.percentile is not None}
    if "requests_per_s" in asked:
        columns["requests_per_s"] = "req/s"
    return columns | {"output_tokens_per_s": "tok/s", "tokens_per_s_per_gpu": "tok/s/GPU"}


def _unasked(ranking: Ranking) -> list[str]:
    """Columns that a narrow terminal may do without, the first one first."""
    question = ranking.question
    asked = {MEASURES[name].column for name in (*dict(question.aim.weights), *question.also)}
    asked |= {slo.column for slo in question.slos if slo.percentile is None}
    names = [*dict(question.aim.weights), *question.also]
    kept = {"tokens_per_s_per_gpu"} if "throughput-per-gpu" in names else set()
    return [name for name in ("tokens_per_s_per_gpu", "ttft_ms", "itl_ms") if name not in asked | kept]


def _cell(ranking: Ranking, config: RankedConfig, name: str) -> str:
    if name in LATENCIES:
        return quantity(config.counted(name), name)
    if name == "score":
        return f"{config.objective:.2f}"
    if name in _VALUES:
        return figure(config.values[name])
    if name == "spread":
        return "-".join(figure(value) for value in config.spread or ())
    if name == "concurrency":
        return load(config)
    if name == "tokens_per_s_per_gpu":
        tokens = config.counted("output_tokens_per_s")
        return figure(None if tokens is None else tokens / config.num_gpus)
    for slo in ranking.question.slos:
        if slo.name == name and slo.percentile is not None:
            return _percentile(config, slo)
    return figure(config.counted(name))


def _percentile(config: RankedConfig, slo: Slo) -> str:
    assumed = "" if config.assumed_tail is None else "^"
    return f"{quantity(config.percentiles.get(slo.name), slo.column)}{assumed}"


# --- notes -------------------------------------------------------------------------------------------------------


def print_notes(ranking: Ranking, *, top: int | None) -> None:
    """What rows of CSV and Markdown cannot tell, on standard error: who is not among them, why, and prices."""
    width = err().width
    aside = measured_aside(ranking.question, ranking.groups)
    for group in ranking.groups:
        if not listed(group) and case_of(group) not in aside:
            told = f"{group.model}, {workload(group)}: {nothing(ranking, group)}"
            _say(told, width)
    if ranking.missing_tasks:
        _say(_unfinished(ranking), width)
    for note in price_notes(ranking, top=top or 1):
        _say(note, width)


def _say(note: str, width: int) -> None:
    for line in wrapped(note, width, indent=0):
        print(line.replace(GLUE, " ").rstrip(), file=sys.stderr)


def _unfinished(ranking: Ranking) -> str:
    return f"{ranking.sweep} is unfinished: {count(ranking.missing_tasks, 'task')} may still change this"


def _notes(ranking: Ranking, top: int, width: int) -> list[str]:
    shown = [config for group in ranking.groups for config in (*group.configs[:1], *group.best_per_gpu)]
    return [line for note in _told(ranking, shown, top) for line in wrapped(note, width, indent=0)]


def _told(ranking: Ranking, shown: Sequence[RankedConfig], top: int) -> Iterable[str]:
    question = ranking.question
    if ranking.missing_tasks:
        yield _unfinished(ranking)
    if question.default_slo:
        yield default_limit(question)
    if any(config.queued for config in shown):
        yield "* more requests in flight than the KV cache holds: some wait, which is in TTFT; --slo ttft<=… limits it"
    if any(config.interpolated for config in shown):
        yield "~ at a limit, interpolated between the stored concurrencies (--no-interpolate: stored ones only)"
    if any(config.assumed_tail is not None for config in shown):
        yield f"^ not known of an estimate: assumed to be {question.assume_tail:g} x the mean (--assume-tail)"
    if shown and "energy" in (*question.also, *(name for name, _ in question.weights)):
        yield "energy: an upper bound, as if every GPU drew its full TDP"
    if any(config.at_confidence for config in shown):
        yield f"figures of estimates are those that hold with a probability of {question.confidence:.0%}"
    if shown and not _trust_tells(ranking):
        lacking = question.confidence > EXPECTED and not any(config.at_confidence for config in shown)
        yield (
            "all of these are estimates, with no measured runs near them"
            + ("; no intervals are known either" if lacking else "")
        )
    others = sorted({engine for group in ranking.groups for engine in group.other_engines})
    if others:
        shown_of = ", ".join(sorted({group.engine for group in ranking.groups}))
        yield f"estimates of {shown_of}; the store also has some of {', '.join(others)} (--engine NAME)"
    if ranking.implausible_runs:
        runs = count(ranking.implausible_runs, "measured run")
        yield f"left out: {runs} better than the hardware can be (gpuscout query --implausible has the causes)"
    if ranking.set_aside_runs:
        runs = count(ranking.set_aside_runs, "measured run")
        yield f"left out: {runs} drafted, cached, superseded or of low trust (gpuscout query --set-aside says which)"
    if any(config.spread for config in shown):
        yield "spread: the lowest and the highest opinion of the same configuration"
    yield from price_notes(ranking, top=top)
