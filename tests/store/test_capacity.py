"""Sizing for a load: replicas, nodes and money add up, and `gpuscout capacity` says so on both databases."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscout import run
from gpuscout.runner.cli.main import execute
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.prices.prices import GpuPrice, PriceRules, Quote, packed
from gpuscout.store.queries.sizing.capacity import HOURS_PER_MONTH, Demand, load_at, plan, replicas_for
from gpuscout.store.queries.sizing.capacity_question import Rate, capacity
from gpuscout.store.ranking.rank import Question
from gpuscout.store.ranking.types import Cause
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.slo import parse_slo
from gpuscout.sweeps.spec.spec import spec_from_mapping
from tests.support.ranked import a_config
from tests.support.swept import swept

SPEC = {
    "name": "small",
    "models": ["Qwen/Qwen3-8B"],
    "gpus": ["H100", "L4", "GH200-96GB"],
    "tensor_parallel": [1, 2, 4, 8],
    "workloads": ["chat", "rag"],
    "concurrency": [1, 4, 16, 64],
}
rates = st.floats(0.01, 1e5)
demands = st.builds(
    Demand,
    headroom=st.floats(0, 0.9),
    min_replicas=st.integers(1, 9),
    spare=st.integers(0, 3),
    whole_nodes=st.booleans(),
)


@given(rates, rates, demands)
def test_replicas_carry_the_rate_and_none_is_too_many(rate: float, each: float, demand: Demand) -> None:
    replicas = replicas_for(rate, each, demand)
    usable = each * (1 - demand.headroom)
    needed = replicas - demand.spare
    assert replicas >= demand.min_replicas
    assert needed * usable >= rate * (1 - 1e-6)
    if replicas > demand.min_replicas and needed > 1:
        assert (needed - 1) * usable < rate


@given(st.integers(1, 64), st.integers(1, 100), st.integers(1, 16))
def test_machines_hold_the_replicas_and_one_fewer_would_not(num_gpus: int, replicas: int, size: int) -> None:
    machines = packed(num_gpus, replicas, size)
    held = size // num_gpus if num_gpus <= size else 0
    if held:
        assert (machines - 1) * held < replicas <= machines * held
    else:
        assert machines == replicas * math.ceil(num_gpus / size)
    assert machines * size >= num_gpus * replicas


@given(rates, rates, demands, st.sampled_from([1, 2, 3, 4, 8, 16]), st.sampled_from([1, 2, 4, 8]), st.floats(0.1, 20))
def test_money_is_that_of_all_gpus_that_run(
    rate: float, each: float, demand: Demand, num_gpus: int, per_node: int, usd: float
) -> None:
    price = GpuPrice("H100", (), override=usd)
    found = plan(a_config(each, num_gpus), rate, 512, demand, per_node, price)
    assert found is not None
    assert found.usd_per_hour is not None
    assert found.gpus == found.replicas * num_gpus <= found.nodes * per_node
    paid = found.nodes * per_node if demand.whole_nodes else found.gpus
    assert found.gpus_paid == paid
    assert found.usd_per_hour.usd == pytest.approx(paid * usd)
    assert found.usd_per_month == pytest.approx(paid * usd * HOURS_PER_MONTH)
    assert found.usd_per_mtok == pytest.approx(paid * usd / (rate * 512 * 3600 / 1e6))
    assert found.headroom >= demand.headroom - 1e-6
    # A replica is never asked for more than it sustains.
    assert rate / found.replicas <= each * (1 + 1e-6)


def test_replicas_share_an_instance_of_a_price() -> None:
    quote = Quote("b", "H100", "p", 2.0, date(2026, 1, 1), gpus_per_instance=8)
    price = GpuPrice("H100", (quote,), whole_instances=True)
    assert price.per_hour(2, 5).usd == 2 * 8 * 2.0  # four of them on one instance
    assert price.per_hour(3, 4).usd == 2 * 8 * 2.0  # two of them: none is cut in two
    assert price.per_hour(16, 2).usd == 4 * 8 * 2.0
    assert price.per_hour(16).usd == 2 * 8 * 2.0


def test_the_latency_at_a_rate_lies_between_stored_points() -> None:
    curve = [(1, 1.0, 50.0, 10.0, None), (4, 3.0, 70.0, 20.0, 2.0), (8, 4.0, 90.0, 40.0, 3.0)]
    low = load_at(curve, 0.5)
    assert low is not None
    assert (low.concurrency, low.ttft_ms, low.itl_ms, low.e2e_s) == (1, 50.0, 10.0, None)
    middle = load_at(curve, 2.0)
    assert middle is not None
    assert (middle.concurrency, middle.ttft_ms, middle.itl_ms, middle.e2e_s) == (2.5, 60.0, 15.0, None)
    assert load_at(curve, 5.0) is None


@pytest.mark.parametrize("wrong", [{"headroom": 1.0}, {"headroom": -0.1}, {"min_replicas": 0}, {"spare": -1}])
def test_demands_that_mean_nothing(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Demand(**wrong)  # type: ignore[arg-type]


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with swept(tmp_path_factory.mktemp("capacity"), SPEC) as url:
        yield url


def ask(capsys: pytest.CaptureFixture[str], url: str, *arguments: str) -> str:
    capsys.readouterr()
    assert execute(["capacity", "--db", url, "--price", "GH200-96GB=3", *arguments]) in (
        0,
        6,
    )  # 6: nothing can carry it
    return capsys.readouterr().out


def test_both_databases_size_alike(
    store: Store, store_url: str, capsys: pytest.CaptureFixture[str], database: str
) -> None:
    run(spec_from_mapping(SPEC), store)
    arguments = ("--rate", "20", "--slo", "itl<=15ms", "--json")

    def without_ids(text: str) -> list[object]:
        groups = json.loads(text)["groups"]
        for group in groups:
            for row in (*group["best_per_gpu"], *(out["nearest"] for out in group["out"])):
                row.pop("task_id")
        return groups

    assert without_ids(ask(capsys, store_url, *arguments)) == without_ids(ask(capsys, database, *arguments))


def test_the_document_adds_up(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(ask(capsys, database, "--rate", "600/min", "--slo", "itl<=15ms", "--top", "3", "--json"))
    assert (document["headroom"], document["hours_per_month"], document["slos"]) == (0.2, 730, ["itl<=15ms"])
    chat, rag = document["groups"]
    assert (chat["workload"], chat["requests_per_s"], chat["output_tokens_per_s"]) == ("chat", 10, 5120)
    costs = [row["usd_per_hour"] for row in chat["best_per_gpu"]]
    assert costs == sorted(costs)
    assert len({row["gpu"] for row in chat["best_per_gpu"]}) == len(costs) > 1
    assert len(chat["further"]) == 3
    for row in (*chat["best_per_gpu"], *chat["further"], *rag["best_per_gpu"]):
        assert row["itl_ms"] <= 15
        assert row["replicas"] * row["requests_per_s_per_replica"] * (1 - 0.2) >= 10 * (1 - 1e-9)
        assert row["usd_per_hour_lowest_price"] <= row["usd_per_hour"] <= row["usd_per_hour_highest_price"]
        # At its share of the rate a replica is not slower than at full load.
        assert row["at_rate_itl_ms"] <= row["itl_ms"] * (1 + 1e-9)
        assert row["at_rate_concurrency"] <= row["concurrency"]
    grace = next(row for row in chat["best_per_gpu"] if row["gpu"] == "GH200-96GB")
    assert (grace["gpus_per_node"], grace["replicas_per_node"], grace["nodes"]) == (1, 1, grace["gpus"])


def test_what_cannot_carry_it_says_why(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    (group,) = json.loads(ask(capsys, database, "--rate", "chat=5", "--slo", "itl<=7ms", "--json"))["groups"]
    (out,) = group["out"]
    assert (out["gpu"], out["cause"], out["slo"]) == ("L4", "misses_slo", "itl<=7ms")
    assert out["configurations"] == 4
    assert "out: L4: misses ITL <= 7 ms; nearest L4 x8" in " ".join(
        ask(capsys, database, "--rate", "chat=5", "--slo", "itl<=7ms").split()
    )
    nothing = ask(capsys, database, "--rate", "chat=5", "--slo", "itl<=0.01ms")
    assert "no configuration can carry it" in nothing


@pytest.mark.slow
def test_forms_of_output_and_of_rates(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ask(capsys, database, "--rate", "chat=20", "--rate", "rag=5", "--spare", "1", "--whole-nodes")
    assert "ITL <= 50 ms (unless --slo names others; --no-slo lifts it)" in " ".join(shown.split())
    assert "no limit on latencies" in ask(capsys, database, "--rate", "chat=20", "--no-slo")
    shown = " ".join(shown.split())
    assert "1 to spare; whole nodes are paid" in shown
    assert "each with replicas of its own" in " ".join(shown.split())
    assert "as if all estimates erred alike); safe" in shown
    both = json.loads(ask(capsys, database, "--rate", "chat=20", "--rate", "rag=5", "--json"))
    first = [group["best_per_gpu"][0] for group in both["groups"]]
    (sums,) = both["together"]
    assert (sums.pop("model"), sums.pop("workloads")) == (both["groups"][0]["model"], 2)
    assert sums == {name: pytest.approx(sum(plan[name] for plan in first)) for name in sums}
    assert {"gpus", "usd_per_month", "usd_per_month_low", "usd_per_month_high", "safe_gpus"} < sums.keys()
    assert json.loads(ask(capsys, database, "--rate", "chat=20", "--json"))["together"] == []
    rows = list(csv.DictReader(io.StringIO(ask(capsys, database, "--tokens-rate", "chat=10240", "--csv"))))
    assert {row["workload"] for row in rows} == {"chat"}
    assert {float(row["requests_per_s"]) for row in rows} == {20.0}
    assert ask(capsys, database, "--rate", "20", "--md").startswith("| model |")
    narrow = ask(capsys, database, "--rate", "20", "--workload", "chat")
    assert "ITL <= 50 ms (unless" in narrow
    unpriced = ask(capsys, database, "--rate", "20", "--workload", "chat", "--provider", "Nebius")
    assert "without a price: L4; --price 'L4'=USD" in unpriced


def test_a_narrow_terminal(database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = ask(capsys, database, "--rate", "20000", "--slo", "itl<=15ms")
    assert max(map(len, shown.splitlines())) <= 80
    assert "USD/month (80 % range)" in shown
    assert "safe" in shown


def test_an_assumed_percentile_is_said_to_be_one(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--rate", "20", "--slo", "ttft:p95<=1s", "--assume-tail", "1.5")
    assert "assumed to be 1.5 x the mean (--assume-tail)" in " ".join(ask(capsys, database, *asked).split())
    document = json.loads(ask(capsys, database, *asked, "--json"))
    assert {plan["assumed_tail"] for group in document["groups"] for plan in group["best_per_gpu"]} == {1.5}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--rate", "0"],
        ["--rate", "fast"],
        ["--rate", "nowhere=5"],
        ["--rate", "chat=5", "--rate", "chat=6"],
        ["--rate", "5", "--rate", "chat=6"],
        ["--rate", "chat=5", "--workload", "rag"],
        ["--rate", "5", "--headroom", "1"],
        ["--rate", "5", "--json", "--csv"],
    ],
)
def test_wrong_options_are_input_errors(database: str, arguments: list[str]) -> None:
    assert execute(["capacity", "--db", database, *arguments]) == 2


@pytest.mark.parametrize("command", [["capacity"], ["place", "--have", "H100=8"]])
def test_the_highest_loads_are_named(database: str, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    for flag, load, told in (
        (
            "--rate",
            "chat=1.5e9",
            "invalid load 1.5e+09: expected more than 0, at most 1,000,000,000 requests per second",
        ),
        ("--tokens-rate", "chat=2e12", "at most 1,000,000,000,000 output tokens per second"),
        ("--users", "chat=2e9", "at most 1,000,000,000 users"),
        ("--users", "5/min", '--users: invalid number of users "5/min": expected a positive number'),
        ("--rate", "-5", '--rate: invalid rate "-5": expected a positive number, optionally with /s, /min or /h'),
    ):
        if flag == "--users" and command[0] == "place":
            continue
        assert execute([*command, "--db", database, flag, load]) == 2
        assert told in " ".join(capsys.readouterr().err.split())
    assert execute([*command, "--db", database, "--rate", "chat=1e9"]) in (0, 6)
    shown = " ".join(capsys.readouterr().out.split())
    if command[0] == "place":
        assert (
            "not everything fits, and with up to 100,000 further nodes of each stored type no solution was found"
            in shown
        )


# --- what is sure, and what is not -------------------------------------------------------------------------------


def test_a_plan_is_sized_for_what_is_expected_and_for_what_is_sure(database: str) -> None:
    question = Question(slos=(parse_slo("itl<=15ms"), parse_slo("ttft<=500ms")), workload="chat")
    with open_store(database) as store, store.reading() as connection:
        found = capacity(connection, question, [Rate(200.0)], Demand())
        (group,) = capacity(connection, replace(question, confidence=0.9), [Rate(200.0)], Demand()).groups
    surely = {sized.config.task_id: sized for sized in (*group.plans, *group.further, *group.cut)}
    plans = [sized for one in found.groups for sized in (*one.plans, *one.cut)]
    assert any(sized.safe for sized in plans)
    for sized in plans:
        if sized.usd_per_hour is not None:
            assert sized.usd_per_hour_range is not None
            low, high = sized.usd_per_hour_range
            assert low <= sized.usd_per_hour.usd <= high
        assert sized.config.chances
        if sized.safe is not None:
            # The same configuration, at the figures of a ranking that asks for a confidence of 0.9.
            assert sized.safe.config.task_id == sized.config.task_id
            assert sized.safe.replicas >= sized.replicas
            assert all((chance.probability or 1) >= 0.89 for chance in sized.safe.config.chances)
        if sized.config.task_id in surely:
            assert sized.safe is not None
            assert sized.safe.replicas == surely[sized.config.task_id].replicas


def test_options_far_beyond_the_best_are_cut(database: str) -> None:
    question = Question(
        workload="chat", prices=PriceRules(overrides={"H100-SXM-80GB": 1.0, "L4": 9.0, "GH200-96GB": 1.0})
    )
    with open_store(database) as store, store.reading() as connection:
        (group,) = capacity(connection, question, [Rate(200.0)], Demand()).groups
    assert [plan.config.gpu for plan in group.cut] == ["L4"]
    assert "L4" not in {plan.config.gpu for plan in group.plans}
    first = group.plans[0].usd_per_hour
    assert first is not None
    assert all(plan.usd_per_hour and plan.usd_per_hour.usd > 5 * first.usd for plan in group.cut)


def test_what_measurements_back_is_sized_first_and_the_cheaper_one_is_named(database: str) -> None:
    """The engine has runs on several H100s near this, and none on several L4s."""
    prices = PriceRules(overrides={"H100-SXM-80GB": 9.0, "L4": 0.01, "GH200-96GB": 9.0})
    question = Question(workload="chat", prices=prices, tensor_parallel=(2,))
    with open_store(database) as store, store.reading() as connection:
        (group,) = capacity(connection, question, [Rate(20.0)], Demand()).groups
        (alike,) = capacity(connection, replace(question, trust="any"), [Rate(20.0)], Demand()).groups
    assert group.plans[0].config.backed
    assert group.unproven is not None
    assert (group.unproven.config.gpu, group.unproven.config.backed) == ("L4", False)
    assert alike.plans[0].config.gpu == "L4"
    assert alike.unproven is None


def test_the_reason_is_that_of_the_best_configuration_of_a_gpu(database: str) -> None:
    """Some sizes do not fit; the reason is what keeps the size that comes furthest."""
    with open_store(database) as store, store.reading() as connection:
        question = Question(workload="rag", slos=(parse_slo("ttft:p95<=1s"),))
        (group,) = capacity(connection, question, [Rate(20.0)], Demand()).groups
        assert {out.gpu: out.cause for out in group.out} == dict.fromkeys(
            ("GH200-96GB", "H100-SXM-80GB", "L4"), Cause.NO_PERCENTILE
        )
        (group,) = capacity(connection, Question(workload="rag", trust="measured"), [Rate(20.0)], Demand()).groups
        assert {out.cause for out in group.out} == {Cause.NOT_TRUSTED}


def test_users_are_requests_in_flight(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(ask(capsys, database, "--users", "100", "--workload", "chat", "--headroom", "0", "--json"))
    [group] = found["groups"]
    assert group["users"] == 100
    for plan_of in group["best_per_gpu"]:
        assert plan_of["replicas"] == math.ceil(100 / plan_of["concurrency"])
    told = " ".join(ask(capsys, database, "--users", "chat=100").split())
    assert "100 users at once, each with a request in flight" in told
