"""Intersection over union, as mmseg's IoUMetric defines it, from one confusion matrix.

Source of the definitions: ``mmseg/evaluation/metrics/iou_metric.py``.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from segdeploy.base.errors import InputError

# What mmseg makes of label 0 (reduce_zero_label) and of classes left out, whatever the index that it ignores.
_MMSEGS_VOID = 255


class ClassScore(msgspec.Struct, frozen=True):
    """One class; None where the class occurs in neither labels nor predictions, and nothing stands for that.

    Attributes:
        name: of the class.
        iou: intersection over union, in per cent.
        acc: share of its labelled pixels that were found (recall), in per cent.
        pixels: how many labelled pixels it has.
    """

    name: str
    iou: float | None
    acc: float | None
    pixels: int


class Evaluation(msgspec.Struct, frozen=True):
    """Segmentation quality on a data set, in per cent; the means are NaN where no pixel is labelled.

    Attributes:
        miou: mean IoU over the classes that occur.
        macc: mean accuracy over the classes that occur in the labels.
        aacc: share of all labelled pixels that are right.
        classes: each class.
        images: how many images.
    """

    miou: float
    macc: float
    aacc: float
    classes: tuple[ClassScore, ...]
    images: int


class ConfusionMatrix:
    """Counts of (label, prediction) pairs, in exact integers."""

    def __init__(self, classes: int, ignore_index: int, nan_to_num: float | None = None) -> None:
        """Begin with nothing.

        Args:
            classes: how many.
            ignore_index: the label that does not count.
            nan_to_num: of IoUMetric: what the score of a class that does not occur is taken to be, as a share of 1, and
                counts in the means; None to leave such a class out.
        """
        self._classes = classes
        self._ignore_index = ignore_index
        self._nan_to_num = nan_to_num
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        self.images = 0

    def add(self, prediction: NDArray[Any], label: NDArray[Any], source: str) -> None:
        """Count one image.

        Args:
            prediction: labels [H, W], each below the number of classes.
            label: the truth [H, W]; pixels of the ignore index do not count.
            source: what to call the image in an error.

        Raises:
            InputError: the sizes differ, or the truth holds a value that is no class.
        """
        self.check(label, (prediction.shape[0], prediction.shape[1]), source)
        self.count(prediction, label)

    def count(self, prediction: NDArray[Any], label: NDArray[Any]) -> None:
        """``add`` what ``check`` has let through."""
        valid = label != self._ignore_index
        truth = label[valid].astype(np.int64)
        pairs = truth * self._classes + prediction[valid].astype(np.int64)
        self.counts += np.bincount(pairs, minlength=self._classes**2).reshape(self._classes, self._classes)
        self.images += 1

    def check(self, label: NDArray[Any], size: tuple[int, int], source: str) -> None:
        """Whether a label map can be counted, which does not take a prediction.

        Args:
            label: the truth [H, W].
            size: (H, W) of its image.
            source: what to call the image in an error.

        Raises:
            InputError: the sizes differ, or the truth holds a value that is no class.
        """
        if label.shape != size:
            raise InputError(
                expected=f"a label map of {size[1]}x{size[0]} for {source}, the image's size",
                got=f"{label.shape[1]}x{label.shape[0]}",
                fix="check that images and labels belong together",
            )
        truth = label[label != self._ignore_index]
        if truth.size and (truth.max() >= self._classes or truth.min() < 0):
            value = int(truth.max() if truth.max() >= self._classes else truth.min())
            raise InputError(
                expected=f"labels 0..{self._classes - 1} or {self._ignore_index} (void) for {source}",
                got=f"the value {value}",
                fix="check that the data set's classes are the model's"
                if value != _MMSEGS_VOID
                else "where 255 is void too, the config's IoUMetric needs ignore_index=255",
            )

    def merge(self, counts: NDArray[np.int64], images: int) -> None:
        """Add what was counted elsewhere.

        Args:
            counts: int64 [K, K] of (label, prediction).
            images: how many images are in them.
        """
        self.counts += counts
        self.images += images

    def evaluation(self, names: tuple[str, ...]) -> Evaluation:
        """The scores of everything counted so far."""
        hits = np.diag(self.counts).astype(np.float64)
        labelled, predicted = self.counts.sum(1), self.counts.sum(0)
        with np.errstate(invalid="ignore"):
            iou = 100 * hits / (labelled + predicted - hits)
            acc = 100 * hits / labelled
            aacc = 100 * hits.sum() / self.counts.sum()
        if self._nan_to_num is not None:
            iou, acc, aacc = (np.nan_to_num(one, nan=100 * self._nan_to_num) for one in (iou, acc, aacc))
        return Evaluation(
            miou=_mean(iou),
            macc=_mean(acc),
            aacc=float(aacc),
            classes=tuple(
                ClassScore(name, _number(i), _number(a), int(n))
                for name, i, a, n in zip(names, iou, acc, labelled, strict=True)
            ),
            images=self.images,
        )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
