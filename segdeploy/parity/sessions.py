"""Sessions around a session: one that notes what it was asked and answered, and one that answers from such notes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.folder import Artifact
from segdeploy.runtime import Prediction, Session, Staged
from segdeploy.runtime.fitting import filled
from segdeploy.runtime.session import Segmented


class Original(Session, Protocol):
    """The reference: a session that also says what mmseg itself makes of a picture."""

    def segment(self, data: bytes) -> Segmented:
        """Segment an encoded picture by mmseg's own pipeline and predict."""

    def __enter__(self) -> Original:
        """See ``Session``."""


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
        artifact: the session's own.
        calls: the forward passes since ``begin()``.
        seconds: spent in forward passes, in all.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.artifact = session.artifact
        self.calls: list[Call] = []
        self.seconds = 0.0

    @property
    def device(self) -> str:
        """See ``Session``."""
        return self._session.device

    def begin(self) -> None:
        """Forget the calls so far."""
        self.calls = []

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """See ``Session.run``; logits are always brought."""
        del logits
        count = len(images)
        given = filled(images, bounds(self.artifact.manifest.input.shape[0])[0])
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


class Reference(Recorder):
    """The original, recorded."""

    def __init__(self, session: Original) -> None:
        super().__init__(session)
        self._original = session

    def segment(self, data: bytes) -> Segmented:
        """See ``Original.segment``."""
        started = time.perf_counter()
        found = self._original.segment(data)
        self.seconds += time.perf_counter() - started
        return found


class Replay(Recorder):
    """One artifact's pictures answered with another's recorded forward passes, in their order."""

    def __init__(self, artifact: Artifact, recorder: Recorder, calls: Sequence[Call]) -> None:
        super().__init__(recorder)
        self.artifact = artifact
        self._left = list(calls)

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """See ``Session.run``."""
        del images, logits
        return self._left.pop(0).prediction
