"""The arithmetic of parity: how far one model's outputs are from another's, and what is allowed.

Axes: N images, K classes, H and W of the input, h and w of the logits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.core.imaging import Logits, resize_logits
from segdeploy.core.manifest import Manifest, Precision, ShapeParity, Tolerance, Verdict

# fp32: float addition in another order moves a logit by about 1e-6 of its size; 1e-4 is a hundred times that, and a real
#   fault (a swapped channel, another pooling) is a thousand times larger still.
# fp16: 11 bits of mantissa, about 5e-4 a rounding, summed over some fifty layers.
# int8: about 1/127 of a tensor's range a rounding; only the masks say whether it matters.
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(logits_max_abs=1e-4, mask_agreement=0.9999),
    "fp16": Tolerance(logits_max_abs=5e-2, mask_agreement=0.995),
    "int8": Tolerance(logits_max_abs=5e-1, mask_agreement=0.95),
}

# Stands for an infinite error: JSON has no infinity, and a verdict must be readable again.
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Outputs:
    """What a model gave for a batch.

    Attributes:
        mask: [N, H, W] labels.
        logits: float32 [N, K, h, w].
    """

    mask: NDArray[Any]
    logits: Logits


class ShapeComparison:
    """Collects the differences of all batches of one shape; memory does not grow with the number of images."""

    def __init__(self, shape: tuple[int, int, int], tolerance: Tolerance, manifest: Manifest) -> None:
        self._shape = shape
        self._tolerance = tolerance
        self._manifest = manifest
        self._images = 0
        self._max_abs = self._sum_abs = self._scale = self._margin = 0.0
        self._logits = self._pixels = self._differ = 0

    def add(self, reference: Outputs, candidate: Outputs) -> None:
        """Compare one batch. NaN or Inf on either side counts as the largest error there is."""
        error = np.abs(candidate.logits.astype(np.float64) - reference.logits)
        error = np.where(np.isfinite(error), error, _LARGEST)
        self._max_abs = max(self._max_abs, float(error.max()))
        self._sum_abs += float(error.sum())
        self._logits += error.size
        self._scale = max(self._scale, min(float(np.abs(reference.logits).max()), _LARGEST))
        flipped = reference.mask != candidate.mask
        self._differ += int(flipped.sum())
        self._pixels += flipped.size
        self._images += len(flipped)
        if flipped.any():
            self._margin = max(self._margin, self._flip_margin(reference, flipped))

    def result(self) -> ShapeParity:
        """The figures, and whether they lie within the tolerance."""
        agreement = 1 - self._differ / self._pixels
        return ShapeParity(
            shape=self._shape,
            images=self._images,
            logits_max_abs=self._max_abs,
            logits_mean_abs=self._sum_abs / self._logits,
            logits_scale=self._scale,
            mask_agreement=agreement,
            pixels_differ=self._differ,
            flip_margin_max=self._margin,
            verdict=self._verdict(agreement),
        )

    def _verdict(self, agreement: float) -> Verdict:
        allowed = self._tolerance.logits_max_abs * max(1.0, self._scale)
        # Two logits may each be off by `allowed`: a pixel that the reference held by more than twice that cannot flip
        # through logit error, so the mask was made differently.
        within = self._max_abs <= allowed and self._margin <= 2 * allowed
        return "passed" if within and agreement >= self._tolerance.mask_agreement else "failed"

    def _flip_margin(self, reference: Outputs, flipped: NDArray[np.bool_]) -> float:
        largest = 0.0
        _, height, width = self._shape
        postprocess = self._manifest.postprocess
        padded = self._manifest.preprocess.network_input(height, width)
        for logits, where in zip(reference.logits, flipped, strict=True):
            if where.any():
                full = resize_logits(logits[None], *padded, align_corners=postprocess.align_corners)
                full = full[0, :, :height, :width][:, where]
                if postprocess.cutoff is None:
                    top = np.partition(full, -2, axis=0)[-2:]
                    margin = top[1] - top[0]
                else:
                    margin = np.abs(full - postprocess.cutoff)
                largest = max(largest, min(float(margin.max()), _LARGEST))
        return largest


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict for several: the worst of them; ``skipped`` where there is none."""
    found = set(verdicts)
    order: tuple[Verdict, ...] = ("failed", "undecided", "skipped", "passed")
    return next((verdict for verdict in order if verdict in found), "skipped")
