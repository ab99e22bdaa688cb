"""Rich's console for texts that may come from strangers. Imported only by what prints a table or a progress bar."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from gpuscout.sweeps.text import printable_lines


class PrintableConsole(Console):
    """A console that escapes unprintable characters in its texts; Rich's own styles stay."""

    def print(self, *objects: Any, **options: Any) -> None:
        shown = (printable_lines(each) if isinstance(each, str) else each for each in objects)
        super().print(*shown, **options)
