"""Measured runs and accuracy: the shipped runs, the reader, errors and choices by an independent count, the command."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import math
import re
import statistics
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import yaml

from gpuscout.runner.accuracy.choice import ITL_LIMITS_MS, REFERENCE_PRICES, gpu_choice, gpu_questions, maxima_order
from gpuscout.runner.accuracy.errors import GROUPINGS, errors
from gpuscout.runner.accuracy.estimate import Estimates, estimate
from gpuscout.runner.accuracy.report import AccuracyReport, report, write_predictions
from gpuscout.runner.accuracy.seen import errors_seen
from gpuscout.runner.accuracy.sources import measured_runs
from gpuscout.runner.cli.main import execute
from gpuscout.runner.engines.roofline import RooflineEngine, constants
from gpuscout.store.database.connect import open_store
from gpuscout.store.measured import LoadKind, MeasuredRun, public_runs, read_runs, runs_digest
from gpuscout.store.results.trust import errors_of
from gpuscout.store.schema import engines
from gpuscout.sweeps.cases import CaseColumns
from gpuscout.sweeps.curves import Curves, IntArray
from gpuscout.sweeps.errors import InputError, UnknownNameError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.precision import Precision
from tests.support.forked import gpuscout
from tests.support.hub import as_file

pytestmark = pytest.mark.slow

HEADER = "id,model,gpu,num_gpus,tp,precision,server,input_len,output_len,concurrency,ttft_ms,itl_ms"
ROW = "a,meta-llama/Llama-3.1-8B-Instruct,H100-SXM-80GB,1,1,bf16,vllm,1024,128,8,50,10"


@pytest.fixture(scope="module")
def serving() -> AccuracyReport:
    return report(RooflineEngine(), public_runs("serving_runs"))


def perfect(runs: tuple[MeasuredRun, ...]) -> Estimates:
    """Estimates that equal what was measured."""

    def column(values: list[float | None]) -> np.ndarray:
        return np.array(values, dtype=np.float64)

    return Estimates(
        runs=runs,
        ttft_ms=column([run.ttft_ms for run in runs]),
        itl_ms=column([run.itl_ms for run in runs]),
        output_tokens_per_s=column([run.throughput for run in runs]),
        concurrency=np.array([run.concurrency or 1 for run in runs]),
        fraction=np.full(len(runs), 0.9),
        reasons={},
    )


# --- measured runs


def test_the_public_runs_ship() -> None:
    assert [len(public_runs(file)) for file in ("serving_runs", "other_gpus", "max_throughput")] == [1986, 121, 508]
    assert {run.load for run in public_runs("max_throughput", "max_throughput_2026_11")} == {LoadKind.OFFLINE_MAXIMUM}
    added = public_runs("serving_runs_2026_11", "serving_runs_llama_3_1_70b", "max_throughput_2026_11")
    assert Counter(run.split for run in added) == {"fit": 1942, "reference": 205}
    assert Counter(run.latency_stat for run in added) == {"mean": 1208, "median": 939}
    assert all(run.split == "reference" for run in added if run.trust == "low")
    assert sum((("ttft_ms", 99.0) in run.percentiles) for run in added) == 853
    assert all(run.source for run in public_runs())
    assert sum(run.itl_ms is None for run in public_runs("other_gpus")) == 81
    with pytest.raises(UnknownNameError, match="serving"):
        public_runs("serving")


def test_a_file_may_be_compressed_and_in_any_order(tmp_path: Path) -> None:
    other = ROW.replace("a,", "b,", 1)
    plain, packed = tmp_path / "runs.csv", tmp_path / "runs.csv.gz"
    plain.write_text("\n".join((HEADER, ROW, other)) + "\n")
    packed.write_bytes(gzip.compress("\n".join((HEADER, other, ROW)).encode()))
    assert runs_digest(read_runs(plain)) == runs_digest(read_runs(packed))
    run = read_runs(plain)[0]
    assert run.throughput == pytest.approx(8 * 128 / ((50 + 10 * 127) / 1000))
    assert runs_digest([dataclasses.replace(run, itl_ms=10.1)]) != runs_digest([run])


def test_names_in_a_file_mean_what_they_mean_elsewhere(tmp_path: Path) -> None:
    """A GPU under another name would have no price, a server in capitals the constants of none."""
    file = tmp_path / "runs.csv"
    told = ROW.replace("H100-SXM-80GB", "h100").replace("vllm", "TensorRT-LLM")
    file.write_text("\n".join((HEADER, told, told.replace("a,", "b,", 1).replace("h100", "X1"))))
    assert [(run.gpu, run.server) for run in read_runs(file)] == [("H100-SXM-80GB", "trtllm"), ("X1", "trtllm")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,model\n", "runs.csv:1: not a file of measured runs: no column gpu"),
        (f"{HEADER}\n{ROW}\n{ROW}\n", "runs.csv:3: id: 'a' is given twice"),
        (f"{HEADER}\n{ROW.replace('1024', 'long')}\n", "runs.csv:2: input_len: expected a positive whole number"),
        (f"{HEADER}\n{ROW.replace('bf16', 'fp5')}\n", "runs.csv:2: precision: expected one of"),
        (f"{HEADER}\n{ROW.replace('80GB,1,1', '80GB,4,1')}\n", "runs.csv:2: num_gpus: 4 is not tp x pp x dp = 1"),
        (
            f"{HEADER}\n{ROW.replace('vllm', 'vlm')}\n",
            "runs.csv:2: server: expected one of vllm, sglang, trtllm, atom, ",
        ),
        (f"{HEADER}\n{ROW.removesuffix('50,10')},\n", "runs.csv:2: ttft_ms, itl_ms and output_tokens_per_s are all"),
        (f"{HEADER}\n{ROW.replace(',8,', ',,')}\n", "runs.csv:2: concurrency: missing"),
        (
            f"{HEADER}\n{ROW.replace('50,10', '-5,10')}\n",
            "runs.csv:2: ttft_ms: expected a positive number from 1e-09 to 1e+12, got '-5'",
        ),
    ],
)
def test_a_broken_file_says_where(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "runs.csv"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_runs(file)
    assert words in caught.value.message


# --- errors and choices, counted again in plain Python


def test_errors_equal_an_independent_count(serving: AccuracyReport, tmp_path: Path) -> None:
    write_predictions(serving.estimates, tmp_path / "predictions.csv")
    with (tmp_path / "predictions.csv").open() as stream:
        predicted = {row["id"]: (float(row["ttft_ms"]), float(row["itl_ms"])) for row in csv.DictReader(stream)}
    off: dict[str, list[float]] = defaultdict(list)
    for run in public_runs("serving_runs"):
        ttft_ms, itl_ms = predicted[run.id]
        assert run.ttft_ms
        assert run.itl_ms
        off["ttft"].append(ttft_ms / run.ttft_ms - 1)
        off["itl"].append(itl_ms / run.itl_ms - 1)
        gaps = run.output_len - 1
        off["throughput"].append((run.ttft_ms + run.itl_ms * gaps) / (ttft_ms + itl_ms * gaps) - 1)
    total = serving.loads["closed loop"].total
    assert total.coverage == 1.0
    for name, values in off.items():
        told, absolute = total.metrics[name], sorted(map(abs, values))
        assert told.median == pytest.approx(statistics.median(absolute), rel=1e-6)
        assert told.bias == pytest.approx(statistics.median(values), rel=1e-6)
        # Nine tenths of them are no larger, whichever way one counts between two of them.
        around = absolute[len(values) * 9 // 10 - 1 :][:3]
        assert around[0] * (1 - 1e-6) <= told.p90 <= around[-1] * (1 + 1e-6)


def test_the_choice_equals_an_independent_count(serving: AccuracyReport) -> None:
    questions: dict[tuple[object, ...], list[int]] = defaultdict(list)
    runs, e = serving.estimates.runs, serving.estimates
    for i, run in enumerate(runs):
        questions[(run.model, run.server, run.precision, run.input_len, run.output_len)].append(i)
    regrets = []
    for rows in questions.values():
        for limit in ITL_LIMITS_MS:
            true: dict[str, float] = {}
            guess: dict[str, float] = {}
            for i in rows:
                run = runs[i]
                for cost, ttft, itl in ((true, run.ttft_ms, run.itl_ms), (guess, e.ttft_ms[i], e.itl_ms[i])):
                    if ttft and itl and itl <= limit:
                        seconds = ttft + itl * (run.output_len - 1)
                        dollars = REFERENCE_PRICES[run.gpu] * run.num_gpus * seconds
                        dollars /= run.concurrency * run.output_len
                        cost[run.gpu] = min(cost.get(run.gpu, math.inf), dollars)
            if len(true) > 1:
                pick = min(guess, key=guess.__getitem__, default="")
                regrets.append(true.get(pick, max(true.values())) / min(true.values()) - 1)
    assert serving.choice is not None
    assert serving.choice.questions == len(regrets)
    assert serving.choice.regret == pytest.approx(statistics.mean(regrets))
    assert serving.choice.right == pytest.approx(statistics.mean(r < 1e-9 for r in regrets))
    assert serving.choice.near == pytest.approx(statistics.mean(r <= 0.05 for r in regrets))


def test_the_built_in_engine_is_as_good_as_the_readme_says(serving: AccuracyReport) -> None:
    """Some room for other platforms' arithmetic; the exact figures stand in the constants file."""
    metrics = serving.loads["closed loop"].total.metrics
    assert metrics["itl"].median < 0.10
    assert metrics["throughput"].median < 0.09
    assert metrics["ttft"].median < 0.27
    maxima = report(RooflineEngine(), public_runs("max_throughput"))
    assert maxima.loads["offline maximum"].total.metrics["throughput"].median < 0.20
    assert maxima.order is not None
    assert maxima.order.right >= 0.95


