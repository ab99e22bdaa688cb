"""Writes what the cells of a notebook print into it: `python -m tests.assets.run_notebook examples/NAME.ipynb`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def printed(notebook: Path, folder: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Each cell of code with what it prints, run in order in a folder with the example specs."""
    for spec in notebook.parent.glob("*.yaml"):
        shutil.copy(spec, folder)
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                with contextlib.redirect_stdout(io.StringIO()) as output:
                    exec("".join(cell["source"]), names)
                yield cell, output.getvalue()


def main(notebook: Path) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", COLUMNS="120")
    document = json.loads(notebook.read_text("utf-8"))
    cells = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    with tempfile.TemporaryDirectory() as folder:
        for cell, (_, text) in zip(cells, printed(notebook, Path(folder)), strict=True):
            lines = text.splitlines(keepends=True)
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []
    notebook.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
