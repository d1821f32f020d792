"""A synthetic data set in PASCAL VOC's layout: shapes of several classes over textured backgrounds, void along their borders.

What tells the first 21 classes apart is their outline and, more weakly, their hue; brightness, size, angle and texture vary
freely, so that a threshold on colour does not solve it and a small network does, within a minute or two. The others have a
pattern and a narrow range of hues as well: every class is one outline in one fill.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segdeploy.base.errors import InputError
from segdeploy.base.folders import new_folder
from segdeploy.base.progress import progress_bar
from segdeploy.images.arrays import Image
from segdeploy.images.label_png import label_png
from segdeploy.images.palette import distinct_palette
from segdeploy.training.fills import FILLS, patterned_fill, wide_fill

VOID = 255
MOST_CLASSES = VOID
_SIDES = (32, 8192)  # beyond, an image of floats takes gigabytes
_JPEG_QUALITY = 92
# name -> corners of the outline and how deep every second one lies (1: a regular polygon)
_OUTLINES: dict[str, tuple[int, float]] = {
    "circle": (48, 1.0),
    "square": (4, 1.0),
    "triangle": (3, 1.0),
    "star": (10, 0.45),
    "hexagon": (6, 1.0),
    "cross": (8, 0.35),
    "flower": (12, 0.7),
    "pentagon": (5, 1.0),
    "burst": (24, 0.6),
    "blade": (6, 0.3),
}
# Up to so many classes an image holds any of them, in hues that their number spreads; the same images as ever.
_FEW = 21


def class_names(count: int) -> tuple[str, ...]:
    """``background`` and the shapes, ``count`` in all.

    Raises:
        InputError: fewer than 2 or more than there are.
    """
    if not 2 <= count <= MOST_CLASSES:
        raise InputError(expected=f"2 to {MOST_CLASSES} classes", got=str(count), fix="correct --classes")
    return ("background", *[f"{fill}{outline}" for fill in FILLS for outline in _OUTLINES][: count - 1])


def write_synthetic_voc(root: Path, *, train: int, val: int, size: tuple[int, int], classes: int, seed: int) -> None:
    """Write a data set, the same one for the same arguments; an older one at ``root`` is replaced only when it is complete.

    Args:
        root: its folder; the images go to ``root/VOCdevkit/VOC2012`` and the class names to ``root/classes.json``.
        train: how many images for training.
        val: how many for validation. Every fourth of them has another size, so that dynamic shapes are met.
        size: (H, W) in pixels.
        classes: background included. Of more than 21, as many images of a split hold each of them at least once.
        seed: of everything random.

    Raises:
        InputError: a number that makes no sense, or a folder that cannot be written or holds something else.
    """
    names = class_names(classes)
    smallest, largest = _SIDES
    if train < 1 or val < 1 or min(size) < smallest or max(size) > largest:
        raise InputError(
            expected=f"at least one image a split, of {smallest}x{smallest} to {largest}x{largest}",
            got=f"{train} for training, {val} for validation, {size[0]}x{size[1]}",
            fix="correct --train, --val or --size",
        )
    palette = distinct_palette(classes)
    turns = np.random.default_rng(seed).permutation(np.arange(1, classes)) if classes > _FEW else None
    with new_folder(root, "a synthetic data set") as temporary, progress_bar("synthetic images", train + val) as advance:
        voc = temporary / "VOCdevkit" / "VOC2012"
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (voc / folder).mkdir(parents=True)
        stems: dict[str, list[str]] = {"train": [], "val": []}
        for split, count in (("train", train), ("val", val)):
            for index in range(count):
                stem = f"{split}_{index:05d}"
                # A generator of its own for every image: the same image whatever the numbers of the others are.
                random = np.random.default_rng([seed, split == "val", index])
                height, width = _varied(size, index) if split == "val" else size
                image, label = draw_scene(
                    random, height, width, classes, None if turns is None else int(turns[index % len(turns)])
                )
                written = cv2.imwrite(
                    str(voc / "JPEGImages" / f"{stem}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
                )
                assert written, "OpenCV writes any uint8 [H, W, 3]"
                (voc / "SegmentationClass" / f"{stem}.png").write_bytes(label_png(label, palette))
                stems[split].append(stem)
                advance()
        stems["trainval"] = stems["train"] + stems["val"]
        for split, listed in stems.items():
            (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in listed))
        (temporary / "classes.json").write_text(json.dumps({"classes": names, "palette": palette}) + "\n")


def draw_scene(
    random: np.random.Generator, height: int, width: int, classes: int, certain: int | None = None
) -> tuple[Image, NDArray[np.uint8]]:
    """One image with its labels.

    Args:
        random: draws everything.
        height: in pixels.
        width: likewise.
        classes: background included.
        certain: a class that is in front, and large.

    Returns:
        uint8 [H, W, 3] RGB, and uint8 [H, W] labels with void (255) along every object's border.
    """
    image = _texture(random, height, width)
    label = np.zeros((height, width), np.uint8)
    for _ in range(random.integers(2, 5)):
        kind = int(random.integers(1, classes))
        _draw(random, image, label, kind, classes=classes, radii=(0.14, 0.28), margin=0.12)
    if certain is not None:
        _draw(random, image, label, certain, classes=classes, radii=(0.22, 0.28), margin=0.3)
    noise = random.normal(0, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), label


def _draw(
    random: np.random.Generator,
    image: NDArray[np.float64],
    label: NDArray[np.uint8],
    kind: int,
    *,
    classes: int,
    radii: tuple[float, float],
    margin: float,
) -> None:
    """Put an object into an image and its label map: radius and distance from the edge as shares of the image's size."""
    height, width = label.shape
    centre = random.uniform(margin, 1 - margin, 2) * (width, height)
    radius = min(height, width) * random.uniform(*radii)
    fill, outline = divmod(kind - 1, len(_OUTLINES))
    mask = _outline_mask(random, label.shape, outline, centre, radius)
    left, top, wide, high = cv2.boundingRect(mask)
    box = slice(top, top + high), slice(left, left + wide)
    rows, columns = np.mgrid[box]
    if fill < 2:
        hue = (kind - 1) / max(min(classes, _FEW) - 1, 1) * 180
        surface = wide_fill(random, rows, columns, hue, striped=fill == 1)
    else:
        surface = patterned_fill(random, rows - centre[1], columns - centre[0], radius, fill)
    inside = mask[box] > 0
    image[box][inside] = surface[inside]
    label[mask > 0] = kind
    label[_border(mask, min(label.shape))] = VOID