def test_runs_are_grouped_by_vendor_family_and_load() -> None:
    runs = [run for run in public_runs("serving_runs_2026_11") if run.gpu in ("MI300X", "B200", "Inferentia2")]
    estimates = estimate(RooflineEngine(), runs)
    for name, groups in (
        ("vendor", {"AMD", "AWS", "NVIDIA"}),
        ("family", {"CDNA3", "Inferentia", "Blackwell"}),
        ("load_band", {"1-8", "9-64", "65-"}),
    ):
        found = errors(estimates, GROUPINGS[name])
        assert set(found) == groups
        assert sum(group.runs for group in found.values()) == len(runs)


def test_the_share_inside_an_interval_is_counted(serving: AccuracyReport) -> None:
    trust, closed = serving.trust, serving.loads["closed loop"]
    of_band: dict[str, list[bool]] = defaultdict(list)
    runs, e = serving.estimates.runs, serving.estimates
    assert e.regime is not None
    for run, itl_ms, regime in zip(runs, e.itl_ms.tolist(), e.regime.tolist(), strict=True):
        low, high = trust.intervals[regime]["itl_ms"]
        band = "1-8" if run.concurrency <= 8 else "9-64" if run.concurrency <= 64 else "65-"  # type: ignore[operator]
        of_band[f"NVIDIA, {band} in flight"].append(low <= (run.itl_ms or math.nan) / itl_ms <= high)
    shares = {name: group.metrics["itl"].inside for name, group in closed.groups["vendor_load_band"].items()}
    assert shares == {name: pytest.approx(statistics.mean(inside)) for name, inside in of_band.items()}
    assert errors(serving.estimates)["all"].metrics["itl"].inside is None


