"""Sessions around a session: one that notes what it was asked and answered, and one that answers from such notes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

import msgspec
import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.axes import bounds, nearest
from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Manifest, Resize
from segdeploy.images.resize import network_size, to_exactly
from segdeploy.runtime import Prediction, Session, Staged


@dataclass(frozen=True)
class Call:
    """One forward pass.

    Attributes:
        images: uint8 [N, H, W, 3].
        prediction: its mask and logits.
    """

    images: NDArray[np.uint8]
    prediction: Prediction


class Recorder:
    """A session that keeps the logits too, and everything since ``begin()``.

    A batch axis of a fixed size is filled up: the caller may run fewer images than the artifact takes.

    Attributes:
        base: the session's own artifact.
        artifact: the same, resizing pictures as ``begin()`` was told to.
        calls: the forward passes since ``begin()``.
        seconds: spent in forward passes, in all.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.base = self.artifact = session.artifact
        self.calls: list[Call] = []
        self.seconds = 0.0

    @property
    def device(self) -> str:
        """See ``Session``."""
        return self._session.device

    def begin(self, resize: Resize) -> None:
        """Forget the calls so far; resize pictures like this from now on."""
        self.calls = []
        preprocess = msgspec.structs.replace(self.base.manifest.preprocess, resize=resize)
        self.artifact = Artifact(self.base.folder, msgspec.structs.replace(self.base.manifest, preprocess=preprocess))

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """See ``Session.run``; logits are always brought."""
        del logits
        count = len(images)
        given = filled(images, self.base.manifest)
        started = time.perf_counter()
        found = self._session.run(given, logits=True)
        self.seconds += time.perf_counter() - started
        assert found.logits is not None
        prediction = Prediction(found.mask[:count], found.logits[:count])
        self.calls.append(Call(images, prediction))
        return prediction

    def stage(self, images: NDArray[np.uint8]) -> Staged:
        """See ``Session.stage``."""
        return self._session.stage(images)

    def execute(self, staged: Staged) -> None:
        """See ``Session.execute``."""
        self._session.execute(staged)

    def __enter__(self) -> Recorder:
        """See ``Session``."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing of its own to free."""


class Replay(Recorder):
    """A session that gives the recorded answers again, in their order."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._left = list(recorder.calls)

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """See ``Session.run``."""
        del images, logits
        return self._left.pop(0).prediction


def fitted_resize(manifest: Manifest, height: int, width: int) -> Resize:
    """How a picture is brought to a size that an artifact takes: as its manifest says, or else to the nearest such size."""
    resize = manifest.preprocess.resize
    if manifest.inference.mode == "slide":  # its crops have the size that it takes
        return resize
    size = network_size(height, width, resize)
    taken = (nearest(manifest.input.shape[1], size[0]), nearest(manifest.input.shape[2], size[1]))
    return resize if taken == size else to_exactly(*taken, resize)


def filled(images: NDArray[np.uint8], manifest: Manifest) -> NDArray[np.uint8]:
    """The batch, filled up with its own images where the artifact takes no fewer than more."""
    count, least = len(images), bounds(manifest.input.shape[0])[0]
    return images if count >= least else images[np.arange(least) % count]
