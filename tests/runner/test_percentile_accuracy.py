"""`gpuscout accuracy --percentiles`: errors of simulated percentiles, with constants that saw a GPU family or not."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuscout.runner.accuracy.estimate import estimate
from gpuscout.runner.accuracy.percentiles import percentile_errors, that_tell_percentiles
from gpuscout.runner.engines.simulator.engine import Simulator
from gpuscout.store.measured import public_runs
from gpuscout.sweeps.curves import PERCENTILE_COLUMNS
from tests.support.in_process import gpuscout

NAMES = (
    "model",
    "gpu",
    "tp",
    "pp",
    "dp",
    "ep",
    "server",
    "input_len",
    "output_len",
    "concurrency",
    "ttft_ms",
    "itl_ms",
)


def two_runs() -> list[Any]:
    runs = that_tell_percentiles(public_runs("serving_runs_2026_11"))
    return [
        next(run for run in runs if (run.gpu, run.server, run.concurrency) == ("MI355X", "sglang", c)) for c in (4, 16)
    ]


def test_errors_are_those_of_the_engines_own_percentiles() -> None:
    estimates = estimate(Simulator(), two_runs())
    assert estimates.percentiles is not None
    column = PERCENTILE_COLUMNS.index(("ttft_ms", 99.0))
    as_measured = tuple(
        replace(run, percentiles={("ttft_ms", 99.0): float(percentiles[column]) / factor})
        for run, percentiles, factor in zip(estimates.runs, estimates.percentiles, (1.0, 1.2), strict=True)
    )
    number, errors = percentile_errors(replace(estimates, runs=as_measured))["all"]
    assert (number, list(errors)) == (2, [("ttft_ms", 99.0)])
    assert errors["ttft_ms", 99.0].median == pytest.approx(0.1)
    assert percentile_errors(replace(estimates, runs=as_measured), lambda run: run.concurrency).keys() == {"4", "16"}


@pytest.mark.slow
def test_the_command_prints_them_with_the_family_left_out(tmp_path: Path) -> None:
    with (tmp_path / "runs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        tails = ["p50_ttft_ms", "p99_ttft_ms", "p50_itl_ms", "p99_itl_ms"]
        writer.writerow(["id", "precision", *NAMES, *tails])
        for run in two_runs():
            told = [run.percentiles[metric, p] for metric in ("ttft_ms", "itl_ms") for p in (50.0, 99.0)]
            writer.writerow([run.id, str(run.precision), *(getattr(run, name) for name in NAMES), *told])
    found = {}
    for more in ((), ("--family-left-out",)):
        command = ("accuracy", "--percentiles", "--measured", "runs.csv", "--by", "family", "--json")
        done = gpuscout(*command, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["family_left_out"] == bool(more)
        everything, family = document["percentiles"]
        assert (everything["runs"], family["group"], family["runs"]) == (2, "CDNA4", 2)
        assert 0 <= everything["itl_ms_p99_error"] == family["itl_ms_p99_error"]
        assert everything["itl_ms_p90_error"] is None
        found[more] = everything["itl_ms_p99_bias"]
    assert len(set(found.values())) == 2
    (tmp_path / "means.csv").write_text(
        "id,precision,model,gpu,tp,server,input_len,output_len,concurrency,ttft_ms,itl_ms\n"
        "a,bf16,Qwen/Qwen3-8B,H100,1,vllm,1024,512,8,60,8\n"
    )
    for wrong, message in (
        (("--percentiles", "--measured", "means.csv"), "none of these runs has a 99th percentile"),
        (("--percentiles", "--measured", "runs.csv", "--by", "famly"), "family"),
        (("--family-left-out", "--measured", "runs.csv"), "needs --percentiles"),
        (("--percentiles", "--plot", "x.svg"), "cannot be combined with --predictions, --plot"),
    ):
        done = gpuscout("accuracy", *wrong, cwd=tmp_path)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
