"""gpuscout beside two other estimators on the same measured runs, with one scorer: tables of docs/accuracy.md.

    python -m tests.assets.compare_estimates

- NVIDIA's AISimulate 0.13: `tests/data/aisimulate_static.csv` has what its `aiconfigurator cli estimate` (its closed
  formula over timed kernels) says to public runs of NVIDIA GPUs, drawn evenly over model, server and GPU type: TTFT and
  ITL in ms, empty where it refuses. It knows one version of each server, newer than those that were measured.
- BentoML's llm-optimizer: its arithmetic (`tests/support/llm_optimizer_formula.py`), asked about all closed loops of
  vLLM and SGLang on GPUs and precisions that it has, without data-parallel attention and pipelines.

gpuscout's figures are those of fits that had not seen the run's model. Runs that either does not answer are left out.
The last table has the questions about the cheapest GPU whose wrong answers cost most.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpuscout.runner.accuracy.choice import Question, gpu_choice, gpu_questions
from gpuscout.runner.accuracy.errors import METRICS, MetricError, errors
from gpuscout.runner.accuracy.estimate import Estimates, RunCases
from gpuscout.runner.accuracy.selection import fit_for_fitting
from gpuscout.runner.calibration.rows import Figures, FitRows, fit_rows
from gpuscout.runner.calibration.validate import held_out
from gpuscout.runner.engines.llm_optimizer.support import their_gpu, their_precision
from gpuscout.store.measured import MeasuredRun, public_runs
from gpuscout.sweeps.cases import Case
from tests.assets.ablation import stamp
from tests.support.llm_optimizer_formula import GPUS, Shape, latencies_ms

FILE = Path(__file__).parents[1] / "data/aisimulate_static.csv"
_SERVERS = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
DEAREST_HEAD = "| cheapest GPU, model left out | chosen | cheapest | costs more by |"
_DEAREST = 8  # questions, which are named
_NOTHING = (np.nan, np.nan)

Answers = tuple[npt.NDArray[np.bool_], Estimates]


def head(tool: str) -> str:
    """Return the first line of a table."""
    return f"| same runs | runs | {tool} | gpuscout, model left out |"


def closed_loops() -> list[FitRows]:
    """Return the rows of a fit; the first are the closed loops."""
    return fit_rows(fit_for_fitting(public_runs()))


def aisimulate(rows: FitRows) -> Answers:
    """Return which of the closed loops AISimulate was asked about and answered, and what it says to those."""
    with FILE.open(newline="") as stream:
        said = {
            row["id"]: (float(row["ttft_ms"]), float(row["itl_ms"])) for row in csv.DictReader(stream) if row["itl_ms"]
        }
    ids = [run.id for run in rows.runs]
    return _answers(
        rows, [said.get(run_id, _NOTHING) if ids.index(run_id) == n else _NOTHING for n, run_id in enumerate(ids)]
    )


def llm_optimizer(rows: FitRows) -> Answers:
    """Return the same of llm-optimizer."""
    cases = RunCases(rows.runs).cases
    return _answers(rows, [_by_arithmetic(run, cases[n]) for n, run in enumerate(rows.runs)])


def _by_arithmetic(run: MeasuredRun, case: Case) -> tuple[float, float]:
    gpu, precision = their_gpu(case.gpu.name), their_precision(case.precision)
    plain = case.data_parallel == case.pipeline_parallel == 1 and run.server in ("vllm", "sglang")
    if not plain or gpu not in GPUS or precision is None or (precision == "fp8" and GPUS[gpu][2] is None):
        return _NOTHING
    assert run.concurrency is not None
    return latencies_ms(Shape.of(case.model), gpu, case.tensor_parallel, precision, run.concurrency, case.input_len)


def _answers(rows: FitRows, said: Sequence[tuple[float, float]]) -> Answers:
    ttft, itl = np.array(said).T
    chosen = np.isfinite(ttft) & np.isfinite(rows.measured.itl)
    return chosen, rows.take(chosen).estimates(Figures(ttft, itl, np.full(len(rows), np.nan)).take(chosen))


def table(*tools: Estimates) -> Iterator[str]:
    """Yield a line for all runs and for those of every server: medians of absolute errors, ITL / TTFT / throughput.

    The last one is of the GPU that each would choose; its runs are questions.
    """
    whole = [errors(tool)["all"] for tool in tools]
    parts = [errors(tool, lambda run: run.server) for tool in tools]
    yield _line("all", len(tools[0].runs), [_three(one.metrics) for one in whole])
    for server, label in _SERVERS.items():
        if server in parts[0]:
            yield _line(label, parts[0][server].runs, [_three(part[server].metrics) for part in parts])
    choices = [choice for tool in tools if (choice := gpu_choice(tool))]
    cells = [f"{100 * choice.near:.0f} % / {100 * choice.regret:.0f} %" for choice in choices]
    yield _line("choice within 5 % / regret", choices[0].questions, cells)


def _three(metrics: Mapping[str, MetricError]) -> str:
    return " / ".join(f"{100 * metrics[name].median:.0f}" for name in METRICS)


def _line(label: str, runs: int, cells: list[str]) -> str:
    return f"| {label} | {runs} | {' | '.join(cells)} |"


def dearest(questions: Sequence[Question]) -> Iterator[str]:
    """Yield a line for each question that costs most, and what they hold of all regret."""
    of_all = sum(question.regret for question in questions)
    worst = sorted(questions, key=lambda question: -question.regret)[:_DEAREST]
    for one in worst:
        chosen, cheapest = (gpu.partition("-")[0] for gpu in (one.chosen, one.cheapest))
        what = f"{one.model.partition('/')[2]} {one.precision}, {_SERVERS[one.server]}"
        lengths = f"{one.input_len:,} / {one.output_len:,}"
        yield f"| {what}, {lengths}, ITL <= {one.limit_ms} ms | {chosen} | {cheapest} | {100 * one.regret:.0f} % |"
    share = sum(one.regret for one in worst) / of_all
    yield f"{len(worst)} of {len(questions)} questions: {share:.0%} of the regret"


TOOLS = {"AISimulate": aisimulate, "llm-optimizer": llm_optimizer}


def main() -> None:
    kinds = closed_loops()
    left_out = held_out(kinds, "model")[0]
    for name, asked in TOOLS.items():
        chosen, said = asked(kinds[0])
        mine = kinds[0].take(chosen).estimates(left_out.take(chosen))
        print(head(name), "|---|---|---|---|", *table(said, mine), sep="\n")
    print(DEAREST_HEAD, "|---|---|---|---|", *dearest(gpu_questions(kinds[0].estimates(left_out))), sep="\n")
    print(stamp())


if __name__ == "__main__":
    main()
