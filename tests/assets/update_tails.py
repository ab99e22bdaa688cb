"""Writes how sure the simulator is of percentiles: its file `tails.json`, and the table of them in docs/simulator.md.

    python -m tests.assets.update_tails

after a calibration, or where the simulator gives other percentiles; it takes some minutes. A test compares the page
with the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuscout.runner.accuracy.names import RunNames
from gpuscout.runner.accuracy.percentiles import that_tell_percentiles
from gpuscout.runner.calibration.left_out import estimates_left_out
from gpuscout.runner.calibration.tails import tails_document
from gpuscout.runner.engines.simulator.engine import Simulator
from gpuscout.store.measured import public_runs

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/simulator.md"
FILE = ROOT / "runner/engines/simulator/tails.json"
_HEAD = "| 80 % interval, x the estimate | p50 | p90 | p95 | p99 | inside |"
_METRICS = {"ttft_ms": "TTFT", "itl_ms": "ITL", "e2e_s": "E2E"}
_BANDS = {"1-8": "1 to 8 in flight", "9-64": "9 to 64", "65-": "65 and more"}


def table(document: Mapping[str, Any]) -> str:
    """The intervals as lines of Markdown; the last column is of the 99th percentile."""
    lines = [_HEAD, "|---|---|---|---|---|---|"]
    for metric, name in _METRICS.items():
        for band, words in _BANDS.items():
            pairs = [document["intervals"][f"p{p}_{metric}"][band] for p in (50, 90, 95, 99)]
            cells = [f"{low:.2f}–{high:.2f}" if high < 10 else f"{low:.2f}–{high:.0f}" for low, high in pairs]
            inside = f"{document['inside'][f'p99_{metric}']:.0%}".replace("%", " %") if band == "1-8" else ""
            lines.append(f"| {name}, {words} | {' | '.join(cells)} | {inside} |")
    return "\n".join(lines)


def with_table(page: str, document: Mapping[str, Any]) -> str:
    """The page with this table in place of the one that it has."""
    written, found = re.subn(rf"{re.escape(_HEAD)}\n(\|.*\n)+", table(document) + "\n", page)
    if found != 1:
        raise ValueError(f"expected one table with the head {_HEAD}")
    return written


def main() -> None:
    names, runs = RunNames(), public_runs()
    estimates = estimates_left_out(
        lambda file: Simulator(constants_file=file), that_tell_percentiles(runs), runs, names, print
    )
    document = tails_document(estimates, names)
    FILE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), document), encoding="utf-8")


if __name__ == "__main__":
    main()
