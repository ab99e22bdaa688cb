"""The line that moves while a sweep runs: only on a terminal, always on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gpuscout.runner.cli.common import count, err
from gpuscout.runner.execution.controller import Progress


@dataclass(frozen=True)
class Line:
    """`show` moves the line, `say` writes a message above it."""

    show: Callable[[Progress], None]
    say: Callable[[str], None]


@contextmanager
def progress_line(*, quiet: bool) -> Iterator[Line]:
    """Yield a callback for every block. Shows no line when quiet or when standard error is not a terminal.

    When quiet, messages are dropped as well.
    """
    console = err()
    if quiet or not console.is_terminal:
        yield Line(lambda progress: None, (lambda text: None) if quiet else console.print)
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[tasks]}  {task.fields[rate]}  {task.fields[failed]}  "),
        TextColumn("{task.fields[left]}"),
    )
    started = time.monotonic()
    with Bar(*columns, console=console, transient=True) as bar:
        line = bar.add_task("", total=1, tasks="", rate="", failed="", left="")
        first: list[int] = []

        def show(progress: Progress) -> None:
            seconds = max(time.monotonic() - started, 1e-9)
            first.append(progress.done_tasks) if not first else None
            done = progress.done_tasks - first[0]
            rest = progress.total_tasks - progress.done_tasks
            left = f"{_duration(rest * seconds / done)} left" if done else ""
            if progress.elsewhere:
                left = f"waiting for {count(progress.elsewhere, 'block')} of other runners"
            bar.update(
                line,
                total=max(progress.total_tasks, 1),
                completed=progress.done_tasks,
                tasks=f"{progress.done_tasks:,}/{progress.total_tasks:,} tasks "
                f"({progress.done_blocks:,}/{progress.total_blocks:,} blocks)",
                rate=f"{progress.points / seconds:,.0f} points/s",
                failed=f"{progress.failed_tasks:,} failed",
                left=left,
            )

        yield Line(show, bar.console.print)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
