"""What a lower precision costs: mIoU against labels, or, where there are none, agreement with the float32 masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import FileEntry, Format, Manifest
from segdeploy.base.progress import track
from segdeploy.images.arrays import Labels
from segdeploy.images.dataset import Sample
from segdeploy.images.decode import MAX_PIXELS, read_image
from segdeploy.runtime import Session, open_session
from segdeploy.runtime.evaluation import evaluate
from segdeploy.runtime.predictor import predict_labels

Metric: TypeAlias = Literal["mIoU", "mask agreement"]


class QualityMeter:
    """Scores ONNX files, or OpenVINO's, of one model on one set of images; everything it says is in per cent."""

    def __init__(
        self,
        manifest: Manifest,
        reference: Path,
        samples: Sequence[Sample],
        pictures: Sequence[Path],
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Take the images; nothing runs yet.

        Args:
            manifest: of the artifact to be.
            reference: the float32 ONNX file.
            samples: labelled images; where there are none, ``pictures`` are used without labels.
            pictures: images.
            max_pixels: of an image and of a label map; see ``decode_image``.
        """
        self._manifest, self._reference = manifest, reference
        self._samples, self._pictures = samples, pictures
        self._max_pixels = max_pixels
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
                return evaluate(session, self._samples, label=f"mIoU, {label}", max_pixels=self._max_pixels).miou
        masks = self._predict(model, label)
        same = sum(int((ours == theirs).sum()) for ours, theirs in zip(masks, self._masks, strict=True))
        return 100 * same / sum(mask.size for mask in masks)

    def _predict(self, model: Path, label: str) -> list[Labels]:
        with open_measured(model, self._manifest) as session:
            paths = track(self._pictures, f"masks, {label}", len(self._pictures))
            return [predict_labels(session, read_image(path, max_pixels=self._max_pixels)) for path in paths]


def open_measured(model: Path, manifest: Manifest) -> Session:
    """An ONNX file, or an OpenVINO ``.xml``, that is no artifact yet, opened on the CPU."""
    entry = FileEntry(path=model.name, sha256="", bytes=0)
    fmt: Format = "openvino" if model.suffix == ".xml" else "onnx"
    # Its engine's profiles bind TensorRT alone, but pictures have to come to this graph as they will to the engine.
    described = msgspec.structs.replace(manifest, format=fmt, files=(entry,))
    return open_session(Artifact(model.parent, described), "cpu")
