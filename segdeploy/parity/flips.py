"""Pixels whose label is not the reference's: how many, where they lie, and whether logit errors explain them.

A flip where the reference's two best logits were all but equal is no defect; one where the reference was sure is. Where they
are equal to the last digits, as all over a picture of one colour, the reference's own label is chance: such a tie does not
count against the share of labels that agree.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.verdict import FlipFigures
from segdeploy.parity.logits import LARGEST

# Half the width of the band along the reference's own borders, in pixels: there the margin passes through zero.
BAND_PIXELS = 3


class FlipCount:
    """Collects flips, image by image; its memory does not grow with them."""

    def __init__(self, classes: int) -> None:
        self._classes = np.zeros(classes, np.int64)
        self._pixels = self._differ = self._ties = self._band = self._firm = 0
        self._margin = 0.0

    def add(
        self,
        reference: NDArray[Any],
        candidate: NDArray[Any],
        margin: NDArray[np.floating[Any]] | None,
        error: float,
        tie: float = 0.0,
    ) -> None:
        """Count one image.

        Args:
            reference: labels [H, W].
            candidate: labels [H, W].
            margin: by how much the reference held its label against the candidate's, at the pixels that differ, in the
                order of ``numpy.nonzero``; None where none does.
            error: the largest logit difference of this image.
            tie: up to which margin nobody can tell the two labels apart.
        """
        flipped = reference != candidate
        self._pixels += flipped.size
        if margin is None or not flipped.any():
            return
        margin = np.where(np.isfinite(margin), margin, LARGEST).astype(np.float64)
        self._differ += int(flipped.sum())
        self._ties += int((margin <= tie).sum())
        self._band += int((flipped & border_band(reference)).sum())
        self._firm += int((margin > 2 * error).sum())
        self._margin = max(self._margin, float(margin.max()))
        self._classes += np.bincount(reference[flipped].astype(np.int64), minlength=len(self._classes))[: len(self._classes)]

    def figures(self) -> FlipFigures:
        """Everything counted so far; at least one image."""
        return FlipFigures(
            pixels=self._pixels,
            differ=self._differ,
            ties=self._ties,
            agreement=1 - (self._differ - self._ties) / self._pixels,
            band=self._band,
            interior=self._differ - self._band,
            firm=self._firm,
            margin_max=self._margin,
            classes=tuple(int(count) for count in self._classes),
        )


def border_band(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels within ``BAND_PIXELS`` (in rows or columns) of a pixel with another label; bool [H, W]."""
    side = 2 * BAND_PIXELS + 1
    kernel = np.ones((side, side), np.uint8)
    values = labels.astype(np.float32)  # exact for any label, and a type that OpenCV filters
    return np.asarray(cv2.dilate(values, kernel) != cv2.erode(values, kernel))
