"""Notes around the rows of a ranking: marks, what is unproven, ties, sellers, prices, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from gpuscout.runner.cli.common import count
from gpuscout.runner.cli.show.certainty import MEASURE_FIRST, benchmark, chances, ranged, tie, trust, unproven
from gpuscout.runner.cli.show.fitted import bare_names, short_gpu
from gpuscout.runner.cli.show.prices import decisions, price_notes, prices_in_short
from gpuscout.runner.cli.show.ranking.explained import nothing
from gpuscout.runner.cli.show.site import site, site_of
from gpuscout.runner.cli.show.wording import (
    DOUBTS,
    GLUE,
    case_of,
    caveats_of,
    default_limit,
    describe,
    glued,
    guessed,
    measured_aside,
    print_aside,
    share,
    workload,
)
from gpuscout.store.ranking.question.confidence import EXPECTED
from gpuscout.store.ranking.rows import listed
from gpuscout.store.ranking.types import Group, RankedConfig, Ranking

DETAILED = 2
"""Of so many answers at most each is told in sentences; of more, in marks."""
UNBACKED = "no measurement backs any of these figures: measure before you buy"

_MARKS = {
    **DOUBTS,
    "=": "tie",
    "<": "an unmeasured one looks cheaper",
    "<<": "by more than half",
    "$": "price over 180 days old",
    "!": "deploy cannot write it",
    "*": "more in flight than the KV cache holds",
    "~": "interpolated at a limit",
    "+": "held to twice the load that was measured",
    "^": "percentile assumed",
}


def marks(ranking: Ranking, group: Group, config: RankedConfig) -> str:
    """Return the marks of a row."""
    found = "" if config.backed else "?"
    if config is group.best:
        found += "=" if group.ties else ""
        found += "<<" if group.measure_first else "<" if group.unproven else ""
    found += "$" if is_old(ranking, config.gpu) else ""
    found += "#" if guessed(config, group) else ""
    return found + ("!" if config.cannot_start else "")


def is_old(ranking: Ranking, gpu: str) -> bool:
    """Return whether a price that ranks is old."""
    return ranking.question.aim.needs("price") and ranking.prices.is_old(gpu)


def legend(ranking: Ranking, rows: Sequence[str], configs: Sequence[RankedConfig]) -> str | None:
    """Return the legend of these rows' marks, `configs` being those whose load is shown; None: there are none."""
    used = set("".join(rows).replace("<<", ""))
    used |= {"<", "<<"} if any("<<" in row for row in rows) else set()
    used |= {"*"} if any(config.queued for config in configs) else set()
    used |= {"~"} if any(config.interpolated for config in configs) else set()
    used |= {"+"} if any(config.held for config in configs) else set()
    used |= {"^"} if any(config.assumed_tail is not None for config in configs) else set()
    meaning = dict(_MARKS)
    if not ranking.question.aim.needs("price"):
        meaning |= {"<": "an unmeasured one looks better", "<<": "more than twice as good"}
    told = (f"{mark}{GLUE}{words.replace(' ', GLUE)}" for mark, words in meaning.items() if mark in used)
    return "  ".join(told) or None


def before(ranking: Ranking, groups: Sequence[Group], *, top: int) -> Iterator[str]:
    """Yield the notes before the figures: what they lack altogether, and what they are priced with."""
    question = ranking.question
    if ranking.missing_tasks:
        yield unfinished(ranking)
    if groups and not any(group.is_backed for group in groups) and any(group.configs for group in groups):
        yield UNBACKED
    if question.default_slo:
        yield default_limit(question)
    if question.confidence > EXPECTED:
        yield f"figures and limits hold with a probability of {question.confidence:.0%}".replace("%", f"{GLUE}%")
    others = sorted({engine for group in groups for engine in group.other_engines})
    if others:
        shown_of = ", ".join(sorted({group.engine for group in groups}))
        yield f"estimates of {shown_of}; the store also has some of {', '.join(others)} (--engine NAME)"
    if ranking.implausible_runs:
        runs = count(ranking.implausible_runs, "measured run")
        yield f"left out: {runs} better than the hardware can be (--implausible counts them)"
    if ranking.set_aside_runs:
        runs = count(ranking.set_aside_runs, "measured run")
        yield f"left out: {runs} drafted, cached, client-bound, superseded or doubted (gpuscout query --set-aside says)"
    shown = [config.gpu for group in groups for config in listed(group)[: max(top, 2)]]
    told = prices_in_short(ranking, shown, by_gpu=len(groups) <= DETAILED)
    count_of = qualify(ranking)
    if len(groups) > DETAILED and count_of is not None:
        yield "; ".join([count_of, *told[:1]])
        yield from told[1:]
    else:
        yield from told
        if count_of is not None:
            others_do_not = any(losers.count for group in ranking.groups for losers in group.losers)
            yield f"{count_of} (--explain says why the others do not)" if others_do_not else count_of


def one_of(groups: Sequence[Group]) -> str:
    """Return the options that narrow the answers."""
    return "--model NAME" if len({group.model for group in groups}) > 1 else "--workload NAME"