def _varied(size: tuple[int, int], index: int) -> tuple[int, int]:
    """The size of a validation image: mostly the common one, now and then odd, landscape or portrait."""
    if index % 4 != 3:
        return size
    tall, wide = ((1.0, 1.27), (1.31, 0.93), (0.87, 0.87))[index // 4 % 3]
    return round(size[0] * tall), round(size[1] * wide)


def _texture(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Blurred noise of two scales over a gradient: strong in brightness, weak in colour."""
    canvas = np.zeros((height, width, 3))
    for cells, brightness, colour in ((4, 50, 14), (16, 35, 10)):
        coarse = brightness * random.uniform(-1, 1, (cells, cells, 1)) + colour * random.uniform(-1, 1, (cells, cells, 3))
        canvas += cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    ramp = np.linspace(-1, 1, width)[None, :, None] * random.uniform(-25, 25, 3)
    return np.asarray(canvas + ramp + random.uniform(80, 170) + random.uniform(-12, 12, 3), np.float64)


def _outline_mask(
    random: np.random.Generator, size: tuple[int, ...], outline: int, centre: NDArray[np.float64], radius: float
) -> NDArray[np.uint8]:
    corners, depth = list(_OUTLINES.values())[outline]
    angles = np.arange(corners) * 2 * np.pi / corners + random.uniform(0, 2 * np.pi)
    radii = radius * np.where(np.arange(corners) % 2, depth, 1.0) if depth < 1 else np.full(corners, radius)
    points = centre + np.stack([np.cos(angles) * radii, np.sin(angles) * radii], 1)
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
    return mask


def _border(mask: NDArray[np.uint8], side: int) -> NDArray[np.bool_]:
    """A thin band on both sides of an outline, as VOC's annotators left it: about 5 pixels of a 500 pixel image, at least 2."""
    width = max(2, round(side / 100)) | 1
    kernel = np.ones((width, width), np.uint8)
    return np.asarray(cv2.dilate(mask, kernel) != cv2.erode(mask, kernel))
