"""From a picture of any size to labels of the same size, by mmseg's protocol, on any Session.

mmseg resizes the image as its test pipeline says, resizes the logits to the network's input, resizes them again to the
picture's own size, and takes the argmax last (a binary head's threshold likewise). Taking it first and resizing labels
changes the result. Where the model pads, the padding's logits are cut off before the second resize.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Axis, Bounds, Inference
from segdeploy.base.errors import InputError
from segdeploy.images.arrays import Image, Labels, Logits
from segdeploy.images.labels import labels_of_logits, to_size
from segdeploy.runtime.bands import BandedLabels, slide_bands
from segdeploy.runtime.fitting import (
    Batch,
    Fitted,
    filled,
    fit_picture,
    given_batches,
    prepared,
    usual_stride,
    window_logits,
    window_steps,
)
from segdeploy.runtime.session import Session


def predict_labels(session: Session, image: Image) -> Labels:
    """Segment one picture.

    Args:
        session: any backend.
        image: uint8 [H, W, 3] RGB of any size that the artifact takes after its own resize.

    Returns:
        [H, W] labels at the picture's own size.

    Raises:
        InputError: the picture is too small or too large for the artifact.
    """
    return predict_batch(session, [image])[0]


def predict_batch(session: Session, images: Sequence[Image], *, at_network: Sequence[bool] = ()) -> list[Labels]:
    """Segment pictures of one size, or of sizes that come to the artifact in one way (``fit_picture``).

    Args:
        session: any backend.
        images: uint8 [H, W, 3] RGB each, as many as one likes.
        at_network: of which pictures the labels stay at the size that the pipeline's resize makes of them; by default of none.

    Returns:
        Labels at each picture's own size, in order.

    Raises:
        InputError: they do not fit the artifact.
    """
    manifest = session.artifact.manifest
    fitted = fit_picture(images[0].shape[0], images[0].shape[1], manifest)
    labels: list[Labels] = []
    stay = at_network or [False] * len(images)
    sizes = [fitted.size if one else image.shape[:2] for one, image in zip(stay, images, strict=True)]
    for start in range(0, len(images), fitted.batch[1]):
        part = slice(start, start + fitted.batch[1])
        labels += _predict_together(session, images[part], sizes[part], fitted)
    return labels


def _predict_together(
    session: Session, images: Sequence[Image], sizes: Sequence[Sequence[int]], fitted: Fitted
) -> list[Labels]:
    manifest = session.artifact.manifest
    batch = prepared(images, fitted)
    align, cutoff = manifest.postprocess.align_corners, manifest.postprocess.cutoff
    if len(fitted.windows) > 1:
        dtype = np.uint8 if len(manifest.classes) <= 256 else np.int32
        found = [BandedLabels(fitted.size, one, align_corners=align, cutoff=cutoff, dtype=dtype) for one in sizes]
        for band in slide_bands(session, batch, fitted):
            for index, labels in enumerate(found):
                labels.add(band[index : index + 1])
        return [labels.labels for labels in found]
    # Where the graph's own argmax is already at the size that is wanted, it counts: for each picture whatever the others are.
    done = [not fitted.stretched and size == fitted.size for size in sizes]
    (((window,), given),) = given_batches(batch, fitted, manifest.preprocess)
    prediction = session.run(filled(given, fitted.batch[0]), logits=not all(done))
    height, width = fitted.size
    steps = window_steps(window, fitted, manifest)
    segmented = []
    for index, size in enumerate(sizes):
        if done[index]:
            segmented.append(prediction.mask[index, :height, :width])
        else:
            assert prediction.logits is not None
            resizes = (*steps, to_size(*size))
            segmented.append(labels_of_logits(prediction.logits[index], resizes, align_corners=align, cutoff=cutoff))
    return segmented


def network_logits(session: Session, batch: Batch, fitted: Fitted) -> Logits:
    """Logits of pictures at the network's size, [N, K, H, W]: of the whole at once, or the mean of overlapping windows.

    Args:
        session: any backend.
        batch: uint8 [N, H, W, 3] of ``fitted.size``.
        fitted: how the pictures come to the artifact.
    """
    if len(fitted.windows) > 1:
        return np.concatenate(list(slide_bands(session, batch, fitted)), axis=2)
    manifest = session.artifact.manifest
    (((window,), given),) = given_batches(batch, fitted, manifest.preprocess)
    raw = session.run(filled(given, fitted.batch[0]), logits=True).logits
    assert raw is not None
    return window_logits(raw[: len(batch)], window, fitted, manifest)


def with_inference(
    artifact: Artifact,
    mode: Literal["whole", "slide"] | None,
    crop: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
) -> Artifact:
    """The artifact, run in another way than its config says.

    Args:
        artifact: any.
        mode: ``whole`` or ``slide``; None for its own, or ``slide`` where a crop or stride is given.
        crop: (H, W) of a crop; by default its own, else the size that the model was trained or exported for.
        stride: (H, W) from a crop to the next; by default its own, else two thirds of the crop, as in mmseg's configs.

    Raises:
        InputError: a crop with ``whole``, or a stride that would leave pixels out.
    """
    manifest = artifact.manifest
    own = manifest.inference
    mode = mode or ("slide" if crop or stride else own.mode)
    if mode == "whole":
        if crop or stride:
            raise InputError(expected="--crop and --stride with --mode slide", got="--mode whole", fix="leave them out")
        inference = Inference(mode="whole")
    else:
        size = crop or own.crop or (_best(manifest.input.shape[1]), _best(manifest.input.shape[2]))
        kept = own.stride if crop in (None, own.crop) else None
        step = stride or kept or usual_stride(size)
        if any(one > limit for one, limit in zip(step, size, strict=True)):
            raise InputError(
                expected=f"a stride of at most {size[0]}x{size[1]}, the crop",
                got=f"{step[0]}x{step[1]}",
                fix="with a larger one, pixels between the crops would be left out",
            )
        inference = Inference(mode="slide", crop=size, stride=step)
    return Artifact(artifact.folder, msgspec.structs.replace(manifest, inference=inference))


def _best(axis: Axis) -> int:
    return axis.opt if isinstance(axis, Bounds) else axis
