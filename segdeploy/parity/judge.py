"""Collects everything that a verdict rests on, picture by picture, in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segdeploy.artifact.manifest import Manifest
from segdeploy.artifact.verdict import FitParity, LabelParity, ShapeParity, TaskParity, Tolerance
from segdeploy.images.arrays import Image, Labels, Logits
from segdeploy.parity.comparison import LabelComparison, Outputs, ShapeComparison
from segdeploy.parity.fit_cost import FitCost
from segdeploy.parity.inputs import Picture
from segdeploy.parity.sessions import Call
from segdeploy.parity.task import PairedBootstrap
from segdeploy.scores.confusion_matrix import ConfusionMatrix


@dataclass(frozen=True)
class WorstImage:
    """The image that differs most.

    Attributes:
        name: of the picture.
        image: uint8 [H, W, 3] RGB as the network got it, or, where ``logits`` is None, as the server did.
        reference: the reference's labels [H, W].
        candidate: the candidate's.
        logits: the reference's [K, h, w].
        badness: the share of its pixels that differ, plus its largest logit error up to 1.
    """

    name: str
    image: Image
    reference: Labels
    candidate: Labels
    logits: Logits | None
    badness: float


class Judge:
    """Holds a candidate's outputs against the reference's.

    Attributes:
        worst: the image that differs most so far.
        pictures: of each picture, what tells it from others: the beginning of a SHA-256 of its pixels.
        way: how the candidate's own way from a picture to the network differs from the pipeline's; empty where it does not.
    """

    def __init__(self, manifest: Manifest, tolerance: Tolerance) -> None:
        """Begin with nothing.

        Args:
            manifest: of the candidate: its classes, how logits become labels, its precision.
            tolerance: what is allowed.
        """
        self._manifest, self._tolerance = manifest, tolerance
        self._own = self._comparison(None)
        self._own_calls = 0
        self._shapes: list[ShapeComparison] = []
        self._labels = LabelComparison(tolerance, manifest)
        self._truths = ConfusionMatrix(len(manifest.classes), manifest.ignore_index)
        self._task = PairedBootstrap(len(manifest.classes), manifest.ignore_index, manifest.nan_to_num)
        self._labelled = 0
        self._fit = FitCost(manifest)
        self.way = ""
        self.pictures: list[str] = []
        self.worst: WorstImage | None = None

    def begin_shape(self, shape: tuple[int, int, int]) -> None:
        """What is added with ``add_calls`` from now on is of this shape."""
        self._shapes.append(self._comparison(shape))

    def add_calls(self, names: list[str], theirs: list[Call], ours: list[Call]) -> None:
        """Compare forward passes of the shape that was begun.

        Args:
            names: of the pictures in each batch.
            theirs: the reference's calls.
            ours: the candidate's, on the same images.
        """
        self._compare(self._shapes[-1], names, theirs, ours)

    def add_own(self, names: list[str], theirs: list[Call], ours: list[Call]) -> float:
        """Compare the forward passes behind pictures at their own sizes; returns the largest difference of a logit."""
        self._own_calls += len(ours)
        return self._compare(self._own, names, theirs, ours)

    def add_labels(
        self, picture: Picture, theirs: Labels, ours: Labels, logits: Callable[[], Logits], error: float | None = None
    ) -> float:
        """Compare labels alone; returns the share of pixels that differ.

        Args:
            picture: which.
            theirs: the reference's labels [H, W].
            ours: the candidate's.
            logits: gives the reference's [K, H', W'].
            error: the largest difference of the logits; None where nobody knows it.
        """
        share = self._labels.add(theirs, ours, logits, error)
        self._add_truth(picture, theirs, ours)
        return share

    def add_fitted(
        self,
        picture: Picture,
        theirs: Labels,
        ours: Labels,
        through: Labels,
        *,
        logits: Callable[[], Logits],
        error: float | None = None,
    ) -> float:
        """Compare labels of a picture that does not come to the candidate as the pipeline leaves it.

        What the fit costs is the reference's own loss through it: it counts in mIoU, and is told, but is no fault of the
        graph; labels are held against the reference's through the same fit.

        Args:
            picture: which.
            theirs: the reference's labels [H, W], without a fit.
            ours: the candidate's.
            through: the reference's through the candidate's fit.
            logits: gives the logits [K, H', W'] behind ``through``.
            error: see ``add_labels``.
        """
        share = self._labels.add(through, ours, logits, error)
        truth = self._add_truth(picture, theirs, ours)
        self._fit.add(theirs, ours, through, truth)
        return share

    def note_way(self, name: str, given: Image, image: Image | None) -> None:
        """Where the pipeline makes another image of a picture than the candidate's own way gives: what, for the first."""
        if image is None or self.way or np.array_equal(given, image):
            return
        ours, theirs = ("x".join(map(str, one.shape[:2])) for one in (given, image))
        off = f"{ours}, mmseg's pipeline makes {theirs} of it"
        if ours == theirs:
            off = f"{int((given != image).any(-1).sum())} pixels are others than mmseg's pipeline makes"
        self.way = f"{name} comes to the network resized in another way: {off}"

    def _add_truth(self, picture: Picture, theirs: Labels, ours: Labels) -> Labels | None:
        if picture.truth is None:
            return None
        truth = picture.truth()
        self._truths.check(truth, (theirs.shape[0], theirs.shape[1]), f"'{picture.name}'")
        self._task.add(theirs, ours, truth)
        self._labelled += 1
        return truth

    def keep_worst(self, name: str, image: Image, theirs: Labels, ours: Labels, badness: float) -> None:
        """Keep labels as those of the worst image, where they are."""
        if badness > 0 and (self.worst is None or badness > self.worst.badness):
            self.worst = WorstImage(name, image, theirs, ours, None, badness)

    def shapes(self) -> tuple[ShapeParity, ...]:
        """Logits and masks, a shape each."""
        own = [self._own.result()] if self._own_calls else []
        return tuple(own + [one.result() for one in self._shapes])

    def labels(self) -> LabelParity:
        """The labels that users get."""
        return self._labels.result()

    def fit(self) -> FitParity | None:
        """What the fit costs; None where every picture came to the candidate as the pipeline leaves it."""
        return self._fit.result()

    def task(self) -> TaskParity:
        """mIoU; skipped where no picture has labels."""
        epsilon = self._tolerance.miou_points
        if self._labelled:
            return self._task.result(self._manifest.classes, epsilon)
        return TaskParity(
            images=0,
            miou_reference=None,
            miou_candidate=None,
            low=None,
            high=None,
            epsilon=epsilon,
            images_needed=None,
            classes=(),
            verdict="skipped",
            reason="the pictures have no labels",
        )

    def _comparison(self, shape: tuple[int, int, int] | None) -> ShapeComparison:
        return ShapeComparison(shape, self._tolerance, self._manifest)

    def _compare(self, comparison: ShapeComparison, names: list[str], theirs: list[Call], ours: list[Call]) -> float:
        largest = 0.0
        for their, our in zip(theirs, ours, strict=True):
            reference, candidate = (_outputs(call) for call in (their, our))
            badness = comparison.add(reference, candidate)
            with np.errstate(invalid="ignore"):  # infinity less infinity; it fails all the same
                difference = np.abs(candidate.logits - reference.logits)
            largest = max(largest, float(np.nanmax(difference, initial=0.0)))
            at = int(np.argmax(badness))
            if badness[at] > 0 and (self.worst is None or badness[at] > self.worst.badness):
                self.worst = WorstImage(
                    names[at % len(names)],
                    their.images[at].copy(),
                    reference.mask[at].copy(),
                    candidate.mask[at].copy(),
                    reference.logits[at].copy(),
                    badness[at],
                )
        return largest


def _outputs(call: Call) -> Outputs:
    assert call.prediction.logits is not None
    return Outputs(call.prediction.mask, call.prediction.logits)
