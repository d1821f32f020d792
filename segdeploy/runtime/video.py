"""Videos, frame by frame: what a model sees, as a video of the same length and rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segdeploy.base.errors import InputError
from segdeploy.base.files import new_file
from segdeploy.base.progress import progress_bar
from segdeploy.images.arrays import Image, Labels
from segdeploy.images.drawing import even, overlay, with_legend
from segdeploy.runtime.predictor import predict_batch
from segdeploy.runtime.session import Session

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})
_CODEC = "mp4v"  # the one that OpenCV's wheels write without a further library
_USUAL_RATE = 25.0


@dataclass(frozen=True)
class VideoResult:
    """What was made of a video.

    Attributes:
        frames: how many were segmented.
        promised: how many the file said it had; None where it did not say.
        rate: frames a second of the result.
        shares: label -> share of all pixels.
    """

    frames: int
    promised: int | None
    rate: float
    shares: dict[int, float]


def predict_video(
    session: Session,
    source: Path,
    path: Path | None,
    *,
    batch: int = 1,
    opacity: float = 0.5,
    legend: bool = True,
    seen: Callable[[int, Labels], None] | None = None,
) -> VideoResult:
    """Segment a video and write it with the labels' colours over it; a half-written file never stays.

    A file that says nothing of its rate is taken as 25 frames a second, and one of a varying rate as its mean.

    Args:
        session: any backend.
        source: the video.
        path: an .mp4 file; None to write none.
        batch: frames at once.
        opacity: of the colours.
        legend: all classes below the picture, in the same place on each frame.
        seen: called with each frame's number, from 0, and its labels [H, W].

    Raises:
        InputError: it is no video, has no frames, or the result cannot be written.
    """
    manifest = session.artifact.manifest
    listed: dict[int, float | None] = dict.fromkeys(range(len(manifest.classes))) if legend else {}
    counts = np.zeros(len(manifest.classes), np.int64)
    with _opened(source) as capture:
        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = rate if 0 < rate < 1000 else _USUAL_RATE
        said = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        promised = said if said > 0 else None
        done = 0
        with _writer(path, rate) as write, progress_bar(f"predict {source.name}", promised) as advance:
            for frames in _batches(capture, batch):
                for frame, labels in zip(frames, predict_batch(session, frames), strict=True):
                    if path is not None:
                        drawn = overlay(frame, labels, manifest.palette, opacity=opacity)
                        write(with_legend(drawn, manifest.classes, manifest.palette, listed) if legend else drawn)
                    counts += np.bincount(labels.ravel(), minlength=len(counts))[: len(counts)]
                    if seen is not None:
                        seen(done, labels)
                    done += 1
                    advance()
            if not done:
                raise InputError(expected=f"frames in '{source}'", got="none that can be read", fix="pass another video")
    return VideoResult(done, promised, rate, {int(k): float(counts[k] / counts.sum()) for k in np.flatnonzero(counts)})


@contextmanager
def _opened(source: Path) -> Iterator[Any]:
    if not source.is_file():
        raise InputError(expected=f"a video at '{source}'", got="no such file", fix="check the path")
    capture = cv2.VideoCapture(str(source))
    try:
        if not capture.isOpened():
            raise InputError(
                expected=f"a video that OpenCV can read at '{source}'", got="something else", fix="convert it to .mp4 (H.264)"
            )
        yield capture
    finally:
        capture.release()


def _batches(capture: Any, size: int) -> Iterator[list[Image]]:
    frames: list[Image] = []
    while True:
        there, frame = capture.read()
        if there:
            frames.append(np.ascontiguousarray(frame[..., ::-1]))
        if frames and (not there or len(frames) == size):
            yield frames
            frames = []
        if not there:
            return


@contextmanager
def _writer(path: Path | None, rate: float) -> Iterator[Callable[[Image], None]]:
    """Frames go to a temporary file beside its place; OpenCV opens it once the first says how large they are."""
    if path is None:
        yield lambda _picture: None
        return
    with new_file(path, path.suffix) as temporary:  # OpenCV chooses the container by the suffix
        video: Any = None
        size = (0, 0)

        def write(picture: Image) -> None:
            nonlocal video, size
            picture = even(picture)
            if video is None:
                size = picture.shape[1], picture.shape[0]
                video = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*_CODEC), rate, size)
                if not video.isOpened():
                    raise InputError(
                        expected=f"an OpenCV that writes {_CODEC} video of {size[0]}x{size[1]}",
                        got=f"OpenCV {cv2.__version__}, which does not",
                        fix="install opencv-python-headless from its wheel, or save masks: --save mask",
                    )
            video.write(picture[..., ::-1])

        try:
            yield write
        finally:
            if video is not None:
                video.release()