def after(ranking: Ranking, groups: Sequence[Group]) -> Iterator[str]:
    """Yield the notes after the figures, of all answers together."""
    better = [group.unproven for group in groups if group.unproven]
    if len(groups) > DETAILED and better:
        gains = sorted(abs(config.behind_best) for config in better)
        by = share(gains[0]) if share(gains[0]) == share(gains[-1]) else f"{share(gains[0])} to {share(gains[-1])}"
        gpus = Counter(config.gpu for config in better).most_common(2)
        named = ", ".join(f"{short_gpu(gpu)} for {number}" for gpu, number in gpus)
        word = "cheaper" if ranking.question.aim.needs("price") else "better"
        yield f"{word} if unmeasured estimates hold: {len(better)} of {len(groups)}, by {by} ({named})"
        yield from _measure_first(ranking, groups)
    if len(groups) > DETAILED:
        yield f"{one_of(groups)} says more of one, {one_of(groups)} --explain everything"
    if len(groups) <= DETAILED:
        yield from decisions(ranking)[:2]
    if any("energy" in (*ranking.question.also, *dict(ranking.question.aim.weights)) for _ in groups[:1]):
        yield "energy: an upper bound, as if every GPU drew its full TDP"
    for caveat in caveats_of(groups):
        yield f"# {caveat}"
    yield from imported(groups)


def in_8_bit(ranking: Ranking, others: Iterable[Group]) -> Iterator[str]:
    """Yield the cost with FP8 weights, beside answers in 16 bit."""
    best_of = {case_of(group): group.best for group in ranking.groups}
    for group in others:
        best, plain = group.best, best_of.get(case_of(group))
        if best is None:
            continue
        figure = glued(f"{ranged(best.objective, best.objective_range, best.kind)} {ranking.question.aim.unit}")
        against = ""
        if plain is not None and plain.objective > 0:
            change = best.objective / plain.objective - 1
            against = f", {'-' if change < 0 else '+'}{share(abs(change))}"
        mark = "" if best.backed else ", unmeasured"
        would = "would cost" if ranking.question.aim.needs("price") else "would have"
        yield (
            f"an fp8 checkpoint of {bare_names([group.model])[group.model]} {would} {figure} on "
            f"{describe(best, group)}{against}{mark}; its answers are not the same (--precision native,fp8)"
        )


def _measure_first(ranking: Ranking, groups: Sequence[Group]) -> Iterator[str]:
    """Yield the warning about unmeasured configurations that look more than twice as good."""
    far = sorted((group for group in groups if group.measure_first), key=lambda group: group.unproven_lead)
    if not far:
        return
    worst = far[-1]
    assert worst.unproven is not None
    word = "less than half the cost" if ranking.question.aim.needs("price") else "more than twice as good"
    yield (
        f"{MEASURE_FIRST}: {word} if they hold for {len(far)} of {len(groups)} (<<), most for "
        f"{bare_names([worst.model])[worst.model]}: {benchmark(ranking, worst)}"
    )


def details(ranking: Ranking, group: Group) -> Iterator[str]:
    """Yield one answer in sentences: how sure it is, what else there is, who sells it."""
    best = group.best
    if best is None:
        yield nothing(ranking, group)
        return
    if best.chances:
        yield f"limits: {chances(best)}"
    yield f"{best.kind_label}: {trust(best)}"
    if (text := unproven(ranking, group)) is not None and group.unproven is not None:
        yield text
        yield f"to measure it: {benchmark(ranking, group)}"
    if group.ties:
        yield tie(group.ties[0], group)
        if others := [short_gpu(found.config.gpu) for found in group.ties[1:]]:
            yield f"ties as well: {', '.join(others)}"
    if best.cannot_start:
        yield f"deploy cannot write {describe(best, group)}: {best.cannot_start}"
    if (needs := site_of(ranking.prices, best)) is not None:
        yield f"to run it: {site(needs)}"
    if len(group.sellers) > 1:
        wins = Counter(seller.gpu for seller in group.sellers)
        text = ", ".join(f"{short_gpu(gpu)} at {number}" for gpu, number in wins.most_common(3))
        yield f"by seller: {text} of {len(group.sellers)} that sell several of these GPUs"


def qualify(ranking: Ranking) -> str | None:
    """Return the number of configurations, and of ranked ones."""
    candidates = sum(group.candidates for group in ranking.groups)
    total = candidates + sum(losers.count for group in ranking.groups for losers in group.losers)
    if not total:
        return None
    return f"{candidates:,} of {count(total, 'configuration')} {'qualifies' if candidates == 1 else 'qualify'}"


def imported(groups: Iterable[Group]) -> Iterator[str]:
    """Yield the exports that the best answers came from."""
    files = dict.fromkeys(config.imported_from for group in groups for config in group.configs if config.imported_from)
    if files:
        yield f"imported from {', '.join(files)}: these estimates were made elsewhere and cannot be checked here"


def print_notes(ranking: Ranking, *, top: int | None) -> None:
    """Print notes that rows of CSV and Markdown cannot hold to standard error: omissions with reasons, and prices."""
    print_aside(notes_in_full(ranking, top=top))


def notes_in_full(ranking: Ranking, *, top: int | None) -> Iterable[str]:
    """Yield the same as sentences."""
    aside = measured_aside(ranking.question, ranking.groups)
    for group in ranking.groups:
        if case_of(group) in aside:
            continue
        if not listed(group):
            yield f"{group.model}, {workload(group)}: {nothing(ranking, group)}"
        elif (told := unproven(ranking, group)) is not None:
            yield f"{group.model}, {workload(group)}: {told}"
    if ranking.missing_tasks:
        yield unfinished(ranking)
    yield from imported(ranking.groups)
    yield from price_notes(ranking, top=top or 1)


def unfinished(ranking: Ranking) -> str:
    return f"{ranking.sweep} is unfinished: {count(ranking.missing_tasks, 'task')} may still change this"
