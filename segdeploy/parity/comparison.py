"""How far one model's outputs are from another's at one input shape, and whether that is allowed.

Axes: N images, K classes, H and W of the input, h and w of the logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.manifest import Manifest
from segdeploy.artifact.verdict import FlipFigures, LabelParity, LogitFigures, ShapeParity, Tolerance
from segdeploy.images.arrays import Labels, Logits
from segdeploy.images.resize import resize_logits
from segdeploy.parity.flips import FlipCount
from segdeploy.parity.logits import LARGEST, LogitErrors
from segdeploy.parity.tolerance import RESIZE_ROUNDING

_MOST_BORDER = 4.0


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

    def __init__(self, shape: tuple[int, int, int] | None, tolerance: Tolerance, manifest: Manifest) -> None:
        self._shape = shape
        self._tolerance = tolerance
        self._manifest = manifest
        self._rounding = RESIZE_ROUNDING[manifest.precision]
        self._images = 0
        self._logits = LogitErrors()
        self._masks = FlipCount(len(manifest.classes))

    def add(self, reference: Outputs, candidate: Outputs) -> list[float]:
        """Compare one batch.

        Returns:
            How bad each image is, for finding the worst: the share of its pixels that differ, plus its largest logit error.
        """
        errors = self._logits.add(reference.logits, candidate.logits)
        badness = []
        for index, error in enumerate(errors):
            theirs, ours = reference.mask[index], candidate.mask[index]
            flipped = theirs != ours
            given = reference.logits[index]
            margin = None
            if flipped.any():
                full = full_logits(given, theirs.shape, self._manifest)
                margin = leads(full[:, flipped], ours[flipped], self._manifest.postprocess.cutoff)
            self._masks.add(theirs, ours, margin, explained(float(error), given, self._rounding), tie_width(given))
            badness.append(float(flipped.mean()) + min(float(error), 1.0))
        self._images += len(errors)
        return badness

    def result(self) -> ShapeParity:
        """The figures, and whether they lie within the tolerance."""
        logits, masks = self._logits.figures(), self._masks.figures()
        reasons = [*_logit_reasons(logits, self._tolerance), *flip_reasons(masks, self._at_shape())]
        return ShapeParity(
            shape=self._shape,
            images=self._images,
            logits=logits,
            masks=masks,
            verdict="failed" if reasons else "passed",
            reason="; ".join(reasons),
        )

    def _at_shape(self) -> Tolerance:
        """More labels may differ where a picture is smaller than at the artifact's best size.

        Flips lie along borders. These grow with a picture's side and its pixels with the square: squeezed to a quarter of the
        side, the same picture has four times the share of borders. No more than four times counts: what is left is that
        logits and firm flips are as strictly judged as anywhere.
        """
        if self._shape is None:
            return self._tolerance
        (_, best_h, _), (_, best_w, _) = (bounds(axis) for axis in self._manifest.input.shape[1:3])
        _, height, width = self._shape
        times = min(max(math.sqrt(best_h * best_w / (height * width)), 1.0), _MOST_BORDER)
        return msgspec.structs.replace(self._tolerance, mask_agreement=1 - times * (1 - self._tolerance.mask_agreement))


class LabelComparison:
    """Collects the differences of the labels that users get."""

    def __init__(self, tolerance: Tolerance, manifest: Manifest) -> None:
        self._tolerance = tolerance
        self._manifest = manifest
        self._rounding = RESIZE_ROUNDING[manifest.precision]
        self._flips = FlipCount(len(manifest.classes))
        self._images = 0

    def add(self, reference: Labels, candidate: Labels, logits: Callable[[], Logits], error: float | None) -> float:
        """Compare one picture.

        Args:
            reference: labels [H, W] at the picture's own size.
            candidate: likewise.
            logits: gives the reference's float32 [K, H', W'] at the network's input size; asked only where labels differ.
            error: the largest difference of its logits; None where the candidate gives none: what is allowed counts then.

        Returns:
            The share of pixels that differ.
        """
        flipped = reference != candidate
        margin, bound, tie = None, 0.0, 0.0
        if flipped.any():
            given = logits()
            align = self._manifest.postprocess.align_corners
            full = resize_logits(given[None], *reference.shape, align_corners=align)[0]
            margin, tie = leads(full[:, flipped], candidate[flipped], self._manifest.postprocess.cutoff), tie_width(given)
            bound = explained(error or 0.0, given, self._rounding if error is not None else self._tolerance.logits_max_abs)
        self._flips.add(reference, candidate, margin, bound, tie)
        self._images += 1
        return float(flipped.mean())

    def result(self) -> LabelParity:
        """The figures, and whether they lie within the tolerance."""
        figures = self._flips.figures()
        reasons = flip_reasons(figures, self._tolerance)
        return LabelParity(
            images=self._images,
            labels=figures,
            verdict="failed" if reasons else "passed",
            reason="; ".join(reasons),
        )


def full_logits(logits: Logits, size: tuple[int, ...], manifest: Manifest) -> Logits:
    """Logits [K, h, w] at the graph's input size [K, H, W], as the graph upsamples them."""
    height, width = size
    padded = manifest.preprocess.network_input(height, width)
    full = resize_logits(logits[None], *padded, align_corners=manifest.postprocess.align_corners)
    return full[0, :, :height, :width]


