"""The benchmark's side of a worker process."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

from segdeploy.artifact.folder import Artifact
from segdeploy.bench.protocol import (
    Count,
    Counted,
    Evaluate,
    Evaluated,
    Failed,
    Open,
    Opened,
    Pictures,
    Prepare,
    Progress,
    Reply,
    Request,
    Timed,
    Turn,
    decode_reply,
    line,
)
from segdeploy.bench.result import Shape
from segdeploy.bench.variants import variation_of
from segdeploy.images.dataset import Sample
from segdeploy.images.decode import MAX_PIXELS

COMMAND = (sys.executable, "-m", "segdeploy.bench.worker")
_CLOSE_TIMEOUT_S = 5.0

R = TypeVar("R", Opened, Timed, Counted, Evaluated)


class NotRun(Exception):  # noqa: N818  a row's state, not a fault of the program
    """A backend could not do what was asked; its text is one line."""


class WorkerProcess:
    """One artifact in a process of its own; a context manager that ends it."""

    def __init__(self, command: Sequence[str] = ()) -> None:
        # A file, because nobody reads a pipe meanwhile, and a full one would stop the worker.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            list(command or COMMAND), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def open(self, artifact: Artifact, device: str, threads: int, max_pixels: int = MAX_PIXELS) -> Opened:
        """Open the artifact there; ``max_pixels`` is of all pictures and label maps that it is given afterwards.

        Raises:
            NotRun: it cannot be opened.
        """
        variation = variation_of(artifact)
        device = "cpu" if variation == "cpu" else device
        return self._ask(Open(str(artifact.folder), artifact.manifest, device, threads, variation, max_pixels), Opened)

    def prepare(self, shape: Shape, images: Sequence[str], *, seed: int, warmup: int) -> Timed:
        """Stage the input and warm up.

        Raises:
            NotRun: the artifact does not take the shape, or fails on it.
        """
        return self._ask(Prepare(shape, tuple(images), seed, warmup), Timed)

    def turn(self, calls: int) -> Timed:
        """Time some calls.

        Raises:
            NotRun: the backend failed.
        """
        return self._ask(Turn(calls), Timed)

    def count(self) -> float:
        """10^9 multiplications of the checkpoint's own model on one batch.

        Raises:
            NotRun: they cannot be counted.
        """
        return self._ask(Count(), Counted).gmac

    def pictures(self, size: tuple[int, int, int], *, seed: int) -> Timed:
        """Segment (how many, height, width) pictures; the one value is of all of them.

        Raises:
            NotRun: the artifact does not take them, or fails on them.
        """
        return self._ask(Pictures(size, seed), Timed)

    def evaluate(self, samples: Sequence[Sample], *, keep: int, advance: Callable[[], None]) -> Evaluated:
        """Score labelled images.

        Raises:
            NotRun: they cannot be evaluated.
        """
        ways = tuple(dict.fromkeys(one.labelling for one in samples if one.labelling is not None))
        listed = tuple(
            (one.name, str(one.image), str(one.label), -1 if one.labelling is None else ways.index(one.labelling))
            for one in samples
        )
        return self._ask(Evaluate(listed, ways, keep), Evaluated, advance)

    def _ask(self, request: Request, expected: type[R], advance: Callable[[], None] | None = None) -> R:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # a worker that has ended; the answer says so
            self._process.stdin.write(line(request))
            self._process.stdin.flush()
        while isinstance(reply := self._reply(), Progress):
            if advance is not None:
                advance()
        if isinstance(reply, Failed):
            raise NotRun(reply.reason)
        assert isinstance(reply, expected)
        return reply

    def _reply(self) -> Reply:
        assert self._process.stdout is not None
        data = self._process.stdout.readline()
        if not data.endswith(b"\n"):
            raise NotRun(self._epitaph())
        return decode_reply(data)

    def _epitaph(self) -> str:
        code = self._process.wait()
        how = f"ended with exit status {code}"
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
            how += " (out of memory?)" if -code == signal.SIGKILL else ""
        self._log.seek(0)
        said = [text for text in self._log.read().decode(errors="replace").splitlines() if text.strip()]
        return f"its worker process {how}" + (f"; its last words: {said[-1].strip()[:200]}" if said else "")

    def __enter__(self) -> WorkerProcess:
        """Nothing more to start."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the process: it stops at the end of its input, or is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        if error is not None:
            self._process.kill()  # it may be in the middle of a long call
        try:
            self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()
