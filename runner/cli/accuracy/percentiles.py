"""`gpuscout accuracy --percentiles`: simulated percentiles against measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuscout.runner.cli.common import count, err, out, print_json
from gpuscout.runner.cli.show.output import Column, Output, a_figure, print_rows, whole_number
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.text import percent

if TYPE_CHECKING:
    from gpuscout.runner.accuracy.names import RunNames
    from gpuscout.runner.accuracy.percentiles import Errors
    from gpuscout.runner.engines.base import Engine
    from gpuscout.store.measured import MeasuredRun

_BY = ("gpu", "server", "load_band")
_HEADINGS = {"ttft_ms": "TTFT", "itl_ms": "ITL"}


def print_percentiles(
    engine: str,
    runs: Sequence[MeasuredRun],
    names: RunNames,
    *,
    by: Sequence[str],
    left_out: bool,
    constants: Path | None,
    output: Output,
) -> bool:
    """Print errors of percentiles, of all runs that have them and by group; return whether any run was answered.

    `left_out`: each GPU family is estimated with constants that were fitted without its runs. Raises InputError.
    """
    from gpuscout.runner.accuracy.errors import GROUPINGS
    from gpuscout.runner.accuracy.estimate import estimate
    from gpuscout.runner.accuracy.percentiles import COMPARED, percentile_errors, that_tell_percentiles
    from gpuscout.runner.calibration.left_out import estimates_left_out
    from gpuscout.runner.engines.base import trust_of
    from gpuscout.runner.engines.registry import create_engine
    from gpuscout.store.measured import public_runs
    from gpuscout.sweeps.errors import UnknownNameError, nearest

    def make(file: Path | None) -> Engine:
        return create_engine(engine, {} if file is None else {"constants_file": str(file)})

    told = that_tell_percentiles(runs)
    if not told:
        raise InputError(
            "none of these runs has a 99th percentile of TTFT in a closed loop",
            hint="public runs that have one: --measured public:serving_runs_2026_11",
        )
    for name in by:
        if name not in GROUPINGS:
            raise UnknownNameError("grouping", name, nearest(name, GROUPINGS), hint=f"one of {', '.join(GROUPINGS)}")
    err().print(f"estimating percentiles of {count(len(told), 'measured run')} with {engine}")
    if left_out:
        known = dict.fromkeys([*public_runs(), *runs])
        estimates = estimates_left_out(make, told, known, names, lambda text: err().print(text))
    else:
        estimates = estimate(make(constants), told, names)
    trust = trust_of(make(constants))
    groups: list[tuple[str, str | None, tuple[int, Errors]]] = [
        ("all runs", None, percentile_errors(estimates, trust=trust)["all"])
    ]
    for by_name in by or _BY:
        groups += [(by_name, *named) for named in percentile_errors(estimates, GROUPINGS[by_name], trust).items()]
    rows: list[dict[str, Any]] = []
    for grouping, group, (number, errors) in groups:
        row: dict[str, Any] = {"by": grouping, "group": group, "runs": number}
        for metric, percentile in COMPARED:
            error = errors.get((metric, percentile))
            key = f"{metric}_p{percentile:g}"
            row |= {
                f"{key}_error": error and error.median,
                f"{key}_bias": error and error.bias,
                f"{key}_inside": error and error.inside,
            }
        rows.append(row)
    if output.json:
        print_json({"engine": engine, "family_left_out": left_out, "percentiles": rows})
    else:
        print_rows(_columns(), rows, output, title=f"{engine}: percentiles of {count(len(told), 'run')}")
    if output.for_people:
        out().print("err: median of |estimate / measured - 1|; bias: median of the signed error")
        out().print("in 80 %: the share of measured percentiles within the engine's 80 % interval around the estimate")
    for reason, number in _reasons(estimates.reasons.values()):
        err().print(f"not answered: {count(number, 'run')}: {reason}")
    return bool(groups[0][2][1])


def _reasons(reasons: Any) -> list[tuple[str, int]]:
    from collections import Counter

    return Counter(reasons).most_common(5)


def _columns() -> list[Column]:
    from gpuscout.runner.accuracy.percentiles import COMPARED

    columns = [Column("by", "by", lambda by: by.replace("_", " ")), Column("group", "group")]
    columns.append(a_figure("runs", "runs", whole_number))
    for metric, percentile in COMPARED:
        key, heading = f"{metric}_p{percentile:g}", f"{_HEADINGS[metric]} p{percentile:g}"
        columns.append(a_figure(f"{key}_error", f"{heading} err", percent, unknown=""))
        columns.append(a_figure(f"{key}_bias", "bias", lambda bias: f"{100 * bias:+,.0f} %", unknown=""))
        columns.append(a_figure(f"{key}_inside", "in 80 %", percent, unknown=""))
    return columns
