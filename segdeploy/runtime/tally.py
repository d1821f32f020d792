"""Counting one labelled image: what an evaluation in one process and in several have in common."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Manifest
from segdeploy.base.errors import InputError
from segdeploy.images.arrays import Image, Labels
from segdeploy.images.dataset import Sample, read_truth
from segdeploy.images.decode import MAX_PIXELS, read_image
from segdeploy.runtime.augment import Augmentation, predict_augmented
from segdeploy.runtime.session import Session
from segdeploy.scores.confusion_matrix import ConfusionMatrix

PLAIN = Augmentation()
_AHEAD = 2


@dataclass(frozen=True)
class Problem:
    """An image that could not be evaluated."""

    sample: Sample
    error: InputError


@dataclass(frozen=True)
class Tally:
    """What was counted on a data set.

    Attributes:
        matrix: of the images that could be evaluated.
        problems: of those that could not, in the data set's order.
        device: where it really ran.
    """

    matrix: ConfusionMatrix
    problems: tuple[Problem, ...]
    device: str


@dataclass(frozen=True)
class Loaded:
    """A sample in memory.

    Attributes:
        sample: which.
        image: uint8 [H, W, 3] RGB.
        truth: its label map [H, W].
    """

    sample: Sample
    image: Image
    truth: Labels


def load_sample(sample: Sample, manifest: Manifest, matrix: ConfusionMatrix, max_pixels: int = MAX_PIXELS) -> Loaded:
    """Read an image and its label map, and hold them against each other and the model's classes: it costs no prediction.

    ``max_pixels`` is the limit of ``decode_image``, for both.

    Raises:
        InputError: the image or label map cannot be used.
    """
    image = read_image(sample.image, max_pixels=max_pixels)
    truth = read_truth(sample, manifest.labelling, max_pixels=max_pixels)
    matrix.check(truth, (image.shape[0], image.shape[1]), f"'{sample.label}'")
    return Loaded(sample, image, truth)


def read_ahead(
    samples: Iterable[Sample], manifest: Manifest, matrix: ConfusionMatrix, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[Sample, Future[Loaded]]]:
    """Samples with what will be their content: the next ones are read while the network is busy with one.

    Decoders and file systems let go of Python's lock, so that one thread is enough. No more than a few are in memory.
    """
    waiting: deque[tuple[Sample, Future[Loaded]]] = deque()
    reader = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    try:
        for sample in samples:
            waiting.append((sample, reader.submit(load_sample, sample, manifest, matrix, max_pixels)))
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for _, reading in waiting:  # who asks for no more ends it here
            reading.cancel()
        reader.shutdown()


def count_sample(session: Session, loaded: Loaded, matrix: ConfusionMatrix, augmentation: Augmentation = PLAIN) -> Labels:
    """Predict one sample and add it to the matrix; the labels as predicted.

    Raises:
        InputError: the artifact does not take the image.
    """
    prediction = predict_augmented(session, loaded.image, augmentation)
    matrix.count(prediction, loaded.truth)
    return prediction


def empty_matrix(artifact: Artifact) -> ConfusionMatrix:
    """For the classes of a model."""
    manifest = artifact.manifest
    return ConfusionMatrix(len(manifest.classes), manifest.ignore_index, manifest.nan_to_num)
