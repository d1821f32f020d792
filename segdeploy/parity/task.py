"""Is one model as good as another at the task? mIoU of both on the same images, and how sure the difference is.

The interval is a paired Poisson bootstrap (Hanley and MacGibbon 2006): each image counts Poisson(1) times in each replicate, in
both models alike. Its memory is that of the replicates, however many images there are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.verdict import ClassDifference, TaskParity, Verdict

_REPLICATES = 2000
_CONFIDENCE = 0.95
# Fewer images than this say nothing of how much the next ones would differ; the interval would only look narrow.
_FEWEST_IMAGES = 10


class PairedBootstrap:
    """Collects two models' labels on the same images."""

    def __init__(self, classes: int, ignore_index: int, *, seed: int = 0) -> None:
        self._classes = classes
        self._ignore_index = ignore_index
        self._seed = seed
        self._images = self._flipped = 0
        # Per replicate, the first being the data themselves: hits, predicted pixels of both models, and labelled pixels.
        self._counts = np.zeros((_REPLICATES + 1, 5, classes))

    def add(self, reference: NDArray[Any], candidate: NDArray[Any], truth: NDArray[Any]) -> None:
        """Count one image.

        Args:
            reference: its labels by the reference, [H, W].
            candidate: by the candidate.
            truth: as annotated; pixels of the ignore index do not count.
        """
        valid = truth != self._ignore_index
        truth, ours, theirs = truth[valid], candidate[valid], reference[valid]
        rows = [self._histogram(labels[labels == truth]) for labels in (theirs, ours)]
        rows += [self._histogram(labels) for labels in (theirs, ours, truth)]
        # A generator of its own for every image: the interval does not depend on how the images were batched.
        times = np.random.default_rng([self._seed, self._images]).poisson(1.0, _REPLICATES)
        self._counts += np.concatenate([[1], times])[:, None, None] * np.stack(rows)[None]
        self._images += 1
        self._flipped += int((ours != theirs).sum())

    def result(self, names: tuple[str, ...], epsilon: float) -> TaskParity:
        """The verdict on everything counted so far.

        Args:
            names: of the classes.
            epsilon: how many points of mIoU count as no difference.
        """
        hits, predicted, labelled = self._counts[:, :2], self._counts[:, 2:4], self._counts[:, 4:]
        with np.errstate(divide="ignore", invalid="ignore"):
            iou = 100 * hits / (predicted + labelled - hits)  # [replicates, 2, K]
        mean = _nanmean(iou[0])
        differences = _nanmean(iou[1:, 1]) - _nanmean(iou[1:, 0])
        differences = differences[~np.isnan(differences)]  # a replicate may by chance leave out all of few images
        low, high = self._interval(differences)
        verdict, reason, needed = self._judge(low, high, epsilon)
        return TaskParity(
            images=self._images,
            miou_reference=_number(mean[0]),
            miou_candidate=_number(mean[1]),
            low=low,
            high=high,
            epsilon=epsilon,
            images_needed=needed,
            classes=tuple(
                ClassDifference(name=name, reference=_number(theirs), candidate=_number(ours))
                for name, theirs, ours in zip(names, iou[0, 0], iou[0, 1], strict=True)
            ),
            verdict=verdict,
            reason=reason,
        )

    def _interval(self, differences: NDArray[np.float64]) -> tuple[float | None, float | None]:
        if not differences.size or (self._images < _FEWEST_IMAGES and self._flipped):
            return None, None
        tail = (1 - _CONFIDENCE) / 2
        low, high = np.quantile(differences, [tail, 1 - tail])
        return float(low), float(high)

    def _judge(self, low: float | None, high: float | None, epsilon: float) -> tuple[Verdict, str, int | None]:
        if not self._counts[0, 4].sum():
            return "undecided", "no labelled pixel", None
        if low is None or high is None:
            return "undecided", f"{self._images} labelled images are too few for an interval", _FEWEST_IMAGES
        shown = f"the difference of mIoU lies within [{low:+.3f}, {high:+.3f}] points"
        if -epsilon <= low and high <= epsilon:
            return "passed", f"{shown}, inside +-{epsilon:g}", None
        if low > epsilon or high < -epsilon:
            return "failed", f"{shown}, outside +-{epsilon:g}", None
        # The interval narrows with the square root of the number of images, and of equal models it lies around zero.
        needed = math.ceil(self._images * ((high - low) / 2 / epsilon) ** 2)
        needed = max(needed, 2 * self._images)
        return "undecided", f"{shown}, across +-{epsilon:g}; if they are equal, about {needed:,} images would show it", needed

    def _histogram(self, labels: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(labels.ravel(), minlength=self._classes)[: self._classes].astype(np.float64)


def _nanmean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each row over what is a number; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(-1) / known.sum(-1))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