def test_runs_that_tell_medians_are_compared_with_medians() -> None:
    """A first wave of requests is in a benchmark's mean and not in its median."""
    runs = [run for run in public_runs("serving_runs_2026_11") if run.gpu == "MI355X" and run.concurrency == 64]
    runs = [run for run in runs if run.latency_stat == "median"]
    means = [dataclasses.replace(run, details=run.details | {"latency_stat": "mean"}) for run in runs]
    of_medians, of_means = (estimate(RooflineEngine(), some) for some in (runs, means))
    assert (of_medians.ttft_ms < 0.7 * of_means.ttft_ms).all()
    np.testing.assert_array_equal(of_medians.itl_ms, of_means.itl_ms)
    together = estimate(RooflineEngine(), [*runs, *means])
    np.testing.assert_array_equal(together.ttft_ms, [*of_medians.ttft_ms, *of_means.ttft_ms])
    assert errors(of_medians)["all"].metrics["ttft"].median < 0.3


def test_perfect_estimates_have_no_error_and_no_regret() -> None:
    closed, offline = perfect(public_runs("serving_runs")), perfect(public_runs("max_throughput"))
    assert all(error.p90 < 1e-9 for error in errors(closed)["all"].metrics.values())
    choice, order = gpu_choice(closed), maxima_order(offline)
    assert choice is not None
    assert order is not None
    assert (choice.right, choice.regret, order.right) == (1.0, 0.0, 1.0)
    questions = gpu_questions(closed)
    assert len(questions) == choice.questions
    assert all(question.chosen == question.cheapest != "" for question in questions)
    assert len({(q.model, q.server, q.precision, q.input_len, q.output_len, q.limit_ms) for q in questions}) > 100


