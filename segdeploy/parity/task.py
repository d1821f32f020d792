"""Is one model as good as another at the task? mIoU of both on the same images, and how sure the difference is.

The interval is a paired Poisson bootstrap (Hanley and MacGibbon 2006): each image counts Poisson(1) times in each replicate, in
both models alike. Its memory is that of the replicates, however many images there are.

Two means over classes, on purpose. The mIoU that is shown of each model is mmseg's: the mean over every class that occurs in
the labels or in that model's own masks. There one stray pixel of a class that no label has counts as a class of IoU 0, and
moves the mean by 100 / K points. The difference is therefore taken over the classes that occur in the labels, decided once a
replicate and for both models alike; a stray pixel costs what it is: a missed pixel of the class that it hides.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.verdict import ClassDifference, TaskParity, Verdict

_REPLICATES = 2000
_CONFIDENCE = 0.95
_POWER = 0.8
# Fewer images than this say nothing of how much the next ones would differ; the interval would only look narrow.
_FEWEST_IMAGES = 10
# A class is lost where it keeps less than this share of its IoU, and lost altogether where it keeps less than that one.
_KEPT = 0.5
_KEPT_OF_ALL_BUT_NOTHING = 0.1
# In points of IoU: a class of less the reference does not find either, stray hits apart. Nothing can be lost of it.
_FOUND = 1.0
# Of a class that is lost in every image, so many must have it on the average that with a probability of 80 % there are four or
# more: of four, a replicate leaves out all with a probability of exp(-4) < 2.5 %.
_IMAGES_OF_A_LOST_CLASS = 5.515
# Nobody labels more than this to see a difference.
_MOST_IMAGES = 1_000_000


class PairedBootstrap:
    """Collects two models' labels on the same images."""

    def __init__(self, classes: int, ignore_index: int, nan_to_num: float | None = None, *, seed: int = 0) -> None:
        self._classes = classes
        self._ignore_index = ignore_index
        self._nan_to_num = nan_to_num  # see ConfusionMatrix
        self._seed = seed
        self._images = self._labelled = self._changed = 0
        self._occurs = np.zeros(classes, np.int64)  # images that have a label of each class
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
        self._labelled += bool(truth.size)
        self._changed += bool((ours != theirs).any())
        self._occurs += rows[4] > 0

    def result(self, names: tuple[str, ...], epsilon: float) -> TaskParity:
        """The verdict on everything counted so far.

        Args:
            names: of the classes.
            epsilon: how many points of mIoU the candidate may be worse.
        """
        hits, predicted, labelled = self._counts[:, :2], self._counts[:, 2:4], self._counts[:, 4]
        with np.errstate(divide="ignore", invalid="ignore"):
            iou = 100 * hits / (predicted + labelled[:, None] - hits)  # [replicates, 2, K]
        # Of both models over the classes that this replicate has labels of.
        shared = np.where(labelled[:, None] > 0, iou, np.nan)
        if self._nan_to_num is not None:  # in what is shown; it is the same of both models, and no part of the difference
            iou[0] = np.nan_to_num(iou[0], nan=100 * self._nan_to_num)
        mean = _nanmean(iou[0])
        differences = _nanmean(shared[:, 1]) - _nanmean(shared[:, 0])
        drawn = differences[1:][~np.isnan(differences[1:])]  # a replicate may by chance leave out all of few images
        low, high = self._interval(differences[0], drawn)
        classes = tuple(self._class(index, name, shared, iou, epsilon) for index, name in enumerate(names))
        verdict, reason, needed = self._judge(np.append(differences[0], drawn), (low, high), classes, shared, epsilon)
        return TaskParity(
            images=self._images,
            miou_reference=_number(mean[0]),
            miou_candidate=_number(mean[1]),
            difference=_number(differences[0]),
            low=low,
            high=high,
            epsilon=epsilon,
            images_needed=needed,
            classes=classes,
            verdict=verdict,
            reason=reason,
        )

    def _interval(self, difference: float, drawn: NDArray[np.float64]) -> tuple[float | None, float | None]:
        """None where there are too few images, or where nothing differs: that nothing was seen is no width of zero."""
        if self._labelled < _FEWEST_IMAGES or not drawn.size or not np.ptp(drawn):
            return None, None
        return _corrected_interval(difference, drawn, self._labelled)

    def _class(
        self, index: int, name: str, shared: NDArray[np.float64], iou: NDArray[np.float64], epsilon: float
    ) -> ClassDifference:
        theirs, ours = shared[:, 0, index], shared[:, 1, index]
        images = int(self._occurs[index])
        low = high = None
        if images >= _FEWEST_IMAGES:
            change = ours - theirs
            low, high = _corrected_interval(change[0], change[1:][~np.isnan(change[1:])], images)
        left = _left(theirs, ours, epsilon)
        sure = bool(np.quantile(left[1:], 1 - (1 - _CONFIDENCE) / 2) < 0)
        return ClassDifference(
            name=name,
            reference=_number(iou[0, 0, index]),
            candidate=_number(iou[0, 1, index]),
            images=images,
            low=low,
            high=high,
            lost="no" if left[0] >= 0 else "yes" if sure else "perhaps",
        )

    def _judge(
        self,
        differences: NDArray[np.float64],
        interval: tuple[float | None, float | None],
        classes: tuple[ClassDifference, ...],
        shared: NDArray[np.float64],
        epsilon: float,
    ) -> tuple[Verdict, str, int | None]:
        if not self._labelled:
            return "undecided", "no labelled pixel", None
        lost = [one for one in classes if one.lost == "yes"]
        if lost:
            return "failed", f"lost, whatever the mean: {_told(lost)}", None
        if not self._changed or (self._labelled >= _FEWEST_IMAGES and interval[0] is None):
            return "passed", _of_clean(self._labelled), None
        low, high = interval
        if low is None or high is None:
            return "undecided", f"{self._labelled} labelled images are too few for an interval", _FEWEST_IMAGES
        shown = f"the difference of mIoU lies within [{low:+.3f}, {high:+.3f}] points"
        perhaps = {index: one for index, one in enumerate(classes) if one.lost == "perhaps"}
        better = low > 0
        # What a surely better model may have paid for it with is told. A class of which all but nothing is left is no price.
        doubtful = [index for index, one in perhaps.items() if not better or _all_but_nothing_left(one)]
        verdict: Verdict
        if high < -epsilon:
            verdict, told, needed = "failed", f"{shown}, below -{epsilon:g}", None
        elif doubtful:
            needed = max(
                self._needed_for_class(_left(shared[:, 0, index], shared[:, 1, index], epsilon), perhaps[index].images)
                for index in doubtful
            )
            told = f"perhaps lost, in too few images to be sure: {_told([perhaps[index] for index in doubtful])}"
            verdict, told = "undecided", f"{told}; if it is as it is here, about {needed:,} images would show it"
        elif low >= -epsilon:
            told = f"{shown}, not below -{epsilon:g}" + (": the candidate is better" if better else "")
            told += f", though perhaps not at {_told(list(perhaps.values()))}" if perhaps else ""
            verdict, needed = "passed", None
        else:
            needed, assumed = self._needed(float(differences[0]), float(differences[1:].std()), epsilon)
            verdict, told = "undecided", f"{shown}, across -{epsilon:g}; {assumed}"
        return verdict, told, needed

    def _needed(self, difference: float, error: float, epsilon: float) -> tuple[int | None, str]:
        """How many images would decide with a probability of 80 %, and in words under which assumption.

        The standard error falls with the square root of the number of images, and the bound lies z standard errors below the
        difference: n * (error * (z_confidence + z_power) / distance) ** 2, the distance being that from -epsilon to the
        difference there really is. At first that is taken to be none; where the images at hand would have shown that
        already, it is taken to be the one that was found.
        """
        normal = NormalDist()
        factor = normal.inv_cdf((1 + _CONFIDENCE) / 2) + normal.inv_cdf(_POWER)

        def images(distance: float) -> float:
            return self._labelled * (factor * error / distance) ** 2 if distance else math.inf

        needed, assumed = images(epsilon), "the two are equal"
        if needed <= self._labelled:
            needed, assumed = images(abs(difference + epsilon)), f"the difference is {difference:+.3f} as it is here"
            needed = max(needed, self._labelled + 1.0)
        if needed > _MOST_IMAGES:
            return None, f"if {assumed}, no number of images that anybody has would decide"
        count = math.ceil(needed)
        return count, f"if {assumed}, about {count:,} images would decide it with a probability of {_POWER:.0%}"

    def _needed_for_class(self, left: NDArray[np.float64], images: int) -> int:
        """How many images would show with a probability of 80 % that a class is lost, if it is lost as here."""
        normal = NormalDist()
        factor = normal.inv_cdf((1 + _CONFIDENCE) / 2) + normal.inv_cdf(_POWER)
        needed = self._labelled * (factor * float(left[1:].std()) / float(left[0])) ** 2
        needed = max(needed, self._labelled * _IMAGES_OF_A_LOST_CLASS / images, self._labelled + 1.0)
        return math.ceil(min(needed, _MOST_IMAGES))

    def _histogram(self, labels: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(labels.ravel(), minlength=self._classes)[: self._classes].astype(np.float64)


def _left(theirs: NDArray[np.float64], ours: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """How much more IoU than the half of the reference's a class has, per replicate; below zero where it is lost.

    A replicate without a label of the class speaks for it: of a class in three images no loss is ever sure. So does one in
    which the reference does not find it.
    """
    found = np.nan_to_num(theirs, nan=0.0) > max(_FOUND, epsilon)
    return np.where(found, np.nan_to_num(ours - _KEPT * theirs, nan=0.0), 0.0)


def _all_but_nothing_left(one: ClassDifference) -> bool:
    return (one.candidate or 0.0) < _KEPT_OF_ALL_BUT_NOTHING * (one.reference or 0.0)


def _corrected_interval(value: float, drawn: NDArray[np.float64], images: int) -> tuple[float, float]:
    """Quantiles of the replicates, moved for bias, skewness and few images; tests/parity/interval_coverage.py has the effect.

    Plain percentiles of a skewed difference are too narrow on the side that matters: they passed 8 to 12 % of models that are
    worse by more than epsilon, where 2.5 % are promised. This is the bias-corrected and accelerated interval (Efron 1987);
    the acceleration is a sixth of the skewness, taken from the replicates, which needs no memory of single images. Its normal
    quantile is widened to Student's (Hesterberg 2015, "expanded" interval), by Abramowitz and Stegun's 26.7.5.
    """
    centred = drawn - drawn.mean()
    spread = float((centred**2).mean())
    if not spread:
        return float(value), float(value)
    acceleration = float((centred**3).mean()) / spread**1.5 / 6
    normal = NormalDist()
    below = float((drawn < value).mean() + (drawn == value).mean() / 2)
    bias = normal.inv_cdf(min(max(below, 1 / len(drawn)), 1 - 1 / len(drawn)))
    z, freedom = normal.inv_cdf((1 + _CONFIDENCE) / 2), images - 1
    student = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    student *= math.sqrt(images / freedom)
    places = [normal.cdf(bias + (bias + end) / (1 - acceleration * (bias + end))) for end in (-student, student)]
    low, high = np.quantile(drawn, places)
    return float(low), float(high)


def _of_clean(images: int) -> str:
    """What images without any difference say of the others: the rule of three (Hanley and Lippman-Hand 1983)."""
    of_others = min(3 / images, 1.0)
    share = f"up to {of_others:.2g} of all pictures" if of_others < 1 else "any of the others"
    return f"nothing differs on {images} labelled images; that {share} would differ is not excluded (rule of three, 95 %)"


def _told(classes: list[ClassDifference]) -> str:
    return ", ".join(
        f"{one.name} (IoU {one.reference or 0.0:.2f} -> {one.candidate or 0.0:.2f} in {one.images} images)" for one in classes
    )


def _nanmean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each row over what is a number; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(-1) / known.sum(-1))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
