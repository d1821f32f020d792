"""Evaluation in several processes: each opens the model and counts what it is given. Counts are integers: they add."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import BackendError, InputError, SegdeployError
from segdeploy.base.machine import compute_threads
from segdeploy.base.progress import progress_bar
from segdeploy.images.dataset import Sample
from segdeploy.runtime.augment import Augmentation
from segdeploy.runtime.open import Device, open_session
from segdeploy.runtime.tally import Problem, Tally, count_sample, empty_matrix, load_sample


@dataclass(frozen=True)
class _Ready:
    """The model is open."""

    device: str


@dataclass(frozen=True)
class _Done:
    """An image was counted, or could not be."""

    error: InputError | None


@dataclass(frozen=True)
class _Counted:
    """The worker's last word."""

    counts: NDArray[np.int64]
    images: int


@dataclass(frozen=True)
class _Failed:
    """The worker cannot go on: an error of the user's, or the traceback of a bug."""

    error: SegdeployError | str


_Reply: TypeAlias = _Ready | _Done | _Counted | _Failed


def tally_in_processes(
    artifact: Artifact,
    samples: Sequence[Sample],
    *,
    device: Device,
    threads: int | None,
    processes: int,
    augmentation: Augmentation,
    max_pixels: int,
    label: str,
) -> Tally:
    """``tally`` with the samples handed out to worker processes, one at a time.

    Raises:
        BackendError: the model cannot run here, or a worker was ended.
        ArtifactError: the artifact is bound to another machine.
    """
    count = min(processes, len(samples))
    share = max(1, threads // count) if threads else compute_threads(count)
    with ExitStack() as stack, progress_bar(label, len(samples)) as advance:
        workers = [stack.enter_context(_Worker(artifact, device, share, augmentation, max_pixels)) for _ in range(count)]
        matrix, found = empty_matrix(artifact), {}
        devices = dict.fromkeys(_device(worker.reply()) for worker in workers)
        waiting, busy = list(enumerate(samples))[::-1], {}
        for worker in workers:
            busy[worker] = worker.give(*waiting.pop())
        while busy:
            for worker in _answered(list(busy)):
                reply, index = worker.reply(), busy.pop(worker)
                assert isinstance(reply, _Done)
                if reply.error is not None:
                    found[index] = Problem(samples[index], reply.error)
                advance()
                if waiting:
                    busy[worker] = worker.give(*waiting.pop())
        for worker in workers:
            worker.finish()
            counted = worker.reply()
            assert isinstance(counted, _Counted)
            matrix.merge(counted.counts, counted.images)
        where = f"{', '.join(devices)}, {count} processes"
        return Tally(matrix, tuple(found[index] for index in sorted(found)), where)


class _Worker:
    """One process and the pipe to it; a context manager that ends it."""

    def __init__(self, artifact: Artifact, device: Device, threads: int, augmentation: Augmentation, max_pixels: int) -> None:
        # Not forked: the thread pools of PyTorch and onnxruntime, and CUDA, do not survive that.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work,
            args=(theirs, artifact, device, threads, augmentation),
            kwargs={"max_pixels": max_pixels},
            name="segdeploy eval",
            daemon=True,
        )
        with _ctrl_c_kept():
            self._process.start()
        theirs.close()  # so that the pipe ends with the worker

    def give(self, index: int, sample: Sample) -> int:
        """Hand over a sample; its index again."""
        self._send(sample)
        return index

    def finish(self) -> None:
        """Say that there are no more."""
        self._send(None)

    def reply(self) -> _Reply:
        """Wait for the next word.

        Raises:
            SegdeployError: what went wrong there.
            RuntimeError: a bug there, with its traceback.
        """
        try:
            reply: _Reply = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._ended() from error
        if isinstance(reply, _Failed):
            raise reply.error if isinstance(reply.error, SegdeployError) else RuntimeError(f"in a worker:\n{reply.error}")
        return reply

    def _send(self, sample: Sample | None) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # a worker that has ended: waiting for its reply says so
            self.connection.send(sample)

    def _ended(self) -> BackendError:
        self._process.join()
        code = self._process.exitcode or 0
        how = f"one ended by {signal.Signals(-code).name}" if code < 0 else f"one that ended with exit status {code}"
        return BackendError(
            expected="worker processes that stay alive",
            got=how + (" (out of memory?)" if code == -signal.SIGKILL else ""),
            fix="use fewer --processes",
        )

    def __enter__(self) -> _Worker:
        """Nothing more to start."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, in the middle of an image if need be."""
        self.connection.close()
        self._process.terminate()
        self._process.join()


@contextmanager
def _ctrl_c_kept() -> Iterator[None]:
    """What is started meanwhile never sees Ctrl-C, which reaches every process; here it comes when the block is over.

    So the one that hands out work ends the others, and those have nothing to say of it.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # multiprocessing starts it with the first process, and unblocks the signal then
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _answered(workers: Sequence[_Worker]) -> list[_Worker]:
    """Those with a word to read, or that have ended; waits for the first."""
    ready: list[Any] = wait([worker.connection for worker in workers])
    return [worker for worker in workers if worker.connection in ready]


def _device(reply: _Reply) -> str:
    assert isinstance(reply, _Ready)
    return reply.device


def _work(
    connection: Connection[_Reply, Sample | None],
    artifact: Artifact,
    device: Device,
    threads: int,
    augmentation: Augmentation,
    *,
    max_pixels: int,
) -> None:
    """The worker: counts what it is given until there is no more, or until the other side is gone."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            matrix = empty_matrix(artifact)
            with open_session(artifact, device, threads) as session:
                connection.send(_Ready(session.device))
                while (sample := connection.recv()) is not None:
                    problem = None
                    try:
                        loaded = load_sample(sample, artifact.manifest, matrix, max_pixels)
                        count_sample(session, loaded, matrix, augmentation)
                    except InputError as error:
                        problem = error
                    connection.send(_Done(problem))
            connection.send(_Counted(matrix.counts, matrix.images))
        except SegdeployError as error:
            connection.send(_Failed(error))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception:  # noqa: BLE001  a bug keeps its traceback, on the side where it can be seen
            connection.send(_Failed(traceback.format_exc()))