def test_repeats_of_a_maximum_count_by_their_median() -> None:
    """The estimates are those of the typical run; one that went wrong changes no order, wherever it stands."""
    first, *_ = public_runs("max_throughput")
    measured = [("H100-SXM-80GB", 100.0), ("H100-SXM-80GB", 110.0), ("H100-SXM-80GB", 900.0), ("B200", 300.0)]
    runs = tuple(dataclasses.replace(first, gpu=gpu, output_tokens_per_s=figure) for gpu, figure in measured)
    typical = np.array([110.0, 110.0, 110.0, 300.0])
    order = maxima_order(dataclasses.replace(perfect(runs), output_tokens_per_s=typical))
    assert order is not None
    assert (order.pairs, order.right) == (1, 1.0)


def test_a_choice_without_answers_pays_for_the_dearest() -> None:
    nothing = dataclasses.replace(perfect(public_runs("serving_runs")), itl_ms=np.full(1986, np.nan))
    choice = gpu_choice(nothing)
    assert choice is not None
    assert choice.right < 0.01
    assert choice.regret > 0.5
    assert gpu_choice(perfect(public_runs("serving_runs")), {"H100-SXM-80GB": 2.0}) is None


def test_latencies_of_an_offline_maximum_are_not_compared() -> None:
    run = dataclasses.replace(public_runs("max_throughput")[0], ttft_ms=1000.0, itl_ms=10.0)
    found = errors(estimate(RooflineEngine(), [run]))["all"]
    assert set(found.metrics) == {"throughput"}


def test_errors_seen_equal_an_independent_count(serving: AccuracyReport) -> None:
    found = errors_seen(serving.estimates, family_left_out=serving.estimates)
    whole = [error for error in found if error.precision == "any"]
    seen = {(e.gpu_family, e.model_kind, e.concurrency_from, e.metric): e for e in whole}
    # Of the serving runs, those of mixtures of experts on Blackwell-Ultra are those on B300.
    off, names = [], set()
    for run, itl_ms in zip(serving.estimates.runs, serving.estimates.itl_ms.tolist(), strict=True):
        if run.gpu == "B300" and run.concurrency and 9 <= run.concurrency <= 64:
            off.append(itl_ms / (run.itl_ms or math.nan) - 1)
            names.add(run.model.replace("DeepSeek-R1", "DeepSeek-V3"))
    one = seen["Blackwell-Ultra", "moe", 9, "itl_ms"]
    assert (one.concurrency_to, one.runs, one.models) == (64, len(off), len(names))
    assert one.median_error == pytest.approx(statistics.median(map(abs, off)))
    assert one.bias == pytest.approx(statistics.median(off))
    for metric in ("ttft_ms", "itl_ms", "output_tokens_per_s"):
        everywhere = [e for e in seen.values() if e.gpu_family == "NVIDIA" and e.metric == metric]
        assert sum(e.runs for e in everywhere) == len(serving.estimates)
        assert all(0 <= e.median_error <= e.p90_error and e.median_error >= abs(e.bias) for e in everywhere)
    # Those of one precision and link say what they cover: the B300 runs in fp4 on several GPUs.
    apart = [e for e in found if (e.gpu_family, e.precision, e.link) == ("Blackwell-Ultra", "fp4", "fast")]
    (one,) = (e for e in apart if e.metric == "itl_ms" and 9 <= e.concurrency_from <= 64)
    runs = [run for run in serving.estimates.runs if run.gpu == "B300" and run.precision == "fp4" and run.tp > 1]
    runs = [run for run in runs if run.concurrency and 9 <= run.concurrency <= 64]
    assert (one.runs, one.tp_from, one.tp_to) == (len(runs), min(r.tp for r in runs), max(r.tp for r in runs))
    assert (one.concurrency_from, one.concurrency_to) == (16, 64)


