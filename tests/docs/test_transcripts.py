"""What the pages show of the terminal is what gpuscout prints."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.test_examples import looks_like

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# A command that readers need not see stands in a comment: <!-- $ gpuscout … -->
_BLOCK = re.compile(r"^```console\n(?P<text>.*?)^```$|^<!-- (?P<hidden>\$ .*?) -->$", re.MULTILINE | re.DOTALL)
# "$" also stands in legends: what is not one of these programs is no command.
_PROMPT = r"\$ (?=gpuscout |cat |head )"
_COMMAND = re.compile(rf"^{_PROMPT}(?P<line>(?:.*\\\n)*.*)\n(?P<printed>(?:(?!{_PROMPT}).*\n)*)", re.MULTILINE)
_DURATION = re.compile(r"\b(in|than|take) \d[\d.]* (ms|s|min)\b")
# Ages of prices in the pages count to this day: 2026-11-28.
_SHOWN_ON = "1795867200"
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if "```console" in page.read_text("utf-8")
]


@dataclass(frozen=True)
class Command:
    """A command of a page: from `start` to `end` of its text stands what it prints. Hidden ones have no such place."""

    line: str
    printed: str
    start: int
    end: int
    hidden: bool


def commands(page: str) -> Iterator[Command]:
    """The commands of a page in order; one may go on in further lines after a backslash."""
    for block in _BLOCK.finditer(page):
        if block["hidden"]:
            yield Command(block["hidden"][2:], "", 0, 0, hidden=True)
            continue
        begin = block.start("text")
        for found in _COMMAND.finditer(block["text"]):
            span = begin + found.start("printed"), begin + found.end("printed")
            yield Command(found["line"], found["printed"], *span, hidden=False)


def prepared(folder: Path) -> Path:
    """A folder with the example specs, and a result file that does not say on what it was measured."""
    for spec in (ROOT / "examples").glob("*.yaml"):
        shutil.copy(spec, folder)
    result = json.loads((ROOT / "tests/data/formats/vllm.json").read_text("utf-8"))
    kept = {key: value for key, value in result.items() if key not in ("gpu", "tp", "vllm_version")}
    (folder / "bench.json").write_text(json.dumps(kept))
    return folder


def output(command: Command, folder: Path) -> str:
    """What a shell prints, errors included."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name not in ("GPUSCOUT_DB", "NO_COLOR")}
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1; {command.line}"],
        cwd=folder,
        env={**kept, "PATH": path, "COLUMNS": "100", "HF_HUB_OFFLINE": "1", "SOURCE_DATE_EPOCH": _SHOWN_ON},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_prints_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    """After a change on purpose: python -m tests.assets.update_transcripts"""
    folder = prepared(tmp_path)
    for command in commands(page.read_text("utf-8")):
        printed = output(command, folder)
        if not command.hidden:
            now, shown = (_DURATION.sub("…", text) for text in (printed, command.printed))
            assert looks_like(now, shown), f"$ {command.line}\n{printed}"
