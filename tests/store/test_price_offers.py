"""Offers of clouds: which part a name means, SkyPilot's catalogues as they are, and what is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscout.runner.cli.main import execute
from gpuscout.store.database.connect import open_store
from gpuscout.store.prices.books import quotes_of
from gpuscout.store.prices.offers import Offer, quotes_of_offers
from gpuscout.store.prices.prices import Quote
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue

DAY = date(2026, 11, 20)
KNOWN = [Quote("default", "H100-SXM-80GB", "AWS", 6.88, DAY, instance_type="p5.48xlarge", gpus_per_instance=8)]


def offer(gpu: str, *memory_gb: float, instance: str = "", provider: str = "AWS", text: str = "") -> Offer:
    texts = (text,) if text else ()
    return Offer(provider, gpu, 1, 2.0, "on-demand", "here", instance, memory_gb, texts)


def meant(one: Offer, **parts: str) -> str | tuple[str, ...] | None:
    """The GPU of an offer, or those that it may be, or None."""
    chosen = quotes_of_offers([one], "b", DAY, parts, KNOWN)
    for (_, gpus), _ in chosen.asked.items():
        return gpus
    return chosen.quotes[0].gpu if chosen.quotes else None


A100_80 = ("A100-SXM-80GB", "A100-PCIe-80GB")


@pytest.mark.parametrize(
    ("one", "gpu"),
    [
        # The memory decides.
        (offer("A100", 40), "A100-SXM-40GB"),
        (offer("A100", 80), A100_80),
        (offer("A100-80GB"), A100_80),
        (offer("H100", 94), "H100-NVL-94GB"),
        (offer("H100", 80), ("H100-SXM-80GB", "H100-PCIe-80GB")),
        (offer("GH200", 96), "GH200-96GB"),
        (offer("B200", 192), "B200"),
        (offer("B300", 262), "B300"),
        (offer("V100", 16), None),
        (offer("RTX4090", 48), None),
        # The form is stated by the GPU's name, by the instance or beside them.
        (offer("A100-80GB-SXM"), "A100-SXM-80GB"),
        (offer("A100-80GB", 80, text="A100 PCIe"), "A100-PCIe-80GB"),
        (offer("H100", 80, instance="gpu_1x_h100_pcie"), "H100-PCIe-80GB"),
        (offer("H100", 79.6, instance="1x-H100_SXM-32-65536"), "H100-SXM-80GB"),
        (offer("H100", 80, instance="NVIDIA H100 80GB HBM3"), "H100-SXM-80GB"),
        (offer("H100NVL", 94), "H100-NVL-94GB"),
        (offer("A100", 40, instance="a100_pcie"), None),
        # A book knows the instance type; of another provider it says nothing.
        (offer("H100", 80, instance="p5.48xlarge"), "H100-SXM-80GB"),
        (offer("H100", 80, instance="p5.48xlarge", provider="Else"), ("H100-SXM-80GB", "H100-PCIe-80GB")),
        # NVL parts are always called so.
        (offer("H200", 141), "H200-SXM-141GB"),
        (offer("H200NVL", 141), "H200-NVL-141GB"),
        # Two readings of the memory, both possible.
        (offer("A100", 80, 40, instance="2x-A100_SXM4"), ("A100-SXM-80GB", "A100-SXM-40GB")),
        # Neither A10 nor A100.
        (offer("A10G", 24), "A10G"),
        (offer("L40S", 44.9), "L40S"),
        (offer("RTX6000-Ada", 48), "RTX 6000 Ada"),
        (offer("RTX6000", 24), None),
        (offer("K80", 12), None),
    ],
)
def test_which_part_a_name_means(one: Offer, gpu: object) -> None:
    found = meant(one)
    assert (set(found) if isinstance(found, tuple) else found) == (set(gpu) if isinstance(gpu, tuple) else gpu)


def test_the_users_word_comes_first() -> None:
    assert meant(offer("A100-80GB"), **{"a100-80gb": "A100-PCIe-80GB"}) == "A100-PCIe-80GB"
    assert meant(offer("A100", 80), **{"A100-80GB": "A100-PCIe-80GB"}) == "A100-PCIe-80GB"
    assert meant(offer("A100", 40), **{"A100-80GB": "A100-PCIe-80GB"}) == "A100-SXM-40GB"


@given(st.sampled_from(sorted(GPUCatalogue.load().names())))
def test_every_canonical_name_means_itself(name: str) -> None:
    gpu = GPUCatalogue.load().get(name)
    assert meant(offer(name, gpu.memory_gb)) in (name, ("V100-SXM2-32GB", "V100-PCIe-32GB"))


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.floats(0.5, 400)), min_size=1, max_size=12))
def test_of_the_zones_of_a_region_the_cheapest_counts(zones: list[tuple[str, float]]) -> None:
    offers = [Offer("AWS", "L4", 4, usd, "spot", region, "g6.12xlarge", (24.0,)) for region, usd in zones]
    quotes = quotes_of_offers(offers, "b", DAY, {}, []).quotes
    assert {q.region: q.usd_per_gpu_hour for q in quotes} == {
        region: min(usd for where, usd in zones if where == region) / 4 for region, _ in zones
    }
    assert all(quote.gpus_per_instance == 4 for quote in quotes)


# --- SkyPilot's files ---------------------------------------------------------------------------------------------

HEAD = "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone"


def info(name: str, count: int, size: int, total: int) -> str:
    gpus = f"[{{'Name': '{name}', 'Count': {count}.0, 'MemoryInfo': {{'SizeInMiB': {size}}}}}]"
    return f"\"{{'Gpus': {gpus}, 'TotalGpuMemoryInMiB': {total}}}\""


LINES = [
    "host-only,,,4.0,16.0,,0.2,,r1,r1-a",
    f"p9.48xlarge,H100-SXM,8.0,192,2048,{info('H100', 8, 81920, 655360)},40.0,24.0,r1,r1-a",
    f"p9.48xlarge,H100-SXM,8.0,192,2048,{info('H100', 8, 81920, 655360)},40.0,20.0,r1,r1-b",
    f"p9.48xlarge,H100-SXM,8.0,192,2048,{info('H100', 8, 81920, 655360)},,28.0,r2,r2-a",  # sold spot only
    f"1x_A100-80GB,A100-80GB,1.0,8,117,{info('A100 PCIe', 1, 80, 80)},1.5,1.5,IN,AP-1",  # GB where MiB is said
    f'4x-B200,B200,4,32,64,{info("B200", 4, 733436, 733436)},18.8,0.00,", US, NA",',  # the sum, and no spot price
    f"8x_v100,V100,8.0,88,448,{info('V100', 8, 16384, 16384)},6.32,,r1,",  # 16 GB: not in the catalogue
    f"2x-A100_SXM4,A100,2,32,64,{info('A100', 2, 81920, 81920)},3.0,0.00,r1,",  # 40 or 80 GB each
    "1x-H100,H100,1.0,26,200,,2.5,,r1,",  # neither memory nor form
    "g4-part,RTXPRO6000,0.5,24,90,,1.1,0.5,r1,",  # half a GPU
    ",L4,1.0,,,,0.56,0.22,r1,r1-a",  # attached to a host that is paid besides
]


@pytest.fixture
def catalogue(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str, name: str = "aws.csv", head: str = HEAD, end: str = "\n", start: str = "") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((start + end.join([head, *lines, ""])).encode())
        return path

    return write


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    url = f"sqlite:///{tmp_path / 'gpuscout.db'}"
    monkeypatch.setenv("COLUMNS", "300")

    def command(*arguments: object, status: int = 0) -> str:
        assert execute(["prices", *map(str, arguments), "--db", url]) == status
        shown = capsys.readouterr()
        return shown.out + shown.err

    return command


def stored(tmp_path: Path, book: str) -> dict[tuple[str, str, str], Quote]:
    with open_store(f"sqlite:///{tmp_path / 'gpuscout.db'}") as store, store.reading() as connection:
        return {(q.gpu, q.purchase, q.region): q for q in quotes_of(connection, [book])}


@pytest.mark.parametrize(("end", "start"), [("\n", ""), ("\r\n", "﻿")])
def test_a_catalogue_is_read_by_the_names_of_its_columns(
    catalogue: Callable[..., Path], run: Callable[..., str], tmp_path: Path, end: str, start: str
) -> None:
    path = catalogue(*LINES, end=end, start=start)
    told = run("import", "--format", "skypilot", path, "--as-of", "2026-11-20")
    assert "A100-80GB may be A100-SXM-80GB or A100-SXM-40GB, 1 offer left out" in told
    assert "H100 may be H100-SXM-80GB or H100-PCIe-80GB, 1 offer left out: --part 'H100=H100-SXM-80GB' decides" in told
    assert "1 offer left out: V100-16GB is not a GPU of the catalogue" in told
    assert "2 offers left out: shares of a GPU" in told
    assert "8 prices stored in skypilot" in told
    found = stored(tmp_path, "skypilot")
    assert {key: quote.usd_per_gpu_hour for key, quote in found.items()} == pytest.approx(
        {
            ("H100-SXM-80GB", "on-demand", "r1"): 5.0,
            ("H100-SXM-80GB", "spot", "r1"): 2.5,
            ("H100-SXM-80GB", "spot", "r2"): 3.5,
            ("A100-PCIe-80GB", "on-demand", "IN"): 1.5,
            ("A100-PCIe-80GB", "spot", "IN"): 1.5,
            ("B200", "on-demand", "US NA"): 4.7,
            ("L4", "on-demand", "r1"): 0.56,
            ("L4", "spot", "r1"): 0.22,
        }
    )
    assert found["H100-SXM-80GB", "spot", "r1"].gpus_per_instance == 8
    assert all(quote.date == date(2026, 11, 20) and "SkyPilot" in quote.source for quote in found.values())
    # An accelerator without its host is no price that could rank.
    assert not found["L4", "spot", "r1"].exact
    assert "billed separately" in found["L4", "spot", "r1"].note
    again = ("import", "--format", "skypilot", path, "--as-of", "2026-11-20", "--part", "H100=H100-PCIe")
    told = run(*again, "--part", "H1OO=H100-SXM")
    assert "--part H1OO is unused: no offer has that name" in told
    assert "9 prices stored in skypilot, 8 replaced" in told
    # The book knows the instance type now: what was decided once needs no second word.
    document = json.loads(run(*again[:-2], "--json"))
    assert (document["stored"], document["replaced"]) == (9, 9)
    assert [asked["name"] for asked in document["asked"]] == ["A100-80GB"]
    assert document["left_out"]
    assert {left["reason"]: left["offers"] for left in document["left_out"]}["shares of a GPU"] == 2


def test_the_folder_of_a_vms_file_names_the_provider_and_marketplaces_are_marked(
    catalogue: Callable[..., Path], run: Callable[..., str], tmp_path: Path
) -> None:
    row = '1x-L4,L4,1,8,16,,0.3,,"Texas, US, NA",'
    run("import", "--format", "skypilot", catalogue(row, name="vast/vms.csv"), "--as-of", "2026-11-20")
    (quote,) = stored(tmp_path, "skypilot").values()
    assert (quote.provider, quote.note, quote.region) == ("Vast.ai", "marketplace", "Texas US NA")
    elsewhere = catalogue(row, name="vms.csv")
    told = run("import", "--format", "skypilot", elsewhere, "--as-of", "2026-11-20", status=2)
    assert "does not name its provider\n    give it with --provider NAME" in told
    told = run("import", "--format", "skypilot", elsewhere, "--as-of", "2026-11-20", "--provider", "Acme")
    assert "L4 0.30 USD per hour, 2026-11-20, Acme" in told


GOOD = "x,L4,1,8,16,,0.3,,r,"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["x,L4,1,8,16,,-0.3,,r,"], 'aws.csv:3  Price: invalid number "-0.3": expected 0 to 1,000,000'),
        (["x,L4,1,8,16,,nan,,r,"], 'Price: invalid number "nan"'),
        (["x,L4,1,8,16,,inf,,r,"], 'Price: invalid number "inf"'),
        (["x,L4,1,8,16,,1e12,,r,"], 'Price: invalid number "1e12"'),
        (["x,L4,1,8,16,,0.3,EUR 2,r,"], 'SpotPrice: invalid number "EUR 2"'),
        (["x,L4,,8,16,,0.3,,r,"], "AcceleratorCount: missing"),
        (["x,L4,many,8,16,,0.3,,r,"], 'AcceleratorCount: invalid number "many"'),
        (["x,L4,1,8,16,,0.3,,r,,more"], "more cells than columns"),
        (["x\x1b[31m,L4,1,8,16,,0.3,,r,"], "InstanceType: text with a control character"),
        (["x,L4,1,8,16,,soon,,r,"] * 30, "20 problems; there may be more, nothing was imported."),
    ],
)
def test_a_damaged_catalogue_is_refused_with_the_places(
    catalogue: Callable[..., Path], run: Callable[..., str], tmp_path: Path, lines: list[str], told: str
) -> None:
    good, bad = catalogue(GOOD, name="gcp.csv"), catalogue(GOOD, *lines)
    assert told in run("import", "--format", "skypilot", good, bad, "--as-of", "2026-11-20", status=2)
    # Of several files all are stored or none.
    with pytest.raises(InputError, match="unknown price book"):
        stored(tmp_path, "skypilot")


def test_what_is_no_catalogue_or_lacks_what_it_cannot_hold(
    catalogue: Callable[..., Path], run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = catalogue(GOOD)
    assert "holds none\n    give the day it was read: --as-of YYYY-MM-DD" in run(
        "import", "--format", "skypilot", path, status=2
    )
    on = ("--format", "skypilot", "--as-of", "2026-11-20")
    book = catalogue("L4,1,2026-01-01", name="book.csv", head="gpu,usd_per_gpu_hour,date")
    told = run("import", *on, book, "--provider", "Acme", status=2)
    assert "no column InstanceType and AcceleratorName and" in told
    assert "expected NAME=GPU" in run("import", *on, path, "--part", "L4", status=2)
    assert "did you mean" in run("import", *on, path, "--part", "L4=H10O", status=2)
    assert "--part and --provider need --format skypilot" in run("import", book, "--part", "L4=L4", status=2)
    assert "none of 1 offers is stored\n    1 offer left out: K80 is not a GPU" in run(
        "import", *on, catalogue("x,K80,1,8,16,,0.3,,r,"), status=2
    )
    assert "none of 0 offers is stored" in run("import", *on, catalogue("x,,,8,16,,0.3,,r,"), status=2)
    assert "cannot read" in run("import", *on, tmp_path / "gcp.csv", status=2)
    (tmp_path / "gcp.csv").write_bytes(b"\xff\xfe\x00")
    assert "it is not UTF-8 text" in run("import", *on, tmp_path / "gcp.csv", status=2)
    assert "hold the same price twice: L4 own 2026-01-01 on-demand" in run("import", book, book, status=2)
    monkeypatch.setenv("GPUSCOUT_MAX_INPUT_MB", "1")
    monkeypatch.setattr("gpuscout.sweeps.reading._RESULTS_MB", 1)
    huge = catalogue(*[GOOD] * 1_200)
    assert "more than 1,000 rows" in run("import", *on, huge, status=2)
