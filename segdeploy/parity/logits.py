"""How far logits are from those of the reference: figures over any number of batches, in memory that does not grow.

Axes: N images, K classes, h and w of the logits.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.verdict import LogitFigures
from segdeploy.images.arrays import Logits

# Stands for an infinite error: JSON has no infinity, and a verdict must be readable again.
LARGEST = float(np.finfo(np.float32).max)

# Errors are counted in 50 bins a decade, so that a quantile is known to 5 %; below the first edge all are as good as none.
_BINS_A_DECADE = 50
_LOWEST_DECADE, _HIGHEST_DECADE = -9, 3
_BINS = (_HIGHEST_DECADE - _LOWEST_DECADE) * _BINS_A_DECADE


class LogitErrors:
    """Collects differences, batch by batch."""

    def __init__(self) -> None:
        self._count = self._not_finite = 0
        self._sum_abs = self._square = self._dot = self._reference = self._candidate = self._scale = 0.0
        self._bins = np.zeros(_BINS, np.int64)
        self._class_max = np.zeros(0)

    def add(self, reference: Logits, candidate: Logits) -> NDArray[np.float64]:
        """Count the differences of one batch, float32 [N, K, h, w] each.

        A NaN or an infinity on either side is the largest difference there is.

        Returns:
            The largest difference of each image, [N].
        """
        ours, theirs = candidate.astype(np.float64), reference.astype(np.float64)
        finite = np.isfinite(ours) & np.isfinite(theirs)
        error = np.abs(np.where(finite, ours - theirs, LARGEST))
        self._not_finite += int(finite.size - finite.sum())
        ours, theirs = np.where(finite, ours, 0.0), np.where(finite, theirs, 0.0)
        self._count += error.size
        self._sum_abs += float(np.minimum(error, LARGEST).sum())
        self._square += float((np.where(finite, error, 0.0) ** 2).sum())
        self._dot += float((ours * theirs).sum())
        self._reference += float((theirs**2).sum())
        self._candidate += float((ours**2).sum())
        self._scale = max(self._scale, float(np.abs(theirs).max()))
        with np.errstate(divide="ignore"):
            places = np.floor((np.log10(error) - _LOWEST_DECADE) * _BINS_A_DECADE)
        self._bins += np.bincount(np.clip(places, 0, _BINS - 1).astype(np.int64).ravel(), minlength=_BINS)
        by_class = error.max(axis=(0, 2, 3))
        self._class_max = np.maximum(self._class_max, by_class) if self._class_max.size else by_class
        return np.asarray(error.max(axis=(1, 2, 3)))

    def figures(self) -> LogitFigures:
        """Everything counted so far; at least one batch."""
        length = math.sqrt(self._reference)
        both = length * math.sqrt(self._candidate)
        mean_square = self._square / self._count
        exact = mean_square == 0 and not self._not_finite
        decades = self._bins.reshape(-1, _BINS_A_DECADE).sum(1)
        first, last = _span(decades)
        return LogitFigures(
            max_abs=float(self._class_max.max()),
            mean_abs=min(self._sum_abs / self._count, LARGEST),
            p99_abs=self._quantile(0.99),
            scale=self._scale,
            relative_l2=math.sqrt(self._square) / length if length else (0.0 if exact else LARGEST),
            cosine=self._dot / both if both else (1.0 if exact else 0.0),
            psnr_db=None if exact or not mean_square or not self._scale else 10 * math.log10(self._scale**2 / mean_square),
            decades=tuple((_LOWEST_DECADE + place, int(decades[place])) for place in range(first, last)),
            class_max_abs=tuple(float(value) for value in self._class_max),
            not_finite=self._not_finite,
        )

    def _quantile(self, share: float) -> float:
        place = int(np.searchsorted(np.cumsum(self._bins), share * self._count))
        if place >= _BINS - 1:
            return float(self._class_max.max())
        return min(10 ** (_LOWEST_DECADE + (place + 1) / _BINS_A_DECADE), float(self._class_max.max()))


def _span(decades: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> tuple[int, int]:
    """From the first to behind the last decade that holds something."""
    places = np.flatnonzero(decades)
    return int(places[0]), int(places[-1]) + 1
