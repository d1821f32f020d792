"""Real images through the float32 graph: which ones, as what batches, and how large every tensor gets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from segdeploy.artifact.manifest import Manifest
from segdeploy.base.errors import InputError
from segdeploy.base.progress import track
from segdeploy.export.options import Calibration
from segdeploy.images.arrays import Image
from segdeploy.images.dataset import find_samples
from segdeploy.images.decode import MAX_PIXELS, list_images, read_image
from segdeploy.runtime.fitting import filled, fit_picture, given_batches, prepared

# How far apart the largest and the smallest value of a tensor were, or what the calibration made of it.
Method = Literal["minmax", "percentile", "entropy"]


@dataclass(frozen=True)
class Pictures:
    """The images that ranges are measured on.

    Attributes:
        paths: of them.
        source: where they come from, in words.
        max_pixels: of each; see ``decode_image``.
    """

    paths: tuple[Path, ...]
    source: str
    max_pixels: int = MAX_PIXELS

    @property
    def sha256(self) -> str:
        """Of their contents, in order."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def choose_pictures(manifest: Manifest, wanted: Calibration) -> Pictures:
    """The folder that the user named, else the training images of the data set, else its validation images.

    Where there are more than the limit: as many, evenly spaced, since neighbours are often frames of one film.

    Raises:
        InputError: there are none.
    """
    if wanted.images is not None:
        return _spread(list_images(wanted.images), str(wanted.images), wanted)
    root = data_root(manifest, wanted)
    for split in ("train", "val"):
        try:
            found = [sample.image for sample in find_samples(wanted.data, split, manifest)]
        except InputError:
            continue
        return _spread(found, f"{split} of {root}", wanted)
    raise InputError(
        expected=f"pictures to measure the ranges of {manifest.precision} on",
        got=f"no train or val split in '{root}'" if root else "no data set recorded in the model's config",
        fix="pass --calib DIR with some typical pictures, or --data DIR",
    )


def data_root(manifest: Manifest, wanted: Calibration) -> Path | None:
    """The data set that was named, or the one that the checkpoint's config names; None where there is neither."""
    hint = manifest.lineage.data_root
    return wanted.data or (Path(hint) if hint else None)


def network_inputs(image: Image, manifest: Manifest) -> Iterator[NDArray[np.uint8]]:
    """The batches uint8 [N, H, W, 3] that an artifact is given of a picture: the very ones of a prediction."""
    fitted = fit_picture(image.shape[0], image.shape[1], manifest)
    for _, given in given_batches(prepared([image], fitted), fitted, manifest.preprocess):
        yield filled(given, fitted.batch[0])


def measure_ranges(
    model: Path,
    pictures: Sequence[Path],
    manifest: Manifest,
    scratch: Path,
    method: CalibrationMethod = CalibrationMethod.MinMax,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Any:
    """Run the float32 graph on pictures and note what every tensor reaches.

    Args:
        model: the ONNX file.
        pictures: image files.
        manifest: how they are prepared.
        scratch: a folder for the graph with its measuring nodes.
        method: what a range is.
        max_pixels: of a picture; see ``decode_image``.

    Returns:
        onnxruntime's ``TensorsData``: by tensor name, ``range_value`` (least, largest).
    """
    calibrator = create_calibrator(model, None, str(scratch / "measuring.onnx"), method)
    for path in track(pictures, f"ranges of {manifest.name}", len(pictures)):
        calibrator.collect_data(_Reader(network_inputs(read_image(path, max_pixels=max_pixels), manifest)))
    return calibrator.compute_data()


class _Reader(CalibrationDataReader):
    """Batches, as onnxruntime's calibrators ask for them."""

    def __init__(self, batches: Iterator[NDArray[np.uint8]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def _spread(paths: Sequence[Path], source: str, wanted: Calibration) -> Pictures:
    count = min(wanted.limit, len(paths))
    return Pictures(tuple(paths[i * len(paths) // count] for i in range(count)), source, wanted.max_pixels)
