"""Reads the catalogues of SkyPilot (`vms.csv` of a cloud): instances with prices on demand and at the spot market.

Columns are found by their names; those that matter are in `COLUMNS`. The files hold no date. Rows without an
accelerator are hosts, rows without an instance type accelerators that are attached to a host which is paid besides.
`GpuInfo` is Python's or JSON's notation and read as text; the memory in it is that of one GPU or of all together, in
MiB or (RunPod) in GB, so that of several readings those count that a part of the catalogue has.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpuscout.store.prices.offers import PROVIDERS, Offer
from gpuscout.sweeps.errors import InputError, SpecProblem
from gpuscout.sweeps.reading import TooLarge, most_rows, read_bounded, reading, results_mb
from gpuscout.sweeps.text import fault_in, printable

COLUMNS = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Price", "SpotPrice", "Region", "GpuInfo")
_REQUIRED = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Price", "Region")
_NAME = re.compile(r"""['"]Name['"]: ?['"]([^'"]{1,100})['"]""")
_SIZE = re.compile(r"""['"](SizeInMiB|TotalGpuMemoryInMiB)['"]: ?(\d{1,9})""")
_MOST_GPUS = 10_000
_MOST_USD = 1e6
_MOST_PROBLEMS = 20


@dataclass
class SkyPilotFile:
    """One file. `provider` None: told by the name of the file or, of a `vms.csv`, of its folder."""

    path: Path
    provider: str | None = None
    problems: list[SpecProblem] = field(default_factory=list)

    def read(self) -> list[Offer]:
        """Return the offers in the order of the file.

        Raises InputError with its problems, or when it cannot be read.
        """
        provider = self.provider or self._provider()
        with reading(self.path):
            text = read_bounded(self.path, results_mb()).decode("utf-8-sig")
            reader = csv.DictReader(io.StringIO(text, newline=""))
            names = {(name or "").strip().casefold(): name for name in reader.fieldnames or ()}
            columns = {name: names[name.casefold()] for name in COLUMNS if name.casefold() in names}
            missing = [name for name in _REQUIRED if name not in columns]
            if missing:
                raise InputError(
                    f"{self.path}:1  no column {' and '.join(missing)}: not a SkyPilot catalogue",
                    hint=f"expected a first line with {', '.join(COLUMNS)}",
                )
            found = list(self._offers(reader, columns, provider))
        if self.problems:
            more = "; there may be more" if len(self.problems) == _MOST_PROBLEMS else ""
            count = f"{len(self.problems)} problem{'s' * (len(self.problems) > 1)}{more}"
            raise InputError("\n".join([*map(str, self.problems), f"{count}, nothing was imported."]))
        return found

    def _provider(self) -> str:
        for name in (self.path.stem, self.path.absolute().parent.name):
            if name.casefold() in PROVIDERS:
                return PROVIDERS[name.casefold()]
        raise InputError(f"{self.path} does not name its provider", hint="give it with --provider NAME")

    def _offers(self, reader: csv.DictReader[str], columns: Mapping[str, str], provider: str) -> Iterator[Offer]:
        for number, row in enumerate(reader):
            if number >= most_rows():
                raise TooLarge(str(self.path), f"{most_rows():,} rows")
            if len(self.problems) >= _MOST_PROBLEMS:
                return
            cells = {name: (row.get(column) or "").strip() for name, column in columns.items()}
            if None in row:
                self._report(reader.line_num, None, "more cells than columns")
            elif cells["AcceleratorName"]:
                yield from self._of_row(cells, reader.line_num, provider)

    def _of_row(self, cells: Mapping[str, str], line: int, provider: str) -> Iterator[Offer]:
        for name, cell in cells.items():
            if fault := fault_in(cell):
                self._report(line, name, fault)
                return
        count = self._number(cells, "AcceleratorCount", line, _MOST_GPUS)
        prices = {
            "on-demand": self._number(cells, "Price", line, _MOST_USD),
            "spot": self._number(cells, "SpotPrice", line, _MOST_USD),
        }
        if not count:
            if not cells["AcceleratorCount"]:
                self._report(line, "AcceleratorCount", "missing")
            return
        whole = int(count) if count.is_integer() else 0
        info, instance = cells.get("GpuInfo", ""), cells["InstanceType"]
        named = _NAME.search(info)
        for purchase, usd in prices.items():
            if usd:  # an empty cell and 0 say that it is not sold so
                yield Offer(
                    *(provider, cells["AcceleratorName"], whole, usd, purchase),
                    region=" ".join(cells["Region"].replace(",", " ").split()),
                    instance_type=instance,
                    memory_gb=_memory(info, whole),
                    texts=(named[1],) if named else (),
                    source=f"SkyPilot catalogue {printable(self.path.name)} of {provider}",
                    note="" if instance else "accelerator without its host, which is billed separately",
                    exact=bool(instance),
                )

    def _number(self, cells: Mapping[str, str], name: str, line: int, most: float) -> float | None:
        """Return a number from 0 to `most`; None where the cell is empty, or holds none, which is reported."""
        text = cells.get(name, "")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= most:
            self._report(line, name, f'invalid number "{printable(text[:40])}": expected 0 to {most:,.0f}')
            return None
        return value

    def _report(self, line: int, column: str | None, message: str) -> None:
        self.problems.append(SpecProblem(message, str(self.path), line, None, column))


def _memory(info: str, count: int) -> tuple[float, ...]:
    """Return GB of one GPU, in every way in which `GpuInfo` can be read."""
    stated = {name: int(value) for name, value in _SIZE.findall(info)}
    size, total = stated.get("SizeInMiB", 0), stated.get("TotalGpuMemoryInMiB", 0)
    if not size:
        return ()
    gb = size / 1024 if size >= 1_000 else float(size)
    # Some catalogues state the sum in both places.
    return (gb, gb / count) if count > 1 and size == total else (gb,)