def test_families_left_out_count_alike_whatever_the_number_of_their_runs(serving: AccuracyReport) -> None:
    """One family that is off by 100 % and has few runs, and one with many that is off by nothing."""
    estimates = serving.estimates
    few = np.array([run.gpu == "B300" for run in estimates.runs])
    exact = np.array([run.itl_ms for run in estimates.runs], dtype=np.float64)
    off = dataclasses.replace(estimates, itl_ms=np.where(few, 2 * exact, exact))
    found = errors_seen(off, family_left_out=off)
    alike = {"model_kind": "moe", "concurrency_from": 9, "metric": "itl_ms"}
    told = {e.gpu_family: e for e in found if alike.items() <= vars(e).items() and e.precision == "any"}
    assert (told["Blackwell-Ultra"].median_error, told["Blackwell"].median_error) == (1.0, 0.0)
    assert told["NVIDIA"].p90_error == pytest.approx(1.0)  # a third of the families, a twelfth of the runs


def test_another_engine_is_measured_the_same_way() -> None:
    class Doubtful(RooflineEngine):
        """Every token takes twice as long."""

        name = "doubtful"

        def evaluate(self, cases: CaseColumns, ladder: IntArray) -> Curves:
            curves = super().evaluate(cases, ladder)
            return dataclasses.replace(
                curves, points=dataclasses.replace(curves.points, itl_ms=2 * curves.points.itl_ms)
            )

    runs = public_runs("serving_runs")[::20]
    one, other = (report(engine, runs).estimates.itl_ms for engine in (RooflineEngine(), Doubtful()))
    np.testing.assert_allclose(other, 2 * one)


# --- which runs are answered


def test_runs_that_were_measured_are_answered_even_if_they_should_not_fit() -> None:
    runs = [run for run in public_runs("serving_runs") if "235B" in run.model and run.tp == 2 and "H100" in run.gpu]
    estimates = estimate(RooflineEngine(), runs)
    assert np.isfinite(estimates.itl_ms).all()
    assert (estimates.fraction > 1).all()


def test_unknown_names_are_counted_not_fatal() -> None:
    known = public_runs("serving_runs")[0]
    runs = [known, dataclasses.replace(known, id="m", model="nobodys-model"), dataclasses.replace(known, gpu="X1")]
    found = report(RooflineEngine(), runs)
    assert found.loads["closed loop"].total.answered == 1
    assert {reason.split('"')[0] for reason in found.reasons} == {"unknown model ", "unknown GPU "}


def test_a_run_may_say_its_kv_precision() -> None:
    run = next(run for run in public_runs("serving_runs") if run.input_len == 8192 and run.precision == Precision.BF16)
    wide, narrow = (
        estimate(RooflineEngine(), [dataclasses.replace(run, kv_precision=kv)]).itl_ms[0]
        for kv in (Precision.BF16, Precision.FP8)
    )
    assert narrow < wide


