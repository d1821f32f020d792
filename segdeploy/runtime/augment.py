"""Test-time augmentation: one picture at several sizes, as it is and mirrored, as mmseg does it.

Source: ``mmseg.models.SegTTAModel.merge_preds`` and the ``tta_pipeline`` of mmseg's configs: the logits of each variant are
mirrored back and resized to the picture's own size, and the mean of their softmax decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.manifest import Resize
from segdeploy.base.errors import InputError
from segdeploy.images.arrays import Image, Labels, Logits
from segdeploy.images.resize import network_size, resized_stripes
from segdeploy.runtime.fitting import Batch, Fitted, as_it_is, fit_picture, prepared
from segdeploy.runtime.predictor import network_logits, predict_labels
from segdeploy.runtime.session import Session


@dataclass(frozen=True)
class Augmentation:
    """The variants of a picture.

    Attributes:
        scales: factors of the picture's own size, as in mmseg's ``tta_pipeline``; empty for the one size that the test
            pipeline gives it.
        flip: each of them mirrored too.
    """

    scales: tuple[float, ...] = ()
    flip: bool = False

    def __post_init__(self) -> None:
        wrong = next((scale for scale in self.scales if not 0 < scale <= 16), None)
        if wrong is not None:
            raise InputError(expected="scales above 0 and up to 16", got=f"{wrong:g}", fix="such as 0.5,1.0,1.5")

    @property
    def active(self) -> bool:
        """Whether there is anything to do beyond a plain prediction."""
        return bool(self.scales) or self.flip


def predict_augmented(session: Session, image: Image, augmentation: Augmentation) -> Labels:
    """Segment one picture by the mean of its variants.

    Args:
        session: any backend.
        image: uint8 [H, W, 3] RGB.
        augmentation: the variants; without any, this is ``predict_labels``.

    Returns:
        [H, W] labels at the picture's own size.

    Raises:
        InputError: the artifact does not take a variant's size; names the scale.
    """
    if not augmentation.active:
        return predict_labels(session, image)
    manifest = session.artifact.manifest
    height, width = image.shape[:2]
    threshold = manifest.postprocess.threshold
    # A binary head has one output, whose sigmoid takes the place of the softmax.
    channels, probability = (len(manifest.classes), _softmax) if threshold is None else (1, _sigmoid)
    total = np.zeros((channels, height, width), np.float32)
    variants = 0
    for logits in _variants(session, image, augmentation):
        variants += 1
        for rows, stripe in resized_stripes(logits, height, width, align_corners=manifest.postprocess.align_corners):
            total[:, rows] += probability(stripe[0])
    mean = total / variants
    labels = mean.argmax(0) if threshold is None else mean[0] > threshold
    return labels.astype(np.uint8 if len(manifest.classes) <= 256 else np.int32)


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """The (height, width) that mmcv's ``Resize(scale_factor=scale, keep_ratio=True)`` brings a picture to."""
    box = int(width * scale + 0.5), int(height * scale + 0.5)
    return network_size(height, width, Resize(mode="keep_ratio", scale=box))


def _variants(session: Session, image: Image, augmentation: Augmentation) -> Iterator[Logits]:
    """The logits of each variant at its network size, mirrored back, [1, K, H', W']."""
    manifest = session.artifact.manifest
    height, width = image.shape[:2]
    for scale in augmentation.scales or (None,):
        # A scale is a wish for that very size: an artifact that does not take it says so.
        plain = fit_picture(height, width, manifest) if scale is None else None
        fitted = plain or as_it_is(*scaled_size(height, width, scale or 1.0), manifest)
        scaled = prepared([image], fitted)
        yield _logits(session, scaled, fitted, scale)
        if augmentation.flip:
            yield _logits(session, np.ascontiguousarray(scaled[:, :, ::-1]), fitted, scale)[..., ::-1]


def _logits(session: Session, batch: Batch, fitted: Fitted, scale: float | None) -> Logits:
    try:
        return network_logits(session, batch, fitted)
    except InputError as error:
        if scale is None:
            raise
        raise InputError(
            expected=error.expected,
            got=f"{error.got} at scale {scale:g}",
            fix="leave that scale out of --scales, or export for a larger range of shapes",
        ) from error


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over axis 0."""
    shifted = np.exp(logits - logits.max(0))
    return np.asarray(shifted / shifted.sum(0), np.float32)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)
