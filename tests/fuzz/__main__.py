"""Damaged files of strangers, without end: `make fuzz`, or python -m tests.fuzz [--seconds N] [--seed N] [TARGET …].

Each target takes sound files, damages them by chance and reads them as gpuscout does. What gpuscout refuses, it refuses
by an error of its own; any other exception, and a file that takes too long, is a bug: the file is kept and named.
Equal seeds give equal files for as long as the machine is as fast; the number of a file says how to come to it again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from types import FrameType

from gpuscout.runner.resolve.fleet import read_fleet
from gpuscout.runner.resolve.model_files import read_config
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.prices.books import shipped_quotes
from gpuscout.store.prices.csv_file import PriceFile
from gpuscout.store.prices.offers import quotes_of_offers
from gpuscout.store.prices.skypilot import SkyPilotFile
from gpuscout.store.prices.tokens import TokenFile
from gpuscout.store.ranking.question.asked import Question
from gpuscout.store.transfer.files import Format, is_export, write_text
from gpuscout.store.transfer.reader import size_of
from gpuscout.store.transfer.rows import export_rows
from gpuscout.sweeps.errors import GpuscoutError
from gpuscout.sweeps.models.config import architecture_from_config
from gpuscout.sweeps.spec.spec import load_spec
from gpuscout.sweeps.traffic.moving import read_load, read_rates
from gpuscout.sweeps.traffic.trace import read_trace
from tests.fuzz.damage import damaged
from tests.support.result_files import FILES, completed, store_file

ROOT = Path(__file__).parents[2]
LONGEST_S = 20


def specs(folder: Path) -> tuple[list[bytes], Callable[[Path], object]]:
    """Sweep specs, written out again where they are sound."""

    def read(file: Path) -> None:
        load_spec(file).to_yaml(directory=str(folder))

    return [file.read_bytes() for file in sorted((ROOT / "sweeps/examples").glob("*.yaml"))], read


def configs(folder: Path) -> tuple[list[bytes], Callable[[Path], object]]:
    """The config.json of models."""

    def read(file: Path) -> None:
        architecture_from_config(read_config(file, str(file)), name="some/model").to_dict()

    known = json.loads((ROOT / "tests/data/model_configs.json").read_text())
    return [json.dumps(each["config"]).encode() for each in known.values()], read


def imports(folder: Path) -> tuple[list[bytes], Callable[[Path], object]]:
    """Results of load generators, completed as `gpuscout import` does, and exports, as far as they can be checked."""
    store = open_store(str(folder / "fuzz.db"), create=True)
    for file in completed(*(file for file in FILES if file.name.startswith(("vllm", "runs")))):
        if file.error is None:
            store_file(store, file)
    exports = [_exported(store, form) for form in (Format.CSV, Format.JSONL)]

    def read(file: Path) -> None:
        if is_export(file):
            size_of(file, store)
            return
        for result in completed(file):
            if result.error is not None:
                raise result.error

    return [*(file.read_bytes() for file in FILES), *exports], read


def prices(folder: Path) -> tuple[list[bytes], Callable[[Path], object]]:
    """Price books of GPUs and of tokens, and catalogues of clouds."""

    def read(file: Path) -> None:
        start = file.read_bytes()[:1_000]
        if b"Accelerator" in start:
            quotes_of_offers(SkyPilotFile(file, "Acme").read(), "book", date(2026, 1, 2), {}, shipped_quotes())
        elif b"_mtok" in start:
            TokenFile(file, "book", {"EUR": 1.1}).read()
        else:
            PriceFile(file, "book", {"EUR": 1.1}).read()

    whole = (ROOT / "store/data/prices.csv").read_bytes().splitlines(keepends=True)
    instances = b"gpu,price_per_instance_hour,gpus_per_instance,currency,date\nH100,20,8,EUR,2026-01-02\n"
    tokens = (ROOT / "store/data/token_prices.csv").read_bytes()
    offers = (
        b"InstanceType,AcceleratorName,AcceleratorCount,Price,SpotPrice,Region,GpuInfo\n"
        b"p5.48xlarge,H100,8.0,44.0,16.0,us-east-1,\n"
        b"2x,A100,2,3.0,0.00,\"Texas, US\",\"{'Gpus': [{'Name': 'A100', 'MemoryInfo': {'SizeInMiB': 81920}}]}\"\n"
    )
    return [b"".join(whole[:12]), instances, tokens, offers], read


def loads(folder: Path) -> tuple[list[bytes], Callable[[Path], object]]:
    """Loads that move: rates over time, in steps of their own and averaged, and traces."""

    def read(file: Path) -> None:
        for reading in (read_rates, read_trace, lambda path: read_load(path, 10)):
            with suppress(GpuscoutError):
                reading(file)
        read_load(file)

    day = b"time,rate,workload\n0:00,2,chat\n8:00,40.5,chat\n18:00,10,chat\n24:00,,chat\n0:00,1,rag\n12:00,3,rag\n"
    dates = b"time,requests_per_h,model\n2026-11-28T08:00+01:00,3600,a/One\n2026-11-28T09:00+01:00,7200,a/One\n"
    row = b'{"timestamp": %d, "input_length": 1200, "output_length": 150, "model": "a"}\n'
    return [day, dates, b"model,rate\na/One,5\nb/Two,7\n", b"".join(row % (9000 * i) for i in range(30))], read


def fleets(folder: Path) -> tuple[list[bytes], Callable[[Path], object]]:
    """Inventories of GPUs."""
    lines = b"H100 = 8   # rack 7\n\nA100-40GB=2x4\nL4=16\n"
    return [lines, b"node,gpu,gpus\nn1,H100,8\nn2,H100,8\nn3,L4,2\n"], lambda file: read_fleet([str(file)])


def _exported(store: Store, form: Format) -> bytes:
    file = Path(tempfile.mkstemp()[1])
    with store.reading() as connection, file.open("w", newline="") as stream:
        write_text(export_rows(connection, Question()), stream, form)
    content = file.read_bytes()
    file.unlink()
    return content


TARGETS = {"specs": specs, "configs": configs, "imports": imports, "prices": prices, "loads": loads, "fleets": fleets}


class TooLong(BaseException):
    """A file that is read for longer than any should be."""


@contextmanager
def time_limit() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"not read within {LONGEST_S} s")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)


def fuzz(name: str, seconds: float, seed: int) -> bool:
    """Whether a target stood `seconds` of it."""
    ends = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="gpuscout-fuzz-") as directory:
        folder = Path(directory)
        corpus, read = TARGETS[name](folder)
        refused = 0
        for number in itertools.count():
            if time.monotonic() >= ends:
                print(f"{name}: {number:,} files, {refused:,} refused, no bug (seed {seed})")
                return True
            chance = random.Random(f"{name} {seed} {number}")
            suffix = chance.choice([".json", ".csv", ".yaml", ".jsonl", "", ".json.gz"])
            file = folder / f"file{suffix}"
            content = damaged(corpus, chance)
            file.write_bytes(content)
            try:
                with time_limit():
                    read(file)
            except GpuscoutError:
                refused += 1
            except (Exception, TooLong):
                kept = Path(f"fuzz-{name}-{seed}-{number}{suffix}").absolute()
                kept.write_bytes(content)
                traceback.print_exc()
                print(f"{name}: file {number} of seed {seed} is a bug: {kept}")
                return False
            file.unlink()
    raise AssertionError("counting ends")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    names = asked.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"unknown target {', '.join(sorted(unknown))}: there are {', '.join(TARGETS)}")
    stood = [fuzz(name, asked.seconds / len(names), asked.seed) for name in names]
    sys.exit(0 if all(stood) else 1)


if __name__ == "__main__":
    main()
