"""Placing on GPUs that are there: the least of all placements, what is missing, and where GPUs are read from."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuscout
from gpuscout import run
from gpuscout.runner.cli.main import execute
from gpuscout.runner.resolve.fleet import fleet_from, read_fleet
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.queries.placements.nodes import Need, Nodes, Placement
from gpuscout.store.queries.placements.placement import candidates, missing, place
from gpuscout.store.queries.placements.placement_question import Rules
from gpuscout.sweeps.errors import InputError, UnknownNameError
from gpuscout.sweeps.spec.spec import spec_from_mapping
from tests.support.ranked import a_config
from tests.support.swept import swept

SPEC = {
    "name": "small",
    "models": ["Qwen/Qwen3-8B", "Qwen/Qwen3-32B"],
    "gpus": ["H100", "L4"],
    "tensor_parallel": [1, 2, 4, 8],
    "workloads": ["chat", "rag"],
    "concurrency": [1, 4, 16, 64],
}
SIZES = {"H100": 4, "L4": 4}


def a_need(rate: float, *configs: tuple[str, int, float]) -> Need:
    """A rate, and configurations as GPU, number of GPUs, requests/s."""
    group = SimpleNamespace(output_len=512, model="a/One", workload="chat", input_len=1024)
    return Need(group, rate, tuple(a_config(each, number, gpu) for gpu, number, each in configs))  # type: ignore[arg-type]


def packs(sizes: list[int], nodes: list[int]) -> bool:
    """Whether replicas of these sizes fit nodes with so many free GPUs."""
    if not sizes:
        return True
    first, *rest = sorted(sizes, reverse=True)
    for place_of_node in {room: i for i, room in enumerate(nodes) if room >= first}.values():
        left = list(nodes)
        left[place_of_node] -= first
        if packs(rest, left):
            return True
    return False


def least_of_all(needs: Sequence[Need], pools: Sequence[Nodes], headroom: float) -> int | None:
    """The fewest GPUs, by trying every number of replicas of every configuration."""
    ways = []
    for need in needs:
        most = [int(need.rate / (1 - headroom) / (c.requests_per_s or 1)) + 1 for c in need.configs]
        options = []
        for counts in product(*(range(n + 1) for n in most)):
            carried = sum(c.requests_per_s * n for c, n in zip(need.configs, counts, strict=True))
            if carried >= need.rate / (1 - headroom) * (1 - 1e-6) and any(counts):
                options.append([c for c, n in zip(need.configs, counts, strict=True) for _ in range(n)])
        ways.append(options)
    best: int | None = None
    for chosen in product(*ways):
        replicas = [config for some in chosen for config in some]
        used = sum(config.num_gpus for config in replicas)
        if best is not None and used >= best:
            continue
        if all(
            packs(
                [config.num_gpus for config in replicas if config.gpu == gpu],
                [pool.gpus_per_node for pool in pools if pool.gpu == gpu for _ in range(pool.nodes)],
            )
            for gpu in SIZES
        ):
            best = used
    return best


configs = st.lists(
    st.tuples(st.sampled_from(["H100", "L4"]), st.integers(1, 4), st.sampled_from([1.0, 1.5, 2.0, 3.0, 5.0])),
    min_size=1,
    max_size=3,
    unique_by=lambda one: one[:2],
)
all_needs = st.lists(
    st.builds(lambda rate, some: a_need(rate, *some), st.sampled_from([0.5, 2.0, 3.0, 4.5]), configs),
    min_size=1,
    max_size=2,
)
all_pools = st.lists(
    st.builds(Nodes, st.sampled_from(["H100", "L4"]), st.integers(1, 4), st.integers(1, 2)),
    min_size=1, max_size=3, unique_by=lambda pool: (pool.gpu, pool.gpus_per_node),
)  # fmt: skip


def allowed(need: Need, pools: Sequence[Nodes]) -> Need:
    """The need with the configurations that fit a node that is there."""
    largest = {gpu: max((pool.gpus_per_node for pool in pools if pool.gpu == gpu), default=0) for gpu in SIZES}
    kept = tuple(config for config in need.configs if config.num_gpus <= largest[config.gpu])
    return Need(need.group, need.rate, kept)


def check(placement: Placement, needs: Sequence[Need], pools: Sequence[Nodes], headroom: float) -> None:
    """A placement carries what it has to, on nodes that are there."""
    for number, need in enumerate(needs):
        mine = [one for one in placement.placed if one.need == number]
        carried = sum((one.config.requests_per_s or 0) * one.replicas for one in mine)
        assert carried >= need.rate / (1 - headroom) * (1 - 1e-5)
        held = sum(one.nodes * count for one in placement.filled for n, _, count in one.contents if n == number)
        assert held == sum(one.replicas for one in mine)
    for pool in pools:
        here = [one for one in placement.filled if (one.gpu, one.gpus_per_node) == (pool.gpu, pool.gpus_per_node)]
        assert sum(one.nodes for one in here) <= pool.nodes
        for one in here:
            assert sum(config.num_gpus * count for _, config, count in one.contents) <= pool.gpus_per_node


@settings(max_examples=60, deadline=None)
@given(all_needs, all_pools, st.sampled_from([0.0, 0.2]))
def test_nothing_uses_fewer_gpus(needs: list[Need], pools: list[Nodes], headroom: float) -> None:
    found = place(needs, pools, SIZES, headroom=headroom)
    best = least_of_all([allowed(need, pools) for need in needs], pools, headroom)
    assert (found and found.gpus) == best
    if found is not None:
        assert (found.used, found.bound, found.gap) == (found.gpus, found.gpus, 0)
        check(found, needs, pools, headroom)


@settings(max_examples=25, deadline=None)
@given(all_needs, all_pools)
def test_fewer_than_what_is_missing_do_not_do(needs: list[Need], pools: list[Nodes]) -> None:
    if place(needs, pools, SIZES, headroom=0) is not None:
        return
    for option in missing(needs, pools, SIZES, SIZES, headroom=0):
        added = option.added
        assert option.bound == option.gpus == sum(one.gpus for one in added)
        # All of the added types, one GPU a node less at a time: with these it fits, with one fewer it does not.
        assert all(one.gpus <= one.nodes * 4 and one.gpus_per_node == 4 for one in added)
        if len(added) > 1:
            continue
        (one,) = added
        nodes = [Nodes(one.gpu, 4, one.nodes)]
        fits = place(needs, [*pools, *nodes], SIZES, headroom=0)
        assert fits is not None
        if one.gpus <= 4:
            fewer = [*pools, Nodes(one.gpu, one.gpus - 1, 1)] if one.gpus > 1 else pools
            assert place(needs, fewer, SIZES, headroom=0) is None


def test_sizes_that_do_not_divide_a_node() -> None:
    # Four replicas of 3 GPUs on nodes of 8: two a node, and the rest of each is 2, not 4 together.
    need, small = a_need(4, ("H100", 3, 1.0)), a_need(1, ("H100", 4, 1.0))
    nodes = [Nodes("H100", 8, 2)]
    found = place([need], nodes, {"H100": 8}, headroom=0)
    assert found is not None
    assert (found.gpus, [(one.nodes, one.contents[0][2]) for one in found.filled]) == (12, [(2, 2)])
    assert place([need, small], nodes, {"H100": 8}, headroom=0) is None
    ((added,),) = [one.added for one in missing([need, small], nodes, {"H100": 8}, ["H100"], headroom=0)]
    assert (added.gpus, added.nodes) == (3, 1)  # a replica of 3 moves, 4 fit where it was


def test_replicas_that_span_nodes_take_whole_ones() -> None:
    big = a_need(1, ("H100", 12, 1.0))
    assert candidates(big, {"H100": 8}, Nodes("H100", 4, 9)) == []  # its TP 12 would not stay within a node
    found = place([big, a_need(1, ("H100", 1, 1.0))], [Nodes("H100", 8, 3)], {"H100": 8}, headroom=0)
    assert found is not None
    assert found.gpus == 17
    assert {(one.nodes, one.nodes_per_replica) for one in found.filled} == {(2, 2), (1, 1)}
    assert place([big, a_need(1, ("H100", 1, 1.0))], [Nodes("H100", 8, 2)], {"H100": 8}, headroom=0) is None
    # Estimated within a node of 8: nothing is known of it on two nodes of 4.
    assert place([a_need(1, ("H100", 8, 1.0))], [Nodes("H100", 4, 2)], {"H100": 8}, headroom=0) is None


def test_what_smaller_replicas_do_as_well_is_not_tried() -> None:
    def kept(*configs: tuple[str, int, float], size: int = 8) -> list[int]:
        need = a_need(1, *configs)
        return [config.num_gpus for config, _ in candidates(need, {"H100": 8}, Nodes("H100", size, 9))]

    assert kept(("H100", 1, 1.0), ("H100", 2, 2.0), ("H100", 4, 4.5)) == [1, 4]
    assert kept(("H100", 3, 1.0), ("H100", 8, 2.1)) == [3, 8]
    # Of 5 GPUs one fits each of the two nodes that 15 take.
    assert kept(("H100", 5, 1.0), ("H100", 15, 2.5)) == [5, 15]
    assert kept(("H100", 5, 1.0), ("H100", 15, 2.0)) == [5]
    assert kept(("H100", 16, 1.0), ("H100", 32, 2.0), ("H100", 40, 2.5)) == [16, 40]


def test_what_is_least_is_ones_own_choice() -> None:
    need = a_need(4, ("H100", 1, 2.0), ("L4", 1, 1.0))
    pools = [Nodes("H100", 4, 1), Nodes("L4", 4, 1)]
    found = place([need], pools, SIZES, headroom=0)
    cheap = place([need], pools, SIZES, headroom=0, weights={"H100": 5.0, "L4": 1.0})
    assert found is not None
    assert cheap is not None
    assert ({one.config.gpu for one in found.placed}, found.used) == ({"H100"}, 2)
    assert ({one.config.gpu for one in cheap.placed}, cheap.used) == ({"L4"}, 4.0)
    both = place([need], pools, SIZES, headroom=0, min_replicas=5, weights={"H100": 5.0, "L4": 1.0})
    assert both is not None
    assert sum(one.replicas for one in both.placed) == 5


def test_two_types_are_missing_where_none_alone_does() -> None:
    needs = [a_need(1, ("H100", 1, 1.0)), a_need(1, ("L4", 2, 1.0))]
    (option,) = missing(needs, [Nodes("A10G", 4, 1)], SIZES | {"A10G": 4}, ["H100", "L4"], headroom=0)
    first, second = option.added
    assert [(one.gpu, one.gpus) for one in (first, second)] == [("H100", 1), ("L4", 2)]


# --- where GPUs are read from ------------------------------------------------------------------------------------


def nodes_of(*texts: str) -> list[tuple[str, int, int]]:
    return [(pool.gpu, pool.gpus_per_node, pool.nodes) for pool in read_fleet(texts).nodes]


def test_inventories_as_people_write_them(tmp_path: Path) -> None:
    assert nodes_of("H100=20,A100-40GB=16") == [
        ("H100-SXM-80GB", 8, 2),
        ("H100-SXM-80GB", 4, 1),
        ("A100-SXM-40GB", 8, 2),
    ]
    assert nodes_of("H100=4x8", "H100=2") == [("H100-SXM-80GB", 8, 4), ("H100-SXM-80GB", 2, 1)]
    (tmp_path / "ours.csv").write_text(
        "\ufeffnode,gpu,gpus\n# rack 7\nn1,H100,8\nn2,H100,8\nn3,L4,2\n", encoding="utf-8"
    )
    (tmp_path / "ours.txt").write_text("H100 = 2x4  # rack 7\n\nL4=8\n")
    fleet = read_fleet([str(tmp_path / "ours.csv")]).nodes
    assert fleet == (Nodes("H100-SXM-80GB", 8, 2, ("n1", "n2")), Nodes("L4", 2, 1, ("n3",)))
    assert nodes_of(str(tmp_path / "ours.txt")) == [("H100-SXM-80GB", 4, 2), ("L4", 8, 1)]
    rows = "".join(f"n{place},{('H100', 'L4')[place % 2]},8\n" for place in range(20_000))
    (tmp_path / "many.csv").write_text("node,gpu,gpus\n" + rows)
    h100, l4 = read_fleet([str(tmp_path / "many.csv")]).nodes
    assert (h100.nodes, l4.nodes, h100.names[:2], l4.names[-1]) == (10_000, 10_000, ("n0", "n2"), "n19999")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no GPUs given"),
        ("H100=8\nH200\n", ":2: invalid inventory"),
        ("H100=0\n", ":1: invalid inventory"),
        ("H100=-8\n", ":1: invalid inventory"),
        ("H100=0x8\n", ":1: invalid inventory"),
        ("H100=nan\n", ":1: invalid inventory"),
        ("H100=99999x999999\n", ":1: invalid inventory"),
        ("H100=1x100000\n", ":1: a node of 100,000 GPUs: expected at most 1,024"),
        ("node,gpu,gpus\nn1,H100,100000\n", ":2: a node of 100,000 GPUs"),
        ("node,gpu\nn1,H100\n", ":1: expected the columns gpu and gpus"),
        ("node,gpu,gpus,rack\nn1,H100,8,7\n", ":1: expected the columns"),
        ("node,gpu,gpus\nn1,H100\n", ":2: expected 3 values"),
        ("node,gpu,gpus\nn1,H100,8\nn1,H100,8\n", ':3: a second row of node "n1"'),
        ("node,gpu,gpus\n,H100,8\n", ":2: node: empty"),
        ("node,gpu,gpus\nn1,H100,eight\n", ":2: invalid inventory"),
        ("node,gpu,gpus\nn1,H100,\n", ":2: invalid inventory"),
        ("gpu,gpus\n", "no GPUs given"),
    ],
)
def test_files_that_are_no_inventory(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "ours").write_text(text)
    with pytest.raises(InputError) as error:
        read_fleet([str(tmp_path / "ours")])
    assert told in error.value.message


def test_inventories_that_name_nothing(tmp_path: Path) -> None:
    for gpus, nodes in ((8, 0), (0, 1), (-8, 1), (8, -1)):
        with pytest.raises(InputError, match="invalid nodes: "):
            Nodes("L4", gpus, nodes)
    with pytest.raises(UnknownNameError, match="H1000"):
        read_fleet(["H1000=8"])
    with pytest.raises(InputError, match="--have: invalid inventory"):
        read_fleet([str(tmp_path / "nothing")])
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cannot read .*binary: 'utf-8' codec"):
        read_fleet([str(tmp_path / "binary")])
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory"):
        read_fleet([str(tmp_path)])


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Makes a program of this name that prints a text and ends with a status."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def make(name: str, printed: str, status: int = 0, said: str = "") -> None:
        (folder / f"{name}.out").write_text(printed)
        script = (
            f'#!/bin/sh\necho "$@" > {folder}/{name}.args\necho "{said}" >&2\ncat {folder}/{name}.out\nexit {status}\n'
        )
        (folder / name).write_text(script)
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)

    make.folder = folder  # type: ignore[attr-defined]
    return make


def test_the_gpus_of_this_machine(tool) -> None:  # type: ignore[no-untyped-def]
    tool("nvidia-smi", "NVIDIA H100 80GB HBM3\n" * 8)
    assert fleet_from("nvidia-smi").nodes == (Nodes("H100-SXM-80GB", 8, 1, ("this machine",)),)
    assert (tool.folder / "nvidia-smi.args").read_text().split() == ["--query-gpu=name", "--format=csv,noheader"]
    tool("nvidia-smi", "NVIDIA Riva 128\nNVIDIA L4\n")
    fleet = fleet_from("nvidia-smi")
    assert fleet.notes == ('nvidia-smi: 1 of "NVIDIA Riva 128" not counted: not a whole GPU of the catalogue',)
    tool("nvidia-smi", "", 9, "NVIDIA-SMI has failed")
    with pytest.raises(InputError, match="it failed: NVIDIA-SMI has failed"):
        fleet_from("nvidia-smi")
    tool("nvidia-smi", "")
    with pytest.raises(InputError, match="no GPUs found"):
        fleet_from("nvidia-smi")


def test_the_gpus_of_a_kubernetes_cluster(tool) -> None:  # type: ignore[no-untyped-def]
    def node(name: str, number: str, product: str | None, **spec: bool) -> dict[str, object]:
        labels = {} if product is None else {"nvidia.com/gpu.product": product}
        return {
            "metadata": {"name": name, "labels": labels},
            "spec": spec,
            "status": {"allocatable": {"cpu": "96", "nvidia.com/gpu": number}},
        }

    items = [
        node("a", "8", "NVIDIA-H100-80GB-HBM3"),
        node("b", "8", "NVIDIA-H100-80GB-HBM3"),
        node("c", "4", "NVIDIA-L4"),
        node("d", "0", None),
        node("e", "2", None),
        node("f", "8", "NVIDIA-L4", unschedulable=True),
        node("g", "7", "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"),
        node("h", "32", "NVIDIA-L4-SHARED"),
        {"metadata": {"name": "i"}, "status": {}},
    ]
    tool("kubectl", json.dumps({"items": items}))
    fleet = fleet_from("kubectl")
    assert fleet.nodes == (Nodes("H100-SXM-80GB", 8, 2, ("a", "b")), Nodes("L4", 4, 1, ("c",)))
    said = " ".join(fleet.notes)
    for told in ("e has 2 of nvidia.com/gpu without the label", "f takes no new pods", "MIG-1g.5gb", "L4-SHARED"):
        assert told in said
    for wrong in ("", "[]", '{"items": [1]}', '{"items": [{"metadata": null}]}'):
        tool("kubectl", wrong)
        with pytest.raises(InputError, match="its answer is not a list of nodes"):
            fleet_from("kubectl")


@pytest.mark.parametrize(("source", "name"), [("nvidia-smi", "nvidia-smi"), ("KUBECTL", "kubectl")])
def test_a_tool_that_is_missing(source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=f"--gpus-from {name}: {name} is not installed here"):
        fleet_from(source)
    with pytest.raises(InputError, match='invalid source "slurm"'):
        fleet_from("slurm")


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with swept(tmp_path_factory.mktemp("placement"), SPEC) as url:
        yield url


def ask(capsys: pytest.CaptureFixture[str], url: str, *arguments: str, status: int = 0) -> str:
    capsys.readouterr()
    assert execute(["place", "--db", url, *arguments]) == status, capsys.readouterr().err
    printed = capsys.readouterr()
    return printed.err if status == 2 else printed.out


def test_both_databases_place_alike(
    store: Store, store_url: str, capsys: pytest.CaptureFixture[str], database: str
) -> None:
    run(spec_from_mapping(SPEC), store)
    asked = ("--have", "H100=2x8,L4=16", "--rate", "chat=6", "--rate", "rag=1", "--json")
    one, other = (json.loads(ask(capsys, url, *asked)) for url in (store_url, database))
    for key in ("expected", "safe"):
        assert one[key] == other[key]
    assert one["expected"]["gap"] == 0


def test_the_document_adds_up(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--have", "H100=2x8,L4=16", "--rate", "chat=6", "--rate", "rag=1", "--slo", "itl<=30ms")
    document = json.loads(ask(capsys, database, *asked, "--json"))
    assert [(pool["gpu"], pool["gpus"]) for pool in document["inventory"]] == [("H100-SXM-80GB", 16), ("L4", 16)]
    assert len(document["needs"]) == 4
    for need in document["needs"]:
        assert need["sustained_requests_per_s"] * 0.8 >= need["requests_per_s"] * (1 - 1e-5)
        assert need["sustained_low"] <= need["sustained_requests_per_s"] <= need["sustained_high"]
    expected = document["expected"]
    assert (
        expected["gpus"]
        == expected["bound"]
        == sum(row["gpus"] for need in document["needs"] for row in need["placed"])
    )
    held = sum(
        node["nodes"] * one["replicas"] * one["gpus_per_replica"] for node in document["nodes"] for one in node["holds"]
    )
    assert held == expected["gpus"]
    assert document["safe"]["gpus"] is None or document["safe"]["gpus"] >= expected["gpus"]
    rows = list(csv.DictReader(io.StringIO(ask(capsys, database, *asked, "--csv"))))
    assert sum(int(row["gpus"]) for row in rows) == expected["gpus"]
    # What capacity needs of one type alone is never less than what is placed.
    cheaper = json.loads(ask(capsys, database, *asked, "--least", "usd", "--price", "L4=0.01", "--json"))["expected"]
    assert cheaper["used"] <= sum(need["gpus"] for need in [expected]) * 20


@pytest.mark.slow
def test_what_people_and_python_get(
    database: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs.csv").write_text("model,workload,rate\nQwen3-8B,chat,20\nQwen3-32B,rag,1\n")
    (tmp_path / "nodes.csv").write_text("node,gpu,gpus\nrack1,H100,8\nrack2,H100,8\nrack3,A10G,4\n")
    asked = ("--have", str(tmp_path / "nodes.csv"), "--load", str(tmp_path / "needs.csv"))
    for width in (80, 110):
        monkeypatch.setenv("COLUMNS", str(width))
        shown = ask(capsys, database, *asked)
        assert max(map(len, shown.splitlines())) <= width
    said = " ".join(shown.split())
    assert "16 x H100 (2 nodes of 8), 4 x A10G (1 node of 4); ITL <= 50 ms" in said
    assert "of 20 GPUs are used: proved to be the least" in said
    assert "(rack1)" in said
    assert "the store has nothing about A10G" in said
    ask(capsys, database, *asked)
    assert execute(["place", "--db", database, *asked, "--md"]) == 0
    aside = " ".join(capsys.readouterr().err.split())
    assert "(1 node of 4); ITL <= 50 ms (unless" in aside
    assert "proved to be the least safe: " in aside
    short = " ".join(ask(capsys, database, "--have", "H100=1", "--rate", "100", "--workload", "chat", status=6).split())
    assert "not everything fits: " in short
    assert "more H100 (" in short
    nothing = ask(capsys, database, "--have", "H100=8", "--rate", "1", "--slo", "itl<=0.01ms", status=6)
    assert "no configuration within the limits" in nothing
    document = json.loads(
        ask(capsys, database, "--have", "H100=8", "--rate", "1", "--slo", "itl<=0.01ms", "--json", status=6)
    )
    assert (len(document["impossible"]), document["safe"], document["expected"]["fits"]) == (4, None, False)
    with open_store(database) as store, store.reading() as connection:
        nodes = gpuscout.read_fleet(["H100=16"]).nodes
        question = gpuscout.Question(models=("Qwen3-8B",), workload="chat")
        found = gpuscout.place_on(connection, question, nodes, [gpuscout.Rate(20)], Rules(headroom=0.1))
    assert found.fit.placement is not None
    assert found.fit.placement.gap == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rate", "5"], "either --have or --gpus-from"),
        (["--rate", "5", "--have", "H100=8", "--gpus-from", "ray"], "either --have or --gpus-from"),
        (["--have", "H100=8"], "nothing to place"),
        (["--have", "H100=8", "--rate", "5", "--load", "0=1,5=2"], "--load replaces --rate"),
        (["--have", "H100=8", "--rate", "0"], "invalid rate"),
        (["--have", "H100=8", "--rate", "5", "--headroom", "1"], "invalid headroom 1"),
        (["--have", "H100=8", "--rate", "5", "--least", "watts"], 'invalid least "watts"'),
        (["--have", "H100=8", "--rate", "5", "--time-limit", "0s"], "invalid time limit"),
        (["--have", "GH200=8", "--rate", "5", "--least", "usd", "--provider", "Nebius"], "no price of GH200"),
        (["--have", "H100=8", "--rate", "chat=5", "--rate", "chat=6"], "a workload has two rates"),
        (["--have", "H100=8", "--rate", "chat=5", "--workload", "chat"], "leaves no choice to --workload"),
    ],
)
def test_questions_that_cannot_be(
    database: str, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert told in ask(capsys, database, *arguments, status=2)
