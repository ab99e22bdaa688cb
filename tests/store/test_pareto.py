"""The frontier: against its definition, on arrays and on stores; and the command."""

from __future__ import annotations

import csv
import io
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscout.runner.cli.main import execute
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.prices.prices import PriceRules
from gpuscout.store.queries.frames import to_dataframe
from gpuscout.store.queries.operating_points.pareto import METRICS, Pareto, frontier, metric_of, pareto
from gpuscout.store.queries.operating_points.points import query
from gpuscout.store.ranking.question.asked import Question
from gpuscout.sweeps.errors import InputError, UnknownNameError
from gpuscout.sweeps.slo import parse_slo
from tests.support.rank_stores import a_run, an_answer, fill
from tests.support.stores import new_store

# No book is so old.
PRICES = PriceRules(overrides={"L40S": 2.0, "L4": 0.5}, as_of=date(2000, 1, 1))


def dominates(one: Any, other: Any) -> bool:
    """At least as good in all figures, less being better, and better in one; equal to six decimals is equal."""
    one, other = (np.rint(np.array(point) * 1e6) for point in (one, other))
    return bool((one <= other).all() and (one < other).any())


@settings(max_examples=200, deadline=None)
@given(
    points=st.integers(2, 3).flatmap(
        lambda k: st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, 1.0000001, 2.5, 3.0, 4.0])] * k), max_size=40)
    )
)
def test_the_frontier_is_what_its_definition_says(points: list[tuple[float, ...]]) -> None:
    figures = np.array(points, dtype=np.float64).reshape(len(points), -1).T if points else np.empty((2, 0))
    best = frontier(figures)
    on = [point for point, kept in zip(points, best, strict=True) if kept]
    for point, kept in zip(points, best, strict=True):
        # What is off the frontier is dominated by a point on it.
        assert any(dominates(other, point) for other in on) == (not kept)


@pytest.mark.parametrize("metrics", [2, 3])
@pytest.mark.parametrize("kind", ["random", "many equal", "all on it"])
def test_large_frontiers_are_what_their_definition_says(metrics: int, kind: str) -> None:
    rng = np.random.default_rng(7)
    figures = rng.random((metrics, 5_000))
    if kind == "many equal":
        figures = np.rint(figures * 12)
    if kind == "all on it":
        figures[-1] = -figures[-2]
    expected = np.ones(figures.shape[1], dtype=bool)
    others = np.rint(figures * 1e6)
    for position, point in enumerate(others.T):
        expected[position] = not ((others <= point[:, None]).all(axis=0) & (others < point[:, None]).any(axis=0)).any()
    assert np.array_equal(frontier(figures), expected)
    assert kind != "all on it" or expected.mean() > 0.99  # but for figures that are equal to six decimals


def a_store(store: Store) -> None:
    """Curves of three GPU types under two models, one without a price, with queued points and a measured run."""

    def curve(itl_ms: float, tokens: float) -> dict[int, dict[str, Any]]:
        return {
            c: {
                "itl_ms": itl_ms * (1 + c / 4),
                "output_tokens_per_s": tokens * c,
                "queued": c == 8,
                "ttft_ms": 10.0 * c,
            }
            for c in (1, 2, 4, 8)
        }

    answers = [
        an_answer(model=model, gpu=gpu, tensor_parallel=tp, points=curve(itl * (2 - tp / 2), tokens * tp**0.8))
        for model in ("a/One", "a/Two")
        for gpu, itl, tokens in (("H100", 4.0, 100.0), ("L4", 20.0, 30.0), ("L40S", 10.0, 60.0))
        for tp in (1, 2)
    ]
    with store.writing() as connection:
        fill(connection, answers, [a_run(gpu="L4", itl_ms=4.25, output_tokens_per_s=333.0)])


def ask(store: Store, *metrics: str, **how: Any) -> Pareto:
    question = Question(prices=PRICES, **how.pop("question", {}))
    with store.reading() as connection:
        return pareto(connection, question, metrics, columns=["gpu", "num_gpus", "concurrency", "kind"], **how)


def test_stored_points_are_marked_as_the_definition_says(store: Store) -> None:
    a_store(store)
    metrics = ("cost", "interactivity", "ttft")
    axes = [METRICS[name] for name in metrics]
    found = ask(store, *metrics, dominated=True)
    assert [front.model for front in found.fronts] == ["a/One", "a/Two"]
    for front in found.fronts:
        figures = [[point[axis.column] * (-1 if axis.more_is_better else 1) for axis in axes] for point in front.points]
        on = [one for one, point in zip(figures, front.points, strict=True) if not point["dominated"]]
        for one, point in zip(figures, front.points, strict=True):
            assert any(dominates(other, one) for other in on) == point["dominated"]
        # Two sizes of three GPU types: the H100 has no price, a quarter of the points waits.
        assert front.considered == len(front.points) == 2 * 2 * 3 + (front.model == "a/One")
        assert (front.queued, front.incomplete) == (2 * 3, 2 * 3)
        costs = [point["usd_per_mtok"] for point in front.points if not point["dominated"]]
        assert costs == sorted(costs)
    assert len(to_dataframe(found)) == 25


