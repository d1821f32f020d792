"""Counting one labelled image: what an evaluation in one process and in several have in common."""

from __future__ import annotations

from dataclasses import dataclass

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import InputError
from segdeploy.images.arrays import Image, Labels
from segdeploy.images.dataset import Sample, read_truth
from segdeploy.images.decode import read_image
from segdeploy.runtime.augment import Augmentation, predict_augmented
from segdeploy.runtime.session import Session
from segdeploy.scores.confusion_matrix import ConfusionMatrix

PLAIN = Augmentation()


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


def count_sample(
    session: Session, sample: Sample, matrix: ConfusionMatrix, augmentation: Augmentation = PLAIN
) -> tuple[Image, Labels]:
    """Predict one sample and add it to the matrix. The label map is checked first: it costs far less than a prediction.

    Returns:
        The image and its labels as predicted.

    Raises:
        InputError: the image or label map cannot be used.
    """
    source = f"'{sample.label}'"
    image = read_image(sample.image)
    truth = read_truth(sample, session.artifact.manifest.labelling)
    matrix.check(truth, (image.shape[0], image.shape[1]), source)
    prediction = predict_augmented(session, image, augmentation)
    matrix.add(prediction, truth, source)
    return image, prediction


def empty_matrix(artifact: Artifact) -> ConfusionMatrix:
    """For the classes of a model."""
    return ConfusionMatrix(len(artifact.manifest.classes), artifact.manifest.ignore_index)
