"""The order of measurement: every backend has a turn in every round, so that a drift of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from segdeploy.base.progress import Advance
from segdeploy.bench.process import NotRun
from segdeploy.bench.protocol import Timed
from segdeploy.bench.result import BenchSettings


class TurnTaker(Protocol):
    """What can be timed; a ``WorkerProcess`` is one."""

    def turn(self, calls: int) -> Timed:
        """Time so many calls of ``run`` and of ``execute``.

        Raises:
            NotRun: it failed.
        """


@dataclass
class Series:
    """What was measured of one backend so far.

    Attributes:
        run_ms: of ``Session.run``.
        execute_ms: of ``Session.execute``.
        warmup_run_ms: calls that do not count: the warm-up, and those that began each turn.
        warmup_execute_ms: likewise.
        peak_rss_bytes: of the worker.
        failure: why it takes no more turns.
    """

    run_ms: list[float] = field(default_factory=list)
    execute_ms: list[float] = field(default_factory=list)
    warmup_run_ms: list[float] = field(default_factory=list)
    warmup_execute_ms: list[float] = field(default_factory=list)
    peak_rss_bytes: int | None = None
    failure: str | None = None

    def add(self, timed: Timed) -> None:
        """Take in one turn."""
        self.run_ms += timed.run_ms
        self.execute_ms += timed.execute_ms
        self.warmup_run_ms += timed.warmup_run_ms
        self.warmup_execute_ms += timed.warmup_execute_ms
        self.peak_rss_bytes = timed.peak_rss_bytes

    def is_done(self, settings: BenchSettings) -> bool:
        """Whether it has all the values and the time that were asked for."""
        timed_s = (sum(self.run_ms) + sum(self.execute_ms)) / 1000
        return len(self.run_ms) >= settings.iterations and timed_s >= settings.min_time_s


def interleave(workers: Sequence[TurnTaker], settings: BenchSettings, advance: Advance) -> list[Series]:
    """Time the workers in rounds, A B C A B C, until all are done or the time is up.

    One that fails takes no more turns; the others go on.

    Args:
        workers: prepared and warm.
        settings: how long.
        advance: told of every round.

    Returns:
        One series a worker, in their order.
    """
    series = [Series() for _ in workers]
    deadline_s = time.monotonic() + settings.max_time_s
    while True:
        # The last turn may be shorter: exactly as many values as were asked for, unless the time says more.
        counts = [settings.iterations - len(one.run_ms) for one in series if one.failure is None]
        left = max(counts, default=0)
        calls = min(settings.turn, left) if left > 0 else settings.turn
        for worker, one in zip(workers, series, strict=True):
            if one.failure is None:
                try:
                    one.add(worker.turn(calls))
                except NotRun as error:
                    one.failure = str(error)
        advance(calls)
        running = [one for one in series if one.failure is None]
        if all(one.is_done(settings) for one in running) or time.monotonic() >= deadline_s:
            return series
