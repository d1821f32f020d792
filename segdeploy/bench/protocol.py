"""What the benchmark and its worker processes say to each other: one JSON object a line, on the worker's stdin and stdout."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from segdeploy.artifact.layout import Labelling
from segdeploy.artifact.manifest import Manifest
from segdeploy.bench.variants import Variation
from segdeploy.images.decode import MAX_PIXELS
from segdeploy.scores.confusion_matrix import Evaluation


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Open an artifact as a session, in the way of a variation where one is named. Answered with ``Opened``.

    Attributes:
        folder: of the artifact.
        manifest: its own, or that of a checkpoint.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: of the CPU.
        variation: how else than usual to run it.
        max_pixels: of the pictures and label maps that it will be given; see ``decode_image``.
    """

    folder: str
    manifest: Manifest
    device: str
    threads: int
    variation: Variation | None = None
    max_pixels: int = MAX_PIXELS


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """Make and stage the input batch, and warm up. Answered with ``Timed``.

    Attributes:
        shape: (N, H, W).
        images: files to fill the batch with; empty for seeded noise.
        seed: of the noise.
        warmup: calls of each kind.
    """

    shape: tuple[int, int, int]
    images: tuple[str, ...]
    seed: int
    warmup: int


class Turn(msgspec.Struct, frozen=True, tag="turn"):
    """Settle, then time so many calls of each kind. Answered with ``Timed``."""

    calls: int


class Count(msgspec.Struct, frozen=True, tag="count"):
    """Count the multiplications of one batch; of the checkpoint's own model. Answered with ``Counted``."""


class Pictures(msgspec.Struct, frozen=True, tag="pictures"):
    """Segment seeded pictures one after the other, to labels of their own size. Answered with ``Timed``: one value for all.

    Attributes:
        size: how many, and their height and width.
        seed: of the pictures.
    """

    size: tuple[int, int, int]
    seed: int


class Evaluate(msgspec.Struct, frozen=True, tag="evaluate"):
    """Score labelled images. Answered with an ``Evaluated`` after a ``Progress`` for every image.

    Attributes:
        samples: (name, image file, label file, which of ``labellings``); -1 where the model says how to read it.
        labellings: of the label maps.
        keep: how many predictions to send back, from the first on.
    """

    samples: tuple[tuple[str, str, str, int], ...]
    labellings: tuple[Labelling, ...]
    keep: int


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The session is open."""

    load_ms: float
    device: str


class Timed(msgspec.Struct, frozen=True, tag="timed"):
    """Latencies in the order of the calls, those that do not count apart, and the worker's largest resident memory so far."""

    run_ms: tuple[float, ...]
    execute_ms: tuple[float, ...]
    warmup_run_ms: tuple[float, ...]
    warmup_execute_ms: tuple[float, ...]
    peak_rss_bytes: int | None


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    """10^9 multiplications in convolutions and matrix products."""

    gmac: float


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """One more image is evaluated."""


class Evaluated(msgspec.Struct, frozen=True, tag="evaluated"):
    """The scores, and the first predictions as PNG label maps; no scores where no pixel carries a label."""

    evaluation: Evaluation | None
    predictions: tuple[bytes, ...]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """What was asked could not be done."""

    reason: str


Request: TypeAlias = Open | Prepare | Turn | Count | Pictures | Evaluate
Reply: TypeAlias = Opened | Timed | Counted | Progress | Evaluated | Failed

decode_request = msgspec.json.Decoder(Request).decode
decode_reply = msgspec.json.Decoder(Reply).decode


def line(message: Request | Reply) -> bytes:
    """A message as it is sent."""
    return msgspec.json.encode(message) + b"\n"
