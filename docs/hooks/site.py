"""Hook of mkdocs: adds the generated pages and the pages that stand at the project's root, and mends their links."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

HOOKS = Path(__file__).parent
ROOT = HOOKS.parents[1]
# Page of the site -> file at the root.
ROOT_PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
REPOSITORY = "https://github.com/gpuscout/gpuscout/blob/main"
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add what is not in docs/: generated pages and those of the root."""
    sys.path.insert(0, str(HOOKS))
    try:
        import architecture
        import commands
        import python_api
        import spec
    finally:
        sys.path.remove(str(HOOKS))
    generated = {
        "reference/cli.md": commands.page(),
        "reference/spec.md": spec.page(),
        "reference/python.md": python_api.page(),
        "architecture.svg": architecture.picture(),
    }
    generated |= {page: (ROOT / source).read_text("utf-8") for page, source in ROOT_PAGES.items()}
    for path, content in generated.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to files of the project at their page, or at the repository where they have none."""
    here = page.file.src_uri
    source = ROOT / ROOT_PAGES.get(here, f"docs/{here}")
    return _LINK.sub(lambda link: _mended(link, source, here), markdown)


def _mended(link: re.Match[str], source: Path, here: str) -> str:
    target = (source.parent / link["target"]).resolve()
    anchor = link["anchor"] or ""
    if not target.is_relative_to(ROOT) or not target.exists():  # generated, or dead: mkdocs says which
        return link[0]
    if target.is_relative_to(ROOT / "docs"):
        found = target.relative_to(ROOT / "docs").as_posix()
    else:
        path = target.relative_to(ROOT).as_posix()
        pages = {file: page for page, file in ROOT_PAGES.items()}
        if path not in pages:
            return f"{REPOSITORY}/{path}{anchor}"
        found = pages[path]
    return "../" * here.count("/") + found + anchor
