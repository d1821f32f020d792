"""The worker process: ``python -m segdeploy.bench.worker``. Opens one artifact, and is timed when it is its turn.

A process of its own keeps the thread pools of PyTorch and onnxruntime apart, makes the resident memory one backend's, and
turns a crash into one row of the report.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import SegdeployError
from segdeploy.bench.accuracy import measure_accuracy
from segdeploy.bench.protocol import (
    Count,
    Counted,
    Evaluate,
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
    decode_request,
    line,
)
from segdeploy.bench.variants import adapt
from segdeploy.images.dataset import Sample
from segdeploy.images.decode import MAX_PIXELS, read_image
from segdeploy.images.resize import resize_image
from segdeploy.runtime.open import open_session
from segdeploy.runtime.predictor import predict_labels
from segdeploy.runtime.session import Session, Staged

# The first call after a pause costs up to twice as much as those that follow (sleeping threads, cold caches, the spinning
# threads of the worker that was just timed): each turn begins with calls that do not count, at least so long.
_SETTLE_S = 0.05


class Worker:
    """One session and its input batch."""

    def __init__(self, send: Callable[[Reply], None]) -> None:
        self._send = send
        self._session: Session | None = None
        self._images: NDArray[np.uint8] | None = None
        self._staged: Staged | None = None
        self._max_pixels = MAX_PIXELS

    def answer(self, request: Request) -> Reply:
        """Do what is asked."""
        match request:
            case Open():
                return self.open(request)
            case Prepare():
                return self.prepare(request)
            case Turn():
                return self.turn(request)
            case Count():
                return self.count()
            case Pictures():
                return self.pictures(request)
            case Evaluate():
                return self.evaluate(request)

    def open(self, request: Open) -> Opened:
        """Open the artifact; the time includes importing the backend's packages, as a deployment's start does."""
        artifact = Artifact(Path(request.folder), request.manifest)
        self._max_pixels = request.max_pixels
        started = time.perf_counter_ns()
        self._session = open_session(artifact, request.device, request.threads)  # type: ignore[arg-type]
        if request.variation is not None:
            adapt(self._session, request.variation)
        return Opened((time.perf_counter_ns() - started) / 1e6, self._session.device)

    def prepare(self, request: Prepare) -> Timed:
        """Bring the batch to the device and warm up."""
        assert self._session is not None
        self._images = input_batch(request.shape, [Path(image) for image in request.images], request.seed, self._max_pixels)
        self._staged = self._session.stage(self._images)
        run_ms, execute_ms = self._time(request.warmup)
        return Timed((), (), run_ms, execute_ms, peak_rss_bytes())

    def turn(self, request: Turn) -> Timed:
        """Settle, then time some calls."""
        settling: list[float] = []
        while sum(settling) < 1000 * _SETTLE_S:
            settling += self._time(1, execute=False)[0]
        run_ms, execute_ms = self._time(request.calls)
        return Timed(run_ms, execute_ms, tuple(settling), (), peak_rss_bytes())

    def count(self) -> Counted:
        """Watch one batch go through the checkpoint's model."""
        from torch.utils.flop_counter import FlopCounterMode

        assert self._session is not None
        assert self._staged is not None
        with FlopCounterMode(display=False) as counter:
            self._session.execute(self._staged)
        return Counted(counter.get_total_flops() / 2e9)  # it counts a multiplication and an addition as two

    def pictures(self, request: Pictures) -> Timed:
        """Segment pictures, each made anew, none kept."""
        assert self._session is not None
        count, height, width = request.size
        spent_ms = 0.0
        for index in range(count):
            image = coarse_picture(height, width, request.seed + index)
            started = time.perf_counter_ns()
            predict_labels(self._session, image)
            spent_ms += (time.perf_counter_ns() - started) / 1e6
        return Timed((spent_ms,), (), (), (), peak_rss_bytes())

    def evaluate(self, request: Evaluate) -> Reply:
        """Score the session."""
        assert self._session is not None
        ways = (*request.labellings, None)  # -1 is the last
        samples = [Sample(name, Path(image), Path(label), ways[way]) for name, image, label, way in request.samples]
        return measure_accuracy(
            self._session,
            samples,
            keep=request.keep,
            advance=lambda: self._send(Progress()),
            max_pixels=self._max_pixels,
        )

    def _time(self, calls: int, *, execute: bool = True) -> tuple[tuple[float, ...], tuple[float, ...]]:
        session, images, staged = self._session, self._images, self._staged
        assert session is not None
        assert images is not None
        assert staged is not None
        run_ms = _time(calls, lambda: session.run(images))
        return run_ms, _time(calls, lambda: session.execute(staged)) if execute else ()


def _time(calls: int, call: Callable[[], object]) -> tuple[float, ...]:
    # Sessions return when the device is idle, so one clock is right for all of them.
    values = []
    for _ in range(calls):
        started = time.perf_counter_ns()
        call()
        values.append((time.perf_counter_ns() - started) / 1e6)
    return tuple(values)


def input_batch(
    shape: tuple[int, int, int], images: Sequence[Path], seed: int, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """The same input for every backend: real pictures resized to the network's input, or seeded noise.

    Args:
        shape: (N, H, W).
        images: files, taken in turn until the batch is full; empty for noise.
        seed: of the noise.
        max_pixels: see ``decode_image``.

    Returns:
        uint8 [N, H, W, 3] RGB.

    Raises:
        InputError: a file is not an image.
    """
    count, height, width = shape
    if not images:
        return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)
    pictures = (read_image(images[i % len(images)], max_pixels=max_pixels) for i in range(count))
    return np.stack([resize_image(picture, height, width) for picture in pictures])


def coarse_picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Seeded blobs of 32 pixels, uint8 [height, width, 3]: labels in areas, as a photograph has them."""
    blobs = np.random.default_rng(seed).integers(0, 256, (-(-height // 32), -(-width // 32), 3), np.uint8)
    return resize_image(blobs, height, width)


def peak_rss_bytes() -> int | None:
    """The largest resident memory of this process; None where the system does not tell.

    Not ``ru_maxrss``: on Linux that survives exec, so a worker would report its parent's peak where that was larger.
    """
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(found.group(1)) * 1024 if found else None
    return None


def answer(worker: Worker, data: bytes) -> Reply:
    """Do what a request asks; what cannot be done is an answer too."""
    try:
        return worker.answer(decode_request(data))
    except SegdeployError as error:
        return Failed(str(error))
    except Exception as error:  # noqa: BLE001  a backend's own error (out of memory, say) costs its row, not the others
        return Failed(" ".join(f"{type(error).__name__}: {error}".split())[:300])


def main() -> None:
    """Answer requests until there are no more."""
    # The real stdout carries the answers; what packages print goes to stderr.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def send(reply: Reply) -> None:
        channel.write(line(reply))
        channel.flush()

    worker = Worker(send)
    for data in _requests():
        send(answer(worker, data))


def _requests() -> Iterator[bytes]:
    yield from iter(sys.stdin.buffer.readline, b"")


if __name__ == "__main__":
    main()
