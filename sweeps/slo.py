"""Objectives that rank deployments and limits (SLOs) that they must meet, as people write them: "ttft<=500ms"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpuscout.sweeps.errors import InputError, nearest, quoted
from gpuscout.sweeps.text import without_exponents

OBJECTIVES: tuple[str, ...] = (
    "cost",
    "cost-per-hour",
    "throughput",
    "throughput-per-gpu",
    "ttft",
    "itl",
    "e2e",
    "energy",
)

# The column of an operating point that holds a metric; a latency's suffix is the unit of `Slo.limit`.
COLUMNS = {"ttft": "ttft_ms", "itl": "itl_ms", "e2e": "e2e_s", "rate": "requests_per_s"}
METRICS: tuple[str, ...] = tuple(COLUMNS)

_SECONDS = {"ms": 0.001, "s": 1.0}
# Requests per second, for one per second, minute and hour.
_PER_SECOND = {"/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600}
_SYNONYMS = {"tpot": "itl", "tbt": "itl", "latency": "e2e", "e2el": "e2e"}
# What columns and tools write: "p95_ttft_ms", "ttft_p95", "mean_itl".
_COLUMN_STYLE = re.compile(
    r"(?:(?:p(?P<before>\d{1,2}(?:\.\d{1,3})?)|mean)_)?(?P<metric>[a-z0-9]+?)(?:_(?:ms|s))?"
    r"(?:_p(?P<after>\d{1,2}(?:\.\d{1,3})?))?"
)
# Tokens per second that one user reads: 1000 / ITL in ms.
_INTERACTIVITY = re.compile(
    r"\s*(?:interactivity|(?:output[\s_-]*)?(?:tok|tokens|tps)(?:\s*/\s*s)?\s*/\s*user|tokens_per_s_per_user)"
    r"\s*(?P<operator><=|<|≤|>=|>|≥|==|=)\s*(?P<limit>\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})\s*"
    r"(?:tok(?:ens)?\s*/\s*s(?:\s*/\s*user)?)?\s*",
    re.IGNORECASE,
)
DEFAULT_ITL_MS = 50.0
"""The limit where none is given: 20 tokens per second for each user, about twice as fast as people read."""
OBJECTIVE_SYNONYMS = {"price": "cost", **_SYNONYMS}
_RATES = ("requests", "rps", "qps")
_FORM = re.compile(
    r"\s*(?:p(?P<before>\d{1,2}(?:\.\d{1,3})?)\s+)?(?P<metric>[A-Za-z_][\w.-]*)"
    r"(?:(?:\s*:\s*|\s+)p(?P<after>\d{1,2}(?:\.\d{1,3})?))?"
    r"\s*(?P<operator><=|<|≤|>=|>|≥|==|=)\s*"
    r"(?P<limit>\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})\s*(?P<unit>/?\s*[A-Za-zµ]*)\s*"
)
_PERCENTILE_NAME = re.compile(r"p\d[\d.]*_(?:ttft_ms|itl_ms|e2e_s)")
_EXAMPLE = "for example ttft<=500ms, itl<=30ms, ttft:p95<=1s or rate>=5/s"


def percentile_name(column: str, percentile: float) -> str:
    """Return the name of a percentile of a column of operating points: "p95_ttft_ms"."""
    return f"p{percentile:g}_{column}"


def is_percentile(figure: str) -> bool:
    """Return whether this is the name of a percentile."""
    return _PERCENTILE_NAME.fullmatch(figure) is not None


def percentile_of(figure: str) -> float:
    """Return 95 of "p95_ttft_ms"."""
    return float(figure.partition("_")[0].removeprefix("p"))


@dataclass(frozen=True)
class Slo:
    """A limit. A latency (ttft and itl in milliseconds, e2e in seconds) must not exceed it; a rate must reach it.

    `rate` is requests per second of the whole deployment. `percentile` None: the mean counts.
    """

    metric: str
    limit: float
    percentile: float | None = None

    @property
    def column(self) -> str:
        """The column of an operating point that `limit` bounds, in the same unit."""
        return COLUMNS[self.metric]

    @property
    def figure(self) -> str:
        """The figure that `limit` bounds: `column`, or its percentile, "p95_ttft_ms"."""
        return self.column if self.percentile is None else percentile_name(self.column, self.percentile)

    @property
    def at_least(self) -> bool:
        """Whether `limit` is the least that is allowed, not the most."""
        return self.metric == "rate"

    @property
    def unit(self) -> str:
        return "/s" if self.at_least else self.column.rpartition("_")[2]

    @property
    def name(self) -> str:
        """The metric and, unless it is the mean, the percentile: "ttft:p95"."""
        return self.metric if self.percentile is None else f"{self.metric}:p{self.percentile:g}"

    def __str__(self) -> str:
        return f"{self.name}{'>=' if self.at_least else '<='}{self.limit:.15g}{self.unit}"


def parse_slo(text: str) -> Slo:
    """Return an SLO from text such as "itl <= 30 ms", "ttft:p95<=1s" or "rate>=300/min".

    So are "tpot<=30ms", "p95_ttft_ms<=1000", "p95 ttft<=1s", and "tok/s/user>=30" or "interactivity>=30", which limit
    the ITL to 1000 / 30 ms. `<` means the same as `<=`. Without a unit ms is meant for ttft and itl, s for e2e, per
    second for a rate. Raises InputError.
    """
    if (speed := _INTERACTIVITY.fullmatch(text)) is not None:
        return _from_interactivity(speed, text)
    form = _FORM.fullmatch(text)
    if form is None and (plain := without_exponents(text)) != text:
        parse_slo(plain)  # if more is wrong with it, that is said
        raise InputError(f"cannot understand the SLO {quoted(text)}: expected a limit in digits", hint=f"write {plain}")
    if form is None:
        raise InputError(
            f"cannot understand the SLO {quoted(text)}: expected METRIC<=LIMIT", hint=f"{_EXAMPLE} (in quotes)"
        )
    metric, unit = form["metric"].casefold(), "".join(form["unit"].casefold().split())
    percentile = form["before"] or form["after"]
    if metric not in COLUMNS and (style := _COLUMN_STYLE.fullmatch(metric)) is not None:
        metric = style["metric"]
        percentile = percentile or style["before"] or style["after"]
    metric = "rate" if metric in _RATES else _SYNONYMS.get(metric, metric)
    if metric not in COLUMNS:
        meant = next(iter(nearest(metric, METRICS)), None)
        hint = f"did you mean {meant}?   " if meant else ""
        raise InputError(
            f"unknown metric {quoted(form['metric'])} in the SLO", hint=f"{hint}allowed: {', '.join(METRICS)}"
        )
    slo = Slo(metric, 0.0, None if percentile is None else float(percentile))
    _check_operator(slo, form["operator"], text, f"{form['limit']}{form['unit']}")
    limit = float(f"{float(form['limit']) * _scale(slo, unit, text):.12g}")
    if limit <= 0:
        wrong = "says nothing" if slo.at_least else "can never be met"
        raise InputError(f"the SLO {quoted(text)} {wrong}: its limit is 0", hint=_EXAMPLE)
    return Slo(metric, limit, slo.percentile)


def _from_interactivity(form: re.Match[str], text: str) -> Slo:
    """Return a limit on the tokens per second of one user as one on the ITL."""
    limit = float(form["limit"])
    if form["operator"] not in (">=", ">", "≥") or limit <= 0:
        raise InputError(f"invalid SLO {quoted(text)}: expected a lower limit", hint="for example tok/s/user>=30")
    return Slo("itl", float(f"{1000 / limit:.12g}"))


def _check_operator(slo: Slo, operator: str, text: str, limit: str) -> None:
    if slo.at_least and slo.percentile is not None:
        raise InputError(f"the SLO {quoted(text)} has a percentile, but a rate has none", hint=f"write rate>={limit}")
    if slo.percentile == 0:
        raise InputError(f"the SLO {quoted(text)} has no percentile above 0", hint="for example ttft:p95<=800ms")
    if slo.at_least and operator not in (">=", ">", "≥"):
        raise InputError(f"the SLO {quoted(text)} is not a lower limit", hint=f"write {slo.metric}>={limit}")
    if not slo.at_least and operator not in ("<=", "<", "≤"):
        raise InputError(f"the SLO {quoted(text)} is not an upper limit", hint=f"write {slo.name}<={limit}")


def _scale(slo: Slo, unit: str, text: str) -> float:
    """Return the factor from the number as written to the unit of the limit."""
    if slo.at_least:
        if unit and unit not in _PER_SECOND:
            raise InputError(f"unknown unit {quoted(unit)} in the SLO {quoted(text)}", hint="allowed: /s, /min, /h")
        return _PER_SECOND[unit or "/s"]
    if unit and unit not in _SECONDS:
        raise InputError(f"unknown unit {quoted(unit)} in the SLO {quoted(text)}", hint="allowed: ms, s")
    return _SECONDS[unit or slo.unit] / _SECONDS[slo.unit]
