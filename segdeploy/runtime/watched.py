"""A session that is watched while it works: how long the network took, and how sure it was.

Axes: N pictures, K classes, h and w of the decode head's logits.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Manifest
from segdeploy.images.arrays import Logits
from segdeploy.runtime.fitting import Fitted, window_groups
from segdeploy.runtime.session import Prediction, Session, Staged


@dataclass(frozen=True)
class Confidence:
    """How probable the labels of a picture are by the model itself, at the decode head's own resolution.

    Attributes:
        mean: of all samples, in [0, 1].
        classes: label -> mean of the samples that have it.
    """

    mean: float
    classes: dict[int, float]


class Watched:
    """A session that notes its forward passes."""

    def __init__(self, session: Session, *, keep_logits: bool = False) -> None:
        """Around one that is open, and stays so.

        Args:
            session: any.
            keep_logits: ask for logits at every forward pass, and keep them for ``confidences``.
        """
        self._session, self._keep = session, keep_logits
        self._logits: list[Logits] = []
        self.seconds = 0.0

    @property
    def artifact(self) -> Artifact:
        """See ``Session``."""
        return self._session.artifact

    @property
    def device(self) -> str:
        """See ``Session``."""
        return self._session.device

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """See ``Session``."""
        started = time.perf_counter()
        prediction = self._session.run(images, logits=logits or self._keep)
        self.seconds += time.perf_counter() - started
        if self._keep:
            assert prediction.logits is not None
            self._logits.append(prediction.logits)
        return prediction if logits else replace(prediction, logits=None)

    def stage(self, images: NDArray[np.uint8]) -> Staged:
        """See ``Session``."""
        return self._session.stage(images)

    def execute(self, staged: Staged) -> None:
        """See ``Session``."""
        self._session.execute(staged)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The session stays open: whoever opened it closes it."""

    def confidences(self, count: int, fitted: Fitted) -> list[Confidence]:
        """Of the pictures of one ``predict_batch`` that came in one batch, in order. Of overlapping windows all count.

        Args:
            count: of pictures.
            fitted: how they came to the artifact.
        """
        manifest = self.artifact.manifest
        sums = [np.zeros((2, max(2, len(manifest.classes)))) for _ in range(count)]
        for windows, raw in zip(window_groups(fitted, count), self._logits, strict=True):
            for number, window in enumerate(windows):
                full = manifest.preprocess.network_input(*window.given)
                inside = window.given if fitted.stretched else window.size  # the rest is padding
                rows, columns = (math.ceil(a * b / c) for a, b, c in zip(raw.shape[2:], inside, full, strict=True))
                for picture in range(count):
                    sums[picture] += _summed(raw[number * count + picture, :, :rows, :columns], manifest)
        return [_mean(one) for one in sums]


def _summed(logits: Logits, manifest: Manifest) -> NDArray[np.float64]:
    """[2, classes]: how many samples have each label, and the sum of their probabilities. Of logits [K, h, w]."""
    cutoff = manifest.postprocess.cutoff
    if cutoff is None:
        labels = logits.argmax(0)
        probable = 1 / np.exp(logits - logits.max(0)).sum(0)
    else:
        labels = (logits[0] > cutoff).astype(np.intp)
        positive = 1 / (1 + np.exp(-logits[0].astype(np.float64)))
        probable = np.where(labels, positive, 1 - positive)
    size = max(2, len(manifest.classes))
    flat = labels.ravel()
    return np.stack([np.bincount(flat, minlength=size), np.bincount(flat, probable.ravel(), minlength=size)])


def _mean(sums: NDArray[np.float64]) -> Confidence:
    counts, totals = sums
    each = {int(label): float(totals[label] / counts[label]) for label in np.flatnonzero(counts)}
    return Confidence(float(totals.sum() / counts.sum()), each)
