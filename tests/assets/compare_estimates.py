"""gpuscout beside NVIDIA's AISimulate on the same measured runs, with one scorer: the table of docs/accuracy.md.

    python -m tests.assets.compare_estimates

`tests/data/aisimulate_static.csv` has what `aiconfigurator cli estimate` of AISimulate 0.13 says (its closed formula
over timed kernels) to public runs of NVIDIA GPUs, drawn evenly over model, server and GPU type: TTFT and ITL in ms,
empty where it refuses. It knows one version of each server, which is newer than those that were measured.
gpuscout's figures are those of fits that had not seen the run's model. Runs that either does not answer are left out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpuscout.runner.accuracy.errors import METRICS, MetricError, errors
from gpuscout.runner.accuracy.estimate import Estimates
from gpuscout.runner.accuracy.selection import fit_for_fitting
from gpuscout.runner.calibration.rows import Figures, FitRows, fit_rows
from gpuscout.runner.calibration.validate import held_out
from gpuscout.store.measured import public_runs

FILE = Path(__file__).parents[1] / "data/aisimulate_static.csv"
HEAD = "| same runs | runs | AISimulate | gpuscout, model left out |"
_SERVERS = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}


def compared() -> tuple[list[FitRows], npt.NDArray[np.bool_], Estimates]:
    """The rows of a fit, which of the closed loops are compared, and what AISimulate says to those."""
    with FILE.open(newline="") as stream:
        said = {row["id"]: row for row in csv.DictReader(stream) if row["itl_ms"]}
    kinds = fit_rows(fit_for_fitting(public_runs()))
    ids = [run.id for run in kinds[0].runs]
    chosen = np.array([run_id in said and ids.index(run_id) == place for place, run_id in enumerate(ids)])
    rows = kinds[0].take(chosen)
    ttft, itl = (np.array([float(said[run.id][name]) for run in rows.runs]) for name in ("ttft_ms", "itl_ms"))
    return kinds, chosen, rows.estimates(Figures(ttft, itl, np.full(len(rows), np.nan)))


def table(*tools: Estimates) -> Iterator[str]:
    """A line for all runs and for those of every server: medians of absolute errors, ITL / TTFT / throughput."""
    whole = [errors(tool)["all"] for tool in tools]
    parts = [errors(tool, lambda run: run.server) for tool in tools]
    yield _line("all", len(tools[0]), [_three(one.metrics) for one in whole])
    for server, label in _SERVERS.items():
        yield _line(label, parts[0][server].runs, [_three(part[server].metrics) for part in parts])


def _three(metrics: Mapping[str, MetricError]) -> str:
    return " / ".join(f"{100 * metrics[name].median:.0f}" for name in METRICS)


def _line(label: str, runs: int, cells: list[str]) -> str:
    return f"| {label} | {runs} | {' | '.join(cells)} |"


def main() -> None:
    kinds, chosen, said = compared()
    left_out = held_out(kinds, "model")[0]
    mine = kinds[0].take(chosen).estimates(left_out.take(chosen))
    print(HEAD, "|---|---|---|---|", *table(said, mine), sep="\n")


if __name__ == "__main__":
    main()