def test_every_metric_reads_the_column_it_names(store: Store) -> None:
    a_store(store)
    with store.reading() as connection:
        rows = list(query(connection, Question(prices=PRICES, kinds=("measured",))))
    for name, metric in METRICS.items():
        other = "ttft" if name != "ttft" else "itl"
        (front,) = ask(store, name, other, question={"kinds": ("measured",)}).fronts
        assert front.points[0][metric.column] == rows[0][metric.column], name
        assert metric_of(name.replace("-", "_").upper()) is metric


def test_across_filters_limits_and_queued_points(store: Store) -> None:
    a_store(store)
    (across,) = ask(store, "itl", "throughput", across=True).fronts
    assert across.model is None
    assert across.considered == 2 * 6 * 3 + 1
    (queued,) = ask(store, "itl", "throughput", queued=True, question={"models": ("a/Two",)}).fronts
    assert queued.considered == 6 * 4
    limited = ask(store, "itl", "throughput", dominated=True, question={"slos": (parse_slo("itl<=6ms"),)})
    assert {point["itl_ms"] <= 6 for front in limited.fronts for point in front.points} == {True}
    equal = ask(store, "cost-per-hour", "num-gpus", question={"models": ("a/Two",), "gpus": ("L4",)})
    assert len(equal.fronts[0].points) == 3  # equal in both: all are kept


def test_what_cannot_be_asked(store: Store) -> None:
    a_store(store)
    with pytest.raises(UnknownNameError, match='unknown metric "latency"'):
        ask(store, "cost", "latency")
    for metrics in (("cost",), ("cost", "cost"), ("cost", "itl", "ttft", "e2e")):
        with pytest.raises(InputError, match="two or three different metrics"):
            ask(store, *metrics)
    with pytest.raises(InputError, match="nothing in the store"):
        ask(store, "cost", "itl", question={"max_gpus": 1, "tensor_parallel": (2,)})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    url = new_store(tmp_path)
    with open_store(url) as store:
        a_store(store)
        expected = ask(store, "cost", "itl")
    monkeypatch.setenv("COLUMNS", "80")
    asked = ["pareto", "--db", url, "--metrics", "cost,itl", "--price", "L40S=2", "--price", "L4=0.5"]
    asked += ["--as-of", "2000-01-01"]
    points = [point for front in expected.fronts for point in front.points]

    assert execute([*asked, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [point["usd_per_mtok"] for point in document["points"]] == [point["usd_per_mtok"] for point in points]
    assert document["metrics"][0] == {
        "name": "cost", "column": "usd_per_mtok", "unit": "USD/Mtok", "more_is_better": False
    }  # fmt: skip
    assert execute([*asked, "--csv", "--all"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert sum(row["dominated"] == "false" for row in rows) == len(points)
    assert len(rows) > len(points)
    assert execute(asked) == 0
    shown = capsys.readouterr().out
    assert f"{len(expected.fronts[0].points)} of 13 points on the frontier of cost (USD/Mtok), ITL (ms)" in shown
    assert "left out: 6 wait for memory (--queued); 6 lack one of the figures" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert execute([*asked, "--metrics", "costs,itl"]) == 2
    assert "did you mean cost" in capsys.readouterr().err


def test_a_plot_of_too_much_is_refused_before_anything_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = new_store(tmp_path)
    with open_store(url) as store, store.writing() as connection:
        fill(connection, [an_answer(lengths=(1000 + number, 512)) for number in range(13)])
    asked = ["pareto", "--db", url, "--metrics", "itl,throughput", "--plot", str(tmp_path / "many.svg")]
    assert execute(asked) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "12 pairs of model and workload at most" in shown.err


def test_limits_that_no_point_meets_are_named_and_not_the_filters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = new_store(tmp_path)
    with open_store(url) as store, store.writing() as connection:
        fill(connection, [an_answer()])
    asked = ["pareto", "--db", url, "--metrics", "itl,throughput"]
    assert execute([*asked, "--slo", "itl<=1ms", "--json"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert (document["points"], document["slos"]) == ([], ["itl<=1ms"])
    assert shown.err.strip() == "no stored point meets ITL <= 1 ms"
    assert execute([*asked, "--slo", "itl:p95<=1s"]) == 0
    assert "estimates have no such percentile: --assume-tail" in capsys.readouterr().err
    assert execute([*asked, "--slo", "itl<=1ms", "--plot", str(tmp_path / "none.svg")]) == 2
    assert execute([*asked, "--slo", "itl<=1ms", "--max-gpus", "1", "--tp", "8"]) == 2
    assert "nothing in the store matches all of these filters" in capsys.readouterr().err
