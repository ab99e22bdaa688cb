"""Run the Python examples of README.md and docs and write what they print into the pages: after a new calibration.

    python tests/assets/update_examples.py

`tests/docs/test_examples.py` then holds them to it. Read the difference before committing it: words that changed are
for a person to judge.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT))

from gpuscout.sweeps.spec.starter import starter_spec  # noqa: E402
from tests.docs.test_examples import PAGES, looks_like, python_examples, run_example  # noqa: E402


def update(page: Path) -> int:
    """How many blocks of the page were written anew."""
    text, changed = page.read_text(), 0
    names: dict[str, Any] = {}
    for example in python_examples(page):
        printed = run_example(example, page, names)
        if example.printed is not None and printed != example.printed:
            differs = not looks_like(printed, example.printed)
            text = text.replace(f"```text\n{example.printed}```", f"```text\n{printed}```", 1)
            changed += differs
    if changed:
        page.write_text(text)
    return changed


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("sweep.yaml").write_text(starter_spec())
        for page in PAGES:
            print(f"{page.name}: {update(page)} examples changed")


if __name__ == "__main__":
    main()
