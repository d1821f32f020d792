"""One way to show progress: a live bar on a terminal, a line now and then elsewhere (CI logs, pipes)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")

_PLAIN_INTERVAL_S = 10.0


class Advance(Protocol):
    """Moves a progress bar on."""

    def __call__(self, steps: int = 1, note: str = "") -> None:
        """Count ``steps`` as done and show ``note`` (a short text, such as the loss) behind the bar."""


@contextmanager
def progress_bar(label: str, total: int | None, *, done: int = 0) -> Iterator[Advance]:
    """Show a bar on stderr while the block runs.

    Args:
        label: what is being done, a few words.
        total: how many steps there are in all; None where nobody knows.
        done: how many of them were finished before (a resumed job).
    """
    if sys.stderr.isatty():
        with _live_bar(label, total, done) as advance:
            yield advance
    else:
        yield _plain_lines(label, total, done)


def say(text: str) -> None:
    """A line on stderr: what a user should know while something long goes on, and what no result depends on."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Iterate over ``items`` with a bar on stderr."""
    with progress_bar(label, total) as advance:
        for item in items:
            yield item
            advance()


@contextmanager
def _live_bar(label: str, total: int | None, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total, completed=done, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            progress.update(task, advance=steps, note=note)

        yield advance


def _plain_lines(label: str, total: int | None, done: int) -> Advance:
    started = last = time.monotonic()
    count = done

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal count, last
        count += steps
        now = time.monotonic()
        finished = total is not None and count - steps < total <= count
        if finished or now - last >= _PLAIN_INTERVAL_S:
            last = now
            taken = now - started
            left = f", {taken * (total - count) / (count - done):.0f} s left" if total is not None and count < total else ""
            of = "" if total is None else f"/{total}"
            say(f"{label}: {count}{of}  {taken:.0f} s{left}{f'  {note}' if note else ''}")

    return advance
