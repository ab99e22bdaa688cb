"""Every Python example of the README, of docs/ and of the docstrings of the Python API does what it says."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import gpuscout
from gpuscout.sweeps.spec.starter import starter_spec

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
PAGES = [
    page
    for page in (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
    if "```python" in page.read_text("utf-8")
]
MODULES = (
    "runner.api.estimates.estimate",
    "runner.api.gpus",
    "runner.api.recommendations.results",
    "runner.api.recommendations.recommend",
    "runner.api.models.model",
    "runner.api.models.planner",
    "sweeps.gpus.gpu",
    "sweeps.gpus.library",
)
PUBLIC = {name: getattr(gpuscout, name) for name in gpuscout.__all__}

_BLOCK = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
# Figures of a page may be those of constants that were fitted a little differently; words may not.
_TOLERANCE = 0.15


@dataclass(frozen=True)
class Example:
    """A block of Python, the line it starts at, and what the page says it prints (None: nothing is said)."""

    code: str
    line: int
    printed: str | None


def python_examples(page: Path) -> Iterator[Example]:
    """The Python blocks of a page in Markdown; a block of text right after one is what it prints."""
    text = page.read_text()
    blocks = list(_BLOCK.finditer(text))
    for block, following in zip(blocks, [*blocks[1:], None], strict=False):  # a page may have none
        if block["kind"] == "python":
            adjacent = following is not None and not text[block.end() : following.start()].strip()
            printed = following["text"] if following and adjacent and following["kind"] == "text" else None
            yield Example(block["text"], text[: block.start()].count("\n") + 2, printed)


def run_example(example: Example, page: Path, names: dict[str, Any]) -> str:
    """Run it in a namespace; what it printed. Tracebacks name the line of the page."""
    code = compile("\n" * (example.line - 1) + example.code, str(page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    return printed.getvalue()


def looks_like(printed: str, expected: str) -> bool:
    """The same text, but for figures that are a little different."""
    words, numbers = _NUMBER.sub("#", printed).split(), _NUMBER.findall(printed)
    expected_words, expected_numbers = _NUMBER.sub("#", expected).split(), _NUMBER.findall(expected)
    return words == expected_words and all(map(_near, numbers, expected_numbers))


def _near(one: str, other: str) -> bool:
    a, b = (float(text.replace(",", "")) for text in (one, other))
    return abs(a - b) <= _TOLERANCE * max(a, b)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_example_of_a_page_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("sweep.yaml").write_text(starter_spec())
    examples = list(python_examples(page))
    assert bool(examples) == ("```python" in page.read_text())
    names: dict[str, Any] = {}
    for example in examples:
        printed = run_example(example, page, names)
        if example.printed is not None:
            assert looks_like(printed, example.printed), f"{page.name}:{example.line} prints\n{printed}"
        else:
            assert page.name == "README.md" or not printed, f"{page.name}:{example.line} does not say what it prints"


@pytest.mark.parametrize("module", MODULES)
def test_every_example_of_a_docstring_holds(module: str) -> None:
    tested = doctest.testmod(
        importlib.import_module(f"gpuscout.{module}"),
        extraglobs=PUBLIC,
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert tested.attempted
    assert not tested.failed


def test_every_public_name_is_on_a_page() -> None:
    written = "\n".join(page.read_text() for page in PAGES)
    api = {name for name, home in gpuscout._HOMES.items() if f"runner.{home.partition('.')[2]}" in MODULES}
    assert api == {name for name in api if re.search(rf"\b{name}\b", written)}
    assert set(gpuscout.__all__) == set(gpuscout._HOMES)


@pytest.mark.parametrize(
    ("printed", "same"),
    [("1,000 tok/s", True), ("1,100 tok/s", True), ("1,300 tok/s", False), ("1,000 req/s", False), ("1,000", False)],
)
def test_only_figures_may_differ_a_little(printed: str, same: bool) -> None:
    assert looks_like(printed, "1,000 tok/s") is same
