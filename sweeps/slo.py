"""What a deployment is ranked by and the latency limits (SLOs) it has to meet, as people write them: "ttft<=500ms"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpuscout.sweeps.errors import InputError, nearest
from gpuscout.sweeps.spec_errors import quoted

OBJECTIVES: tuple[str, ...] = ("throughput", "throughput-per-gpu", "ttft", "itl", "e2e")

# The column of an operating point that holds a metric; its suffix is the unit of `Slo.limit`.
COLUMNS = {"ttft": "ttft_ms", "itl": "itl_ms", "e2e": "e2e_s"}
METRICS: tuple[str, ...] = tuple(COLUMNS)

_SECONDS = {"ms": 0.001, "s": 1.0}
_SYNONYMS = {"tpot": "itl", "tbt": "itl", "latency": "e2e", "e2el": "e2e"}
_FORM = re.compile(
    r"\s*(?P<metric>[A-Za-z_][\w-]*)\s*(?P<operator><=|<|≤|>=|>|≥|==|=)\s*"
    r"(?P<limit>\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})\s*(?P<unit>[A-Za-zµ]*)\s*"
)
_EXAMPLE = "for example ttft<=500ms, itl<=30ms or e2e<=10s"


@dataclass(frozen=True)
class Slo:
    """A latency must not exceed `limit`: milliseconds for ttft and itl, seconds for e2e."""

    metric: str
    limit: float

    @property
    def column(self) -> str:
        """The column of an operating point that `limit` bounds, in the same unit."""
        return COLUMNS[self.metric]

    @property
    def unit(self) -> str:
        return self.column.rpartition("_")[2]

    def __str__(self) -> str:
        return f"{self.metric}<={self.limit:.15g}{self.unit}"


def parse_slo(text: str) -> Slo:
    """An SLO from text such as "itl <= 30 ms". `<` means the same as `<=`; without a unit ms (e2e: s) is meant.

    Raises InputError.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise InputError(
            f"cannot understand the SLO {quoted(text)}: expected METRIC<=LIMIT", hint=f"{_EXAMPLE} (in quotes)"
        )
    metric, operator, unit = form["metric"].casefold(), form["operator"], form["unit"]
    if metric not in COLUMNS:
        meant = _SYNONYMS.get(metric) or next(iter(nearest(metric, METRICS)), None)
        hint = f"did you mean {meant}?   " if meant else ""
        raise InputError(
            f"unknown metric {quoted(form['metric'])} in the SLO", hint=f"{hint}allowed: {', '.join(METRICS)}"
        )
    if operator in (">=", ">", "≥", "=", "=="):
        raise InputError(f"the SLO {quoted(text)} is not an upper limit", hint=f"write {metric}<={form['limit']}{unit}")
    own = COLUMNS[metric].rpartition("_")[2]
    if unit and unit.casefold() not in _SECONDS:
        raise InputError(f"unknown unit {quoted(unit)} in the SLO {quoted(text)}", hint="allowed: ms, s")
    scale = _SECONDS[unit.casefold() or own] / _SECONDS[own]
    limit = float(f"{float(form['limit']) * scale:.12g}")
    if limit <= 0:
        raise InputError(f"the SLO {quoted(text)} can never be met: its limit is 0", hint=_EXAMPLE)
    return Slo(metric, limit)
