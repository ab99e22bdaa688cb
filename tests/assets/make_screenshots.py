"""Pictures of the quickstart, its pages and a frontier: `python -m tests.assets.make_screenshots [FOLDER]`.

Into docs/images those that are shown; into a folder that is named all, light and dark and as on a phone, to look at.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from playwright.sync_api import sync_playwright

from tests.support.forked import gpuscout
from tests.support.served import serving

ROOT = Path(__file__).parents[2]
CASE = "model=Qwen/Qwen3-32B&workload=chat"
FRONTIER = ("--model", "Qwen3-32B", "--workload", "chat", "--slo", "itl<=50ms", "--gpu", "B200,H200,H100,L40S")
# Name -> address and width.
SHOWN = {"page-ask": (f"?{CASE}&itl=40", 1000), "page-trade-offs": (f"trade-offs?{CASE}", 1000)}
LOOKED_AT = {
    "overview": ("", 1000),
    "phone": (f"?{CASE}", 390),
    "load": (f"load?rate=50&{CASE}", 1000),
    "day": (f"load?load=0:00=2,8:00=40,18:00=10&{CASE}", 1000),
    "day-phone": (f"load?load=0:00=2,8:00=40,18:00=10&{CASE}", 390),
    "place": (f"place?have=H100=16&rate=20&{CASE}", 1000),
    "prices": ("prices", 1000),
    "own": ("prices?gpu=H100&capex=28000&years=4&kw=1.1&usd_per_kwh=0.12", 1000),
    "compare": (f"compare?a=now&b=price:H100=2&{CASE}", 1000),
    "accuracy": ("accuracy", 1000),
    "sweep": ("sweeps/quickstart", 1000),
    "api": ("api", 1000),
    "wrong": ("?model=Qwen3-33B", 1000),
}


def main(into: Path, pictures: Mapping[str, tuple[str, int]], colours: Sequence[Literal["light", "dark"]]) -> None:
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        done = gpuscout("run", ROOT / "sweeps/examples/quickstart.yaml", cwd=Path(directory))
        assert done.returncode == 0, done.stderr
        frontier = into / "frontier.svg"
        frontier.unlink(missing_ok=True)
        done = gpuscout("pareto", *FRONTIER, "--plot", frontier, cwd=Path(directory))
        assert done.returncode == 0, done.stderr
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with serving(Path(directory)) as address:
            for name, (path, width) in pictures.items():
                for colour in colours:
                    page = browser.new_page(viewport={"width": width, "height": 820}, color_scheme=colour)
                    page.goto(address + path)
                    page.screenshot(path=into / f"{name}{'' if len(colours) == 1 else f'-{colour}'}.png")
                    page.close()
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), SHOWN | LOOKED_AT, ("light", "dark"))
    else:
        main(ROOT / "docs/images", SHOWN, ("light",))
