"""The Session protocol: what every backend can do, and no more.

Axes: N images, H and W of the network's input, K classes, h and w of the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Bounds, Manifest
from segdeploy.base.errors import InputError
from segdeploy.images.arrays import Image, Labels, Logits


@dataclass(frozen=True)
class Prediction:
    """What a model says of a batch, on the host.

    Attributes:
        mask: [N, H, W] labels at the network's input size, uint8 (int32 where there are more than 256 classes).
        logits: float32 [N, K, h, w], the decode head's output before upsampling; None unless asked for.
    """

    mask: NDArray[Any]
    logits: Logits | None = None


@dataclass(frozen=True)
class Segmented:
    """What the original model says of one picture, by mmseg's own pipeline and predict.

    Attributes:
        labels: [H, W] at the picture's own size.
        logits: gives float32 [K, H, W] likewise; of a model run elsewhere, any with these labels and margins.
        image: uint8 [h, w, 3] RGB that the pipeline made of it; None where that is not known.
    """

    labels: Labels
    logits: Callable[[], Logits]
    image: Image | None = None


@dataclass(frozen=True)
class Staged:
    """A batch where the device wants it.

    Attributes:
        shape: (N, H, W).
        data: the backend's own; nobody else looks inside.
    """

    shape: tuple[int, int, int]
    data: Any


class Session(Protocol):
    """A model that is loaded and can run; a context manager that frees it."""

    @property
    def artifact(self) -> Artifact:
        """What was opened."""

    @property
    def device(self) -> str:
        """Where it really runs: ``cpu``, or ``cuda`` with the GPU's name."""

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """Images on the host to labels on the host.

        Args:
            images: uint8 [N, H, W, 3] RGB at the network's input size.
            logits: bring the logits to the host too.

        Raises:
            InputError: a shape or dtype that the artifact does not take.
        """

    def stage(self, images: NDArray[np.uint8]) -> Staged:
        """Bring a batch to the device; finished on return."""

    def execute(self, staged: Staged) -> None:
        """Run the network on a staged batch; the device is idle on return. The outputs stay there."""

    def __enter__(self) -> Session:
        """Nothing more to open."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free the model."""


def checked_images(images: NDArray[np.uint8], manifest: Manifest) -> NDArray[np.uint8]:
    """Hold a batch against what the artifact takes, before the runtime would fail on it with a message of its own.

    Returns:
        The images, contiguous.

    Raises:
        InputError: with what was expected.
    """
    if images.dtype != np.uint8 or images.ndim != len(manifest.input.shape):
        raise InputError(
            expected=f"uint8 images [N, H, W, 3] for {manifest.label}",
            got=f"{images.dtype} {list(images.shape)}",
            fix="pass decoded RGB images: normalisation is inside the graph",
        )
    check_shape(images.shape, manifest)
    return np.ascontiguousarray(images)


def check_shape(shape: Sequence[int], manifest: Manifest) -> None:
    """Hold a shape (N, H, W, and where it is given 3) against what the artifact takes.

    Raises:
        InputError: with what was expected.
    """
    for letter, axis, size in zip("NHWC", manifest.input.shape, shape, strict=False):
        low, high, step = (axis.min, axis.max, axis.step) if isinstance(axis, Bounds) else (axis, axis, 1)
        if not low <= size <= high or size % step:
            multiples = f", a multiple of {step}," if step > 1 else ""
            raise InputError(
                expected=f"{letter} = {low}"
                if low == high
                else f"{letter} within {low}..{high}{multiples} for {manifest.label}",
                got=f"{letter} = {size}",
                fix="resize the image, or export for other shapes (--shape, --min-shape, --max-shape, --batch)",
            )
