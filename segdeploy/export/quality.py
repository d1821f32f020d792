"""What a lower precision costs: mIoU against labels, or, where there are none, agreement with the float32 masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Bounds, FileEntry, Manifest
from segdeploy.base.progress import track
from segdeploy.images.arrays import Labels
from segdeploy.images.dataset import Sample
from segdeploy.images.decode import read_image
from segdeploy.images.resize import to_exactly
from segdeploy.runtime import Session, open_session
from segdeploy.runtime.evaluation import evaluate
from segdeploy.runtime.predictor import predict_labels
from segdeploy.runtime.session import Prediction, Staged

Metric: TypeAlias = Literal["mIoU", "mask agreement"]


class Judge:
    """Scores ONNX files of one model on one set of images; everything it says is in per cent."""

    def __init__(self, manifest: Manifest, reference: Path, samples: Sequence[Sample], pictures: Sequence[Path]) -> None:
        """Take the images; nothing runs yet.

        Args:
            manifest: of the artifact to be.
            reference: the float32 ONNX file.
            samples: labelled images; where there are none, ``pictures`` are used without labels.
            pictures: images.
        """
        self._manifest, self._reference = manifest, reference
        self._samples, self._pictures = samples, pictures
        self._masks: list[Labels] = []
        self.metric: Metric = "mIoU" if samples else "mask agreement"
        self.fp32 = 100.0

    @property
    def images(self) -> int:
        """How many there are."""
        return len(self._samples or self._pictures)

    def prepare(self) -> None:
        """Run the float32 model, which the others are held against.

        Raises:
            InputError: an image or a label map cannot be used.
        """
        if self._samples:
            self.fp32 = self.score(self._reference, "fp32")
        else:
            self._masks = self._predict(self._reference, "fp32")

    def score(self, model: Path, label: str) -> float:
        """mIoU, or the share of pixels that have the float32 model's label."""
        if self._samples:
            with open_measured(model, self._manifest) as session:
                return evaluate(session, self._samples, label=f"mIoU, {label}").miou
        masks = self._predict(model, label)
        same = sum(int((ours == theirs).sum()) for ours, theirs in zip(masks, self._masks, strict=True))
        return 100 * same / sum(mask.size for mask in masks)

    def _predict(self, model: Path, label: str) -> list[Labels]:
        with open_measured(model, self._manifest) as session:
            paths = track(self._pictures, f"masks, {label}", len(self._pictures))
            return [predict_labels(session, read_image(path)) for path in paths]


def open_measured(model: Path, manifest: Manifest) -> Session:
    """An ONNX file that is no artifact yet, opened for single pictures of any size on the CPU.

    A static height and width take pictures resized to them, a static batch takes one picture repeated.
    """
    count, height, width = manifest.input.shape[:3]
    preprocess = manifest.preprocess
    if not isinstance(height, Bounds) and not isinstance(width, Bounds):
        preprocess = msgspec.structs.replace(preprocess, resize=to_exactly(height, width, preprocess.resize))
    entry = FileEntry(path=model.name, sha256="", bytes=0)
    described = msgspec.structs.replace(manifest, format="onnx", preprocess=preprocess, files=(entry,))
    least = count.min if isinstance(count, Bounds) else count
    session = open_session(Artifact(model.parent, described), "cpu")
    return session if least == 1 else _Repeating(session, least)


class _Repeating:
    """A session whose smallest batch is more than one picture."""

    def __init__(self, session: Session, count: int) -> None:
        self._session, self._count = session, count
        self.artifact, self.device = session.artifact, session.device

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """See ``Session.run``."""
        whole = self._session.run(np.repeat(images, self._count, axis=0), logits=logits)
        return Prediction(whole.mask[:: self._count], None if whole.logits is None else whole.logits[:: self._count])

    def stage(self, images: NDArray[np.uint8]) -> Staged:
        """See ``Session.stage``."""
        return self._session.stage(np.repeat(images, self._count, axis=0))

    def execute(self, staged: Staged) -> None:
        """See ``Session.execute``."""
        self._session.execute(staged)

    def __enter__(self) -> _Repeating:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._session.__exit__(kind, error, trace)
