"""`gpuscout prices fetch` from catalogues on loopback, in the shape in which gpuhunt publishes them."""

from __future__ import annotations

import csv
import io
import json
import socket
import sys
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

pytest.importorskip("gpuhunt")

from gpuscout import open_store
from gpuscout.runner.cli.main import execute
from gpuscout.store.prices.books import quotes_of
from gpuscout.store.prices.prices import Quote
from gpuscout.sweeps.errors import InputError

PROVIDERS = ("aws", "azure", "verda", "gcp", "lambdalabs", "nebius", "oci", "runpod", "cloudrift")
FIELDS = (
    *("instance_name", "location", "price", "cpu", "memory", "gpu_count", "gpu_name", "gpu_memory", "spot"),
    *("disk_size", "gpu_vendor", "flags", "cpu_arch", "provider_data"),
)


def item(name: str, where: str, price: object, count: int, gpu: str, memory: object, *more: str, **data: object) -> str:
    spot, flags = "spot" in more, " ".join(flag for flag in more if flag != "spot")
    row = [name, where, price, 8, 64, count, gpu, memory, spot, "", "nvidia" if gpu else "", flags, "x86"]
    text = io.StringIO()
    csv.writer(text).writerow([*row, json.dumps(data)])
    return text.getvalue()


ITEMS = {
    "aws": [
        item("p5.48xlarge", "us-east-1", 44.0, 8, "H100", 80.0),
        item("p5.48xlarge", "us-east-1", 16.0, 8, "H100", 80.0, "spot"),
        item("p5.48xlarge", "eu-north-1", 48.0, 8, "H100", 80.0),
        item("p4d.24xlarge", "us-east-1", 22.0, 8, "A100", 40.0),
        item("m5.large", "us-east-1", 0.1, 0, "", ""),
        item("g6.xlarge", "us-east-1", 0.8, 1, "L4", 24.0),
    ],
    "azure": [item("Standard_NC40ads_H100_v5", "eastus", 6.98, 1, "H100NVL", 94.0)],
    "gcp": [item("a4-highgpu-8g", "us-central1-b", 72.0, 8, "B200", 180.0, is_dws_calendar_mode=True)],
    "lambdalabs": [item("gpu_1x_h100_pcie", "us-east-1", 3.29, 1, "H100", 80.0)],
    "runpod": [
        item("NVIDIA H100 80GB HBM3", "US-KS-2", 2.99, 1, "H100", 80.0),
        item("NVIDIA H100 80GB HBM3", "US-KS-2", 5.98, 2, "H100", 80.0),
        item("NVIDIA H100 80GB HBM3", "US-KS-2", 19.0, 8, "H100", 80.0, "runpod-cluster"),
        item("NVIDIA A100 80GB PCIe", "US", 1.19, 1, "A100", 80.0),
    ],
    "verda": [
        item("1H100.80S.32V", "FIN-02", 2.29, 1, "H100", 80.0),
        item("1V100.6V", "FIN-01", 0.14, 1, "V100", 16.0),
        item("1L4", "FIN-01", "nan", 1, "L4", 24.0),
        item("2L4", "FIN-01", -4, 2, "L4", 24.0),
        item("4L4", "FIN-01", 1e12, 4, "L4", 24.0),
        item("8L4\x1b[2J", "FIN-01", 4, 8, "L4", 24.0),
        item("9L4", "FIN-01", "cheap", 1, "L4", 24.0),
    ],
}