# --- the command


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(f"{HEADER}\n{ROW}\n{ROW.replace('a,', 'b,', 1).replace('50,10', ',10')}\n")
    arguments = ("accuracy", "--measured", "mine.csv", "--predictions", "out.csv", "--by", "concurrency")
    table = gpuscout(*arguments, cwd=tmp_path)
    assert table.returncode == 0, table.stderr
    assert "closed loop (2 runs)" in table.stdout
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "id,ttft_ms,itl_ms,output_tokens_per_s"
    assert len(lines) == 3
    document = json.loads(gpuscout(*arguments, "--json", cwd=tmp_path).stdout)
    total = document["accuracy"][0]["loads"]["closed loop"]["total"]
    assert (total["metrics"]["itl"]["runs"], total["metrics"]["ttft"]["runs"]) == (2, 1)
    wrong = gpuscout("accuracy", "--measured", "mine.csv", "--by", "colour", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "groupings: model, vendor, family, gpu" in wrong.stderr


def test_errors_on_what_was_left_out_are_those_of_the_constants(tmp_path: Path) -> None:
    shipped = json.loads(Path(constants.__file__).with_name("constants.json").read_text())["errors"]
    rows = json.loads(gpuscout("accuracy", "--left-out", "--json", cwd=tmp_path).stdout)["errors_of_fit"]
    told: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for row in rows:
        of, load = row.pop("runs_of"), row.pop("load")
        told[of][load] = {name: share for name, share in row.items() if share is not None}
    assert told == shipped
    table = gpuscout("accuracy", "--left-out", cwd=tmp_path)
    assert table.returncode == 0, table.stderr
    itl = shipped["family_left_out"]["closed loop, CDNA3"]["itl"]
    assert re.search(rf"family left out +closed loop, CDNA3 +{100 * itl:.1f} %", table.stdout)
    alone = gpuscout("accuracy", "--left-out", "--measured", "mine.csv", cwd=tmp_path)
    assert alone.returncode == 2
    assert "--left-out takes --constants" in alone.stderr
    document = json.loads(Path(constants.__file__).with_name("constants.json").read_text())
    document["errors"] = {"fitted": shipped["fitted"]}
    (tmp_path / "mine.json").write_text(json.dumps(document))
    not_validated = gpuscout("accuracy", "--left-out", "--constants", "mine.json", cwd=tmp_path)
    assert not_validated.returncode == 2
    assert "nothing was left out" in not_validated.stderr


def test_predictions_never_replace_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text(f"{HEADER}\n{ROW}\n")
    assert execute(["accuracy", "--measured", "mine.csv", "--predictions", "./mine.csv"]) == 2
    assert "--predictions would replace the measured runs in mine.csv" in capsys.readouterr().err
    assert Path("mine.csv").read_text() == f"{HEADER}\n{ROW}\n"
    assert execute(["accuracy", "--measured", "publik"]) == 2
    assert "no file publik\n    --measured takes public, stored or a CSV file" in capsys.readouterr().err


def test_runs_of_a_store_give_the_figures_of_their_file(tmp_path: Path) -> None:
    lines = [ROW.replace("a,", f"r{n},", 1).replace("50,10", f"50,{10 + n}") for n in range(4)]
    (tmp_path / "mine.csv").write_text("\n".join((HEADER, *lines)) + "\n")
    for arguments in (("mine.csv", "--server-version", "0.19.0"), ("public:serving_runs",)):
        done = gpuscout("import", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    stored = gpuscout("accuracy", "--measured", "stored", "--store", "--json", cwd=tmp_path)
    assert stored.returncode == 0, stored.stderr
    file = gpuscout("accuracy", "--measured", "public:serving_runs", "--measured", "mine.csv", "--json", cwd=tmp_path)
    one, other = (json.loads(done.stdout)["accuracy"][0] for done in (stored, file))
    assert one["gpu_choice"] == other["gpu_choice"]
    assert one["loads"]["closed loop"]["total"] == other["loads"]["closed loop"]["total"]
    # What several sources hold counts once, also where the file says less of it.
    sources = ("stored", str(tmp_path / "mine.csv"), "public:serving_runs")
    assert len(measured_runs(sources, f"sqlite:///{tmp_path / 'gpuscout.db'}").runs) == 1986 + 4
    # Of what the engine was fitted to, it brings errors on models left out.
    assert "errors over 4 runs of this store kept; 1,986 public runs excluded" in stored.stderr
    with open_store(f"sqlite:///{tmp_path / 'gpuscout.db'}") as store, store.reading() as connection:
        ids = connection.execute(sa.select(engines.c.id).where(engines.c.name == "roofline")).scalars().all()
        kept = [error for errors in errors_of(connection, ids).values() for _, error in errors]
    assert {(e.gpu_family, e.model_kind, e.runs) for e in kept} == {("Hopper", "dense", 4)}
    wrong = gpuscout("accuracy", "--store", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "--measured stored" in wrong.stderr


def test_short_names_and_request_rates_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(
        f"{HEADER},request_rate\n{ROW},\n{ROW.replace('a,meta-llama/', 'b,').replace(',50,', ',60,')},\n"
        f"{ROW.replace('a,', 'c,', 1).replace(',8,', ',,')},3\n"
    )
    db = f"sqlite:///{tmp_path / 'gpuscout.db'}"
    imported = gpuscout("import", "mine.csv", "--server-version", "0.19.0", cwd=tmp_path)
    assert "3 runs added" in imported.stdout
    found = measured_runs([str(tmp_path / "mine.csv")], db)
    assert [run.model for run in found.runs] == ["meta-llama/Llama-3.1-8B-Instruct"] * 2
    assert found.not_comparable == 1
    # The store calls the model in full: the runs are the same.
    assert len(measured_runs(["stored:*mine.csv", str(tmp_path / "mine.csv")], db).runs) == 2


def test_errors_over_public_runs_that_no_fit_has_seen_are_kept(tmp_path: Path) -> None:
    for arguments in (("import", "public:serving_runs_2026_11"), ("accuracy", "--measured", "stored", "--store")):
        done = gpuscout(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    kept = re.search(r"errors over ([\d,]+) runs of this store kept; ([\d,]+) public runs excluded", done.stderr)
    assert kept is not None, done.stderr
    unseen, fitted = (int(number.replace(",", "")) for number in kept.groups())
    assert unseen > 0 < fitted


def test_models_and_gpus_of_ones_own_are_compared_as_they_were_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A local folder and a GPU file are named at the import, and not again: the store has both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("mine").mkdir()
    Path("mine/config.json").write_bytes(as_file(ModelCatalogue.load().config("Qwen/Qwen3-8B")))
    h100 = GPUCatalogue.load().get("H100-SXM-80GB")
    names = ("vendor", "memory_gb", "memory_bandwidth_gbs", "dense_tflops", "pcie_gbs", "gpus_per_node")
    own = {"name": "X1", "family": "Own", **{name: getattr(h100, name) for name in names}}
    own["dense_tflops"] = dict(h100.dense_tflops)
    Path("own.yaml").write_text(yaml.safe_dump({"gpus": [own]}))
    lines = ["id,model,gpu,tp,precision,server,server_version,input_len,output_len,concurrency,ttft_ms,itl_ms"]
    lines += [f"r{c},mine,X1,1,bf16,vllm,1,1000,100,{c},{50 + c},{8 + c / 10}" for c in range(1, 25)]
    Path("runs.csv").write_text("\n".join(lines))
    assert execute(["import", "runs.csv", "--model", "./mine", "--gpu-file", "own.yaml"]) == 0
    capsys.readouterr()
    assert execute(["accuracy", "--measured", "stored", "--json"]) == 0
    [told] = json.loads(capsys.readouterr().out)["accuracy"]
    assert told["loads"]["closed loop"]["total"]["answered"] == told["runs"] == 24
    assert execute(["calibrate", "--measured", "stored", "--no-validate", "-o", "own.json"]) == 0
    assert "add\n  --measured public" in capsys.readouterr().out
    assert execute(["accuracy", "--measured", "stored", "--constants", "own.json", "--json"]) == 0
    [fitted] = json.loads(capsys.readouterr().out)["accuracy"]
    errors = [one["loads"]["closed loop"]["total"]["metrics"]["itl"]["median"] for one in (told, fitted)]
    assert errors[1] < errors[0]
    # Where no store tells, the file has to, and a folder is no name.
    empty = ("--db", "sqlite:///none.db", "--gpu-file", "own.yaml")
    assert execute(["accuracy", "--measured", "runs.csv", *empty]) == 5
    assert 'roofline answered none of 24 runs: unknown model "mine"' in capsys.readouterr().err
    assert execute(["accuracy", "--measured", "stored:nothing"]) == 2
    assert "no measured runs in stored:nothing" in capsys.readouterr().err
    assert execute(["calibrate", "--measured", "stored", "-o", "no/folder.json"]) == 2


def test_the_choice_can_be_made_with_other_prices_and_drawn(serving: AccuracyReport, tmp_path: Path) -> None:
    prices = {"H100-SXM-80GB": 1.0, "H200-SXM-141GB": 1.0, "B200": 9.0, "B300": 100.0}
    options = [word for gpu, usd in prices.items() for word in ("--price", f"{gpu}={usd}")]
    arguments = ("accuracy", "--measured", "public:serving_runs", "--json", "--plot", "plot.html")
    done = gpuscout(*arguments, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = gpu_choice(serving.estimates, prices)
    assert expected is not None
    assert json.loads(done.stdout)["accuracy"][0]["gpu_choice"] == pytest.approx(dataclasses.asdict(expected))
    assert expected != serving.choice
    drawn = (tmp_path / "plot.html").read_text()
    assert drawn.startswith("<!doctype html>")
    assert drawn.count("<svg") == 1
    assert "http-equiv" not in drawn
    wrong = gpuscout("accuracy", "--plot", "plot.docx", cwd=tmp_path)
    assert wrong.returncode == 2
    assert ".png, .svg, .html" in wrong.stderr
