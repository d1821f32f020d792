"""From a picture of any size to labels of the same size, by mmseg's protocol, on any Session.

mmseg resizes the image as its test pipeline says, resizes the logits to the network's input, resizes them again to the
picture's own size, and takes the argmax last (a binary head's threshold likewise). Taking it first and resizing labels
changes the result. Where the model pads, the padding's logits are cut off before the second resize.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Axis, Bounds, Inference, Manifest
from segdeploy.base.errors import InputError
from segdeploy.images.arrays import Image, Labels, Logits
from segdeploy.images.resize import resize_logits, resize_picture, resized_labels
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


def predict_batch(session: Session, images: Sequence[Image]) -> list[Labels]:
    """Segment pictures that have one network input size in common, in one batch.

    Args:
        session: any backend.
        images: uint8 [H, W, 3] RGB each; their own sizes may differ.

    Returns:
        Labels at each picture's own size, in order.

    Raises:
        InputError: they do not fit the artifact.
    """
    manifest = session.artifact.manifest
    batch = np.stack([prepare(image, manifest) for image in images])
    size = (batch.shape[1], batch.shape[2])
    if manifest.inference.mode == "whole" and all(image.shape[:2] == size for image in images):
        return list(session.run(batch).mask)  # the graph's own argmax is already at the picture's size
    logits = network_logits(session, batch)
    align, cutoff = manifest.postprocess.align_corners, manifest.postprocess.cutoff
    return [
        resized_labels(one[None], *image.shape[:2], align_corners=align, cutoff=cutoff)[0].astype(_mask_dtype(manifest))
        for one, image in zip(logits, images, strict=True)
    ]


def prepare(image: Image, manifest: Manifest) -> Image:
    """Bring a picture to the network's input size as the manifest says."""
    return resize_picture(image, manifest.preprocess.resize)


def network_logits(session: Session, batch: NDArray[np.uint8]) -> Logits:
    """Logits at the network's input size, [N, K, H, W]: the whole image at once, or the mean of overlapping crops."""
    manifest = session.artifact.manifest
    align = manifest.postprocess.align_corners
    count, height, width, _ = batch.shape
    padded = manifest.preprocess.network_input(height, width)
    if manifest.inference.mode == "whole":
        return resize_logits(_raw_logits(session, batch), *padded, align_corners=align)[:, :, :height, :width]
    outputs = len(manifest.classes) if manifest.postprocess.reduce == "argmax" else 1
    total = np.zeros((count, outputs, *padded), np.float32)
    times = np.zeros(padded, np.float32)
    for y0, y1, x0, x1 in slide_windows(*padded, manifest.inference):
        # Where a window reaches beyond the image the graph pads the rest of it, to the window's size.
        crop = _raw_logits(session, batch[:, y0 : min(y1, height), x0 : min(x1, width)])
        total[:, :, y0:y1, x0:x1] += resize_logits(crop, y1 - y0, x1 - x0, align_corners=align)
        times[y0:y1, x0:x1] += 1
    return (total / times)[:, :, :height, :width]


def slide_windows(height: int, width: int, inference: Inference) -> Iterator[tuple[int, int, int, int]]:
    """The crops (y0, y1, x0, x1) of mmseg's slide inference; the last of a row or column is moved back inside.

    Source: ``EncoderDecoder.slide_inference``.
    """
    assert inference.crop is not None
    assert inference.stride is not None
    (crop_h, crop_w), (stride_h, stride_w) = inference.crop, inference.stride
    for row in range(max(height - crop_h + stride_h - 1, 0) // stride_h + 1):
        for column in range(max(width - crop_w + stride_w - 1, 0) // stride_w + 1):
            y1, x1 = min(row * stride_h + crop_h, height), min(column * stride_w + crop_w, width)
            yield max(y1 - crop_h, 0), y1, max(x1 - crop_w, 0), x1


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
        step = stride or kept or (max(1, round(size[0] * 2 / 3)), max(1, round(size[1] * 2 / 3)))
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


def _raw_logits(session: Session, batch: NDArray[np.uint8]) -> Logits:
    logits = session.run(batch, logits=True).logits
    assert logits is not None
    return logits


def _mask_dtype(manifest: Manifest) -> type[np.generic]:
    return np.uint8 if len(manifest.classes) <= 256 else np.int32
