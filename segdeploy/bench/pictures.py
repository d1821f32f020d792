"""Pictures for the page: what a model sees, beside the photograph and the truth."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from segdeploy.artifact.folder import Artifact
from segdeploy.bench.result import BenchReport, BenchRow
from segdeploy.bench.stats import fastest, row_labels
from segdeploy.images.arrays import Image, Labels
from segdeploy.images.dataset import Sample, read_truth
from segdeploy.images.decode import MAX_PIXELS, read_image
from segdeploy.images.drawing import overlay


@dataclass(frozen=True)
class Picture:
    """One row of pictures on the page.

    Attributes:
        name: of the photograph.
        panels: (caption, uint8 [H, W, 3] RGB), from left to right.
    """

    name: str
    panels: tuple[tuple[str, Image], ...]


@dataclass
class PictureCollector:
    """Keeps the first predictions of every artifact (hand it to ``bench`` as ``on_predictions``); draws the fastest one's.

    Attributes:
        samples: as they were given to ``bench``.
        max_pixels: likewise.
    """

    samples: Sequence[Sample]
    max_pixels: int = MAX_PIXELS
    _kept: dict[tuple[str, str], tuple[Artifact, tuple[bytes, ...]]] = field(default_factory=dict)

    def __call__(self, artifact: Artifact, predictions: tuple[bytes, ...]) -> None:
        """Keep the predictions of one artifact."""
        self._kept[str(artifact.folder), artifact.manifest.format] = (artifact, predictions)

    def pictures(self, report: BenchReport) -> tuple[Picture, ...]:
        """Photograph, truth and prediction of the fastest backend that was evaluated."""
        labels = dict(zip(map(id, report.rows), row_labels(report), strict=True))
        best = fastest([row for row in report.rows if _key(row) in self._kept])
        if best is None:
            return ()
        artifact, predictions = self._kept[_key(best)]
        return tuple(
            _picture(artifact, sample, data, labels[id(best)], self.max_pixels)
            for sample, data in zip(self.samples, predictions, strict=False)
        )


def _key(row: BenchRow) -> tuple[str, str]:
    return row.folder, row.backend


def _picture(artifact: Artifact, sample: Sample, prediction: bytes, label: str, max_pixels: int) -> Picture:
    manifest = artifact.manifest
    image = read_image(sample.image, max_pixels=max_pixels)
    truth = read_truth(sample, manifest.labelling, max_pixels=max_pixels)
    return Picture(
        sample.name,
        (
            ("photograph", image),
            ("truth", overlay(image, truth, manifest.palette)),
            (f"prediction of {label}", overlay(image, _decode(prediction), manifest.palette)),
        ),
    )


def _decode(png: bytes) -> Labels:
    from PIL import Image as Pillow

    with Pillow.open(io.BytesIO(png)) as picture:
        return np.array(picture)
