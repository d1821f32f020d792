"""Work on many files by several processes, which ends cleanly on Ctrl-C and when a process is killed."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from segdeploy.base.errors import InputError

In = TypeVar("In")
Out = TypeVar("Out")


def map_in_processes(work: Callable[[In], Out], jobs: Sequence[In], *, workers: int, chunk: int) -> Iterator[Out]:
    """``work`` of every job, in their order; in this process where there is enough for one worker only.

    Args:
        work: of a module, so that a new process finds it.
        jobs: what to work on.
        workers: processes, at most.
        chunk: how many jobs a process takes at a time.

    Raises:
        InputError: a process was killed.
    """
    workers = min(workers, -(-len(jobs) // chunk))
    return map(work, jobs) if workers <= 1 else _in_processes(work, jobs, workers, chunk)


def _in_processes(work: Callable[[In], Out], jobs: Sequence[In], workers: int, chunk: int) -> Iterator[Out]:
    # Spawned, not forked: PyTorch's threads may be alive here, and a fork would inherit their locks.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    try:
        # Ctrl-C goes to all processes; the parent deals with it, and those started now inherit that it is held back.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            outcomes = pool.map(work, jobs, chunksize=chunk)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield from outcomes
    except BrokenProcessPool as error:
        raise InputError(
            expected=f"{workers} processes at work",
            got="one of them was killed, perhaps for lack of memory",
            fix="start the same command again to go on, with fewer --workers",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: end when the parent ends, even where that was killed and could not say so."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a worker"

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