class Catalogue(ThreadingHTTPServer):
    """What is published: `version` and `catalog.zip` of every provider. `broken`: what a path answers instead."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.versions = dict.fromkeys(PROVIDERS, "20261120-2")
        self.items = dict(ITEMS)
        self.broken: dict[str, bytes | int] = {}
        self.asked: list[str] = []

    def answer(self, path: str) -> bytes | int:
        self.asked.append(path)
        if path in self.broken:
            return self.broken[path]
        _, provider, *rest = path.split("/")
        if rest == ["version"]:
            return self.versions[provider].encode()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(f"{provider}.csv", ",".join(FIELDS) + "\n" + "".join(self.items.get(provider, ())))
        return packed.getvalue()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Catalogue)
        answer = server.answer(self.path)
        if isinstance(answer, int):
            self.send_error(answer)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalogue]:
    with Catalogue() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("GPUHUNT_CATALOG_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("COLUMNS", "300")

    def command(*arguments: object, status: int = 0) -> str:
        url = f"sqlite:///{tmp_path / 'gpuscout.db'}"
        assert execute(["prices", *map(str, arguments), "--db", url]) == status
        shown = capsys.readouterr()
        return shown.out + shown.err

    return command


def stored(tmp_path: Path, book: str = "fetched") -> list[Quote]:
    with open_store(f"sqlite:///{tmp_path / 'gpuscout.db'}") as store, store.reading() as connection:
        return quotes_of(connection, [book])


def told_apart(quotes: list[Quote]) -> set[tuple[object, ...]]:
    return {(q.provider, q.gpu, q.purchase, q.region, q.gpus_per_instance, q.usd_per_gpu_hour) for q in quotes}


def test_a_book_holds_what_is_offered_of_every_part(
    catalogue: Catalogue, run: Callable[..., str], tmp_path: Path
) -> None:
    told = run("fetch")
    found = stored(tmp_path)
    assert told_apart(found) == {
        ("AWS", "H100-SXM-80GB", "on-demand", "us-east-1", 8, 5.5),  # a book that ships knows p5.48xlarge
        ("AWS", "H100-SXM-80GB", "spot", "us-east-1", 8, 2.0),
        ("AWS", "H100-SXM-80GB", "on-demand", "eu-north-1", 8, 6.0),
        ("AWS", "A100-SXM-40GB", "on-demand", "us-east-1", 8, 2.75),
        ("AWS", "L4", "on-demand", "us-east-1", 1, 0.8),
        ("Azure", "H100-NVL-94GB", "on-demand", "eastus", 1, 6.98),
        ("GCP", "B200", "reserved", "us-central1", 8, 9.0),
        ("Lambda", "H100-PCIe-80GB", "on-demand", "us-east-1", 1, 3.29),
        ("RunPod", "H100-SXM-80GB", "on-demand", "US-KS-2", 1, 2.99),
        ("RunPod", "H100-SXM-80GB", "on-demand", "US-KS-2", 2, 2.99),
        ("RunPod", "H100-SXM-80GB", "on-demand", "US-KS-2", 8, 2.375),
        ("RunPod", "A100-PCIe-80GB", "on-demand", "US", 1, 1.19),
    }
    assert {quote.date for quote in found} == {date(2026, 11, 20)}
    assert all(quote.source.startswith("gpuhunt ") and "20261120-2" in quote.source for quote in found)
    notes = {(quote.gpu, quote.gpus_per_instance): (quote.note, quote.exact) for quote in found if quote.note}
    assert notes == {
        ("A100-PCIe-80GB", 1): ("marketplace: community cloud", True),
        ("H100-SXM-80GB", 8): ("only in clusters of several machines", False),
    }
    assert "H100-80GB may be H100-SXM-80GB or H100-PCIe-80GB, 1 offer left out" in told
    assert "1 offer left out: V100-16GB is not a GPU of the catalogue" in told
    assert "1 offer left out: Verda 1L4: invalid price nan: expected a number above 0" in told
    assert "1 offer left out: Verda 2L4: invalid price -2" in told
    assert "2.5e+11 USD per GPU hour cannot be right" in told
    assert "1 offer left out: text with a control character" in told
    assert "1 offer left out: rows of Verda that gpuhunt could not read" in told
    assert "AWS: 5 prices of 3 GPUs, 2026-11-20" in told
    # The next day adds to the history, the same day replaces itself.
    assert "12 prices stored in fetched, 12 replaced" in run("fetch")
    catalogue.versions = dict.fromkeys(PROVIDERS, "20261121-1")
    assert "12 prices stored in fetched\n" in run("fetch")
    assert len(stored(tmp_path)) == 24


def test_filters_and_the_users_word(catalogue: Catalogue, run: Callable[..., str], tmp_path: Path) -> None:
    document = json.loads(run("fetch", "--gpu", "H100", "--provider", "aws", "--region", "us-*", "--spot", "--json"))
    assert document["stored"] == 1
    assert document["left_out"] == []  # of other providers and GPUs nothing is said
    assert told_apart(stored(tmp_path)) == {("AWS", "H100-SXM-80GB", "spot", "us-east-1", 8, 2.0)}
    told = run("fetch", "--gpu", "H100*", "--provider", "Verda,Lambda", "--part", "H100-80GB=H100-SXM", "--book", "b")
    assert "2 prices stored in b" in told
    assert {(q.provider, q.gpu) for q in stored(tmp_path, "b")} == {
        ("Verda", "H100-SXM-80GB"),
        ("Lambda", "H100-SXM-80GB"),
    }
    assert "1 price stored in c" in run("fetch", "--gpu", "L4", "--provider", "AWS", "--no-spot", "--book", "c")


def test_a_provider_that_fails_midway_stores_nothing(
    catalogue: Catalogue, run: Callable[..., str], tmp_path: Path
) -> None:
    run("fetch")
    before = stored(tmp_path)
    catalogue.versions = dict.fromkeys(PROVIDERS, "20261122-1")
    for broken in (500, b"no zip file", b"PK\x05\x06" + b"\0" * 18):
        catalogue.broken = {"/gcp/20261122-1/catalog.zip": broken}
        told = run("fetch", status=2)
        assert "no prices fetched, nothing was stored: gcp: " in told
        assert "Traceback" not in told
        assert stored(tmp_path) == before
    # What does not need it works.
    assert "AWS" in run("fetch", "--provider", "AWS")
    catalogue.broken = {f"/{provider}/version": 404 for provider in PROVIDERS}
    assert "aws: HTTP Error 404" in run("fetch", status=2)


def test_what_cannot_be_asked(
    catalogue: Catalogue, run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "did you mean aws" in run("fetch", "--provider", "awss", status=2)
    assert "did you mean" in run("fetch", "--gpu", "H10O", status=2)
    assert "ships with gpuscout and cannot be changed" in run("fetch", "--book", "default", status=2)
    assert "none of 0 offers is stored" in run("fetch", "--region", "moon-1", status=2)
    assert catalogue.asked
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("GPUHUNT_CATALOG_DIR", str(tmp_path))
        assert "GPUHUNT_CATALOG_DIR is set, but its files hold no date" in run("fetch", status=2)
    # Nobody listens there: the reason, and no traceback.
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("GPUHUNT_CATALOG_URL", f"http://127.0.0.1:{bound.getsockname()[1]}/")
        assert "Connection refused" in run("fetch", status=2)
    with pytest.raises(InputError, match="unknown price book"):
        stored(tmp_path)


def test_without_the_package_it_says_what_to_install(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpuhunt", None)
    told = run("fetch", status=2)
    assert "prices fetch needs the package gpuhunt\n    pip install 'gpuscout[prices]'" in told


def test_nothing_is_fetched_unless_asked(catalogue: Catalogue, run: Callable[..., str]) -> None:
    run("set", "L4=1")
    run("list")
    run("show", "H100")
    assert catalogue.asked == []


def test_a_version_without_a_day_counts_as_today(catalogue: Catalogue, run: Callable[..., str], tmp_path: Path) -> None:
    catalogue.versions = dict.fromkeys(PROVIDERS, "latest")
    before = datetime.now(UTC).date()
    run("fetch", "--provider", "Azure")
    assert before <= stored(tmp_path)[0].date <= datetime.now(UTC).date()


def test_python(catalogue: Catalogue, tmp_path: Path) -> None:
    from gpuscout import fetch_prices, import_skypilot

    path = tmp_path / "aws.csv"
    path.write_text("InstanceType,AcceleratorName,AcceleratorCount,Price,Region\ng6.xlarge,L4,1.0,0.8,us-east-1\n")
    with open_store(f"sqlite:///{tmp_path / 'gpuscout.db'}", create=True) as store:
        saved = fetch_prices(store, gpus=["datacenter"], providers=["AWS"], spot=False)
        assert (saved.book, len(saved.chosen.quotes), saved.replaced) == ("fetched", 4, 0)
        saved = import_skypilot(store, [path], date(2026, 11, 1))
        assert [quote.usd_per_gpu_hour for quote in saved.chosen.quotes] == [0.8]