def margins(logits: Logits, cutoff: float | None) -> NDArray[np.floating[Any]]:
    """By how much a label won: the best logit less the second, or of a binary head the distance from its cutoff.

    Args:
        logits: [K, ...].
        cutoff: see ``Postprocess.cutoff``.
    """
    if cutoff is not None:
        return np.abs(logits[0] - cutoff)
    if len(logits) == 1:  # a model of one class: nothing can win against it
        return np.full(logits.shape[1:], LARGEST)
    top = np.partition(logits, -2, axis=0)[-2:]
    return np.asarray(top[1] - top[0])


def leads(logits: Logits, labels: NDArray[Any], cutoff: float | None) -> NDArray[np.floating[Any]]:
    """By how much the reference held its label against the one that a candidate gave in its place.

    The best logit less that of the candidate's label, not less the second best: where the best two are all but equal, a third
    class is wrong all the same. A label that is no class is infinitely wrong.

    Args:
        logits: the reference's [K, M], at M pixels.
        labels: the candidate's [M].
        cutoff: see ``Postprocess.cutoff``.
    """
    classes = 2 if cutoff is not None else len(logits)
    known = (labels >= 0) & (labels < classes)
    if cutoff is not None:
        lead = np.abs(logits[0] - cutoff)
    else:
        chosen = np.take_along_axis(logits, np.where(known, labels, 0).astype(np.int64)[None], axis=0)[0]
        lead = logits.max(axis=0) - chosen
    return np.where(known, lead, LARGEST)


def tie_width(logits: Logits) -> float:
    """Up to which lead the reference itself was undecided: what float32 rounds, of the largest logit."""
    return explained(0.0, logits, RESIZE_ROUNDING["fp32"])


def explained(error: float, logits: Logits, rounding: float) -> float:
    """The largest logit error that can be behind a flip: what was measured, and the rounding of the resizes."""
    largest = float(np.abs(np.where(np.isfinite(logits), logits, 0)).max())
    return max(error, rounding * max(1.0, largest))


def flip_reasons(figures: FlipFigures, tolerance: Tolerance) -> list[str]:
    """Why flips are not within the tolerance; empty where they are."""
    reasons = []
    if figures.agreement < tolerance.mask_agreement:
        reasons.append(f"{100 * figures.agreement:.4f} % of the labels agree, least {100 * tolerance.mask_agreement:g} %")
    if figures.firm:
        reasons.append(
            f"{figures.firm} labels differ where the reference was sure (margin up to {figures.margin_max:.2g}), "
            "which no logit error explains"
        )
    return reasons


def _logit_reasons(figures: LogitFigures, tolerance: Tolerance) -> list[str]:
    if figures.not_finite:
        return [f"{figures.not_finite} logits are NaN or infinite"]
    allowed = tolerance.logits_max_abs * max(1.0, figures.scale)
    if figures.max_abs <= allowed:
        return []
    return [f"a logit is off by {figures.max_abs:.2g}, at most {allowed:.2g} (the largest is {figures.scale:.3g})"]
