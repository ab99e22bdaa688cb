"""Writes what commands print into the pages that show it: `python -m tests.assets.update_transcripts [PAGE]`.

`tests/docs/test_transcripts.py` then holds the pages to it. Read the difference before committing it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.docs.test_transcripts import PAGES, commands, output, prepared


def update(page: Path) -> None:
    """Run the commands of a page in order and put in what they print."""
    text = page.read_text("utf-8")
    pieces, written = [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = prepared(Path(name))
        for command in commands(text):
            printed = output(command, folder)
            if not command.hidden:
                pieces += [text[written : command.start], printed]
                written = command.end
    page.write_text("".join([*pieces, text[written:]]), "utf-8")


if __name__ == "__main__":
    for page in [Path(name).resolve() for name in sys.argv[1:]] or PAGES:
        update(page)
