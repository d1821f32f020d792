"""A synthetic data set in PASCAL VOC's layout: shapes of several classes over textured backgrounds, void along their borders.

What tells the classes apart is their outline and, more weakly, their hue; brightness, size, angle and texture vary freely,
so that a threshold on colour does not solve it and a small network does, within a minute or two.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segdeploy.core.errors import InputError
from segdeploy.core.files import new_folder
from segdeploy.core.imaging import Image, label_png
from segdeploy.core.palette import distinct_palette
from segdeploy.core.progress import progress_bar

VOID = 255
_SMALLEST_SIDE = 32
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
_FILLS = ("plain", "striped")
MOST_CLASSES = 1 + len(_OUTLINES) * len(_FILLS)


def class_names(count: int) -> tuple[str, ...]:
    """``background`` and the shapes, ``count`` in all.

    Raises:
        InputError: fewer than 2 or more than there are.
    """
    if not 2 <= count <= MOST_CLASSES:
        raise InputError(expected=f"2 to {MOST_CLASSES} classes", got=str(count), fix="correct --classes")
    plain = list(_OUTLINES)
    return ("background", *[*plain, *(f"striped {name}" for name in plain)][: count - 1])


def write_synthetic_voc(root: Path, *, train: int, val: int, size: tuple[int, int], classes: int, seed: int) -> None:
    """Write a data set, the same one for the same arguments; an older one at ``root`` is replaced only when it is complete.

    Args:
        root: its folder; the images go to ``root/VOCdevkit/VOC2012`` and the class names to ``root/classes.json``.
        train: how many images for training.
        val: how many for validation. Every fourth of them has another size, so that dynamic shapes are met.
        size: (H, W) in pixels.
        classes: background included.
        seed: of everything random.

    Raises:
        InputError: a number that makes no sense, or a folder that cannot be written or holds something else.
    """
    names = class_names(classes)
    if train < 1 or val < 1 or min(size) < _SMALLEST_SIDE:
        raise InputError(
            expected=f"at least one image a split, of {_SMALLEST_SIDE}x{_SMALLEST_SIDE} or more",
            got=f"{train} for training, {val} for validation, {size[0]}x{size[1]}",
            fix="correct --train, --val or --size",
        )
    if root.exists() and not (root / "classes.json").is_file() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(
            expected=f"a new folder or an older synthetic data set at '{root}'",
            got="something else, which would be overwritten",
            fix="choose another --root",
        )
    palette = distinct_palette(classes)
    with new_folder(root) as temporary, progress_bar("synthetic images", train + val) as advance:
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
                image, label = draw_scene(random, height, width, classes)
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


def draw_scene(random: np.random.Generator, height: int, width: int, classes: int) -> tuple[Image, NDArray[np.uint8]]:
    """One image with its labels.

    Returns:
        uint8 [H, W, 3] RGB, and uint8 [H, W] labels with void (255) along every object's border.
    """
    image = _texture(random, height, width)
    label = np.zeros((height, width), np.uint8)
    side = min(height, width)
    for _ in range(random.integers(2, 5)):
        kind = int(random.integers(1, classes))
        centre = random.uniform(0.12, 0.88, 2) * (width, height)
        mask = _outline_mask(random, (height, width), kind, centre, side * random.uniform(0.14, 0.28))
        image[mask > 0] = _fill(random, height, width, kind, classes)[mask > 0]
        label[mask > 0] = kind
        label[_border(mask, side)] = VOID
    noise = random.normal(0, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), label


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


def _fill(random: np.random.Generator, height: int, width: int, kind: int, classes: int) -> NDArray[np.float64]:
    """An object's surface: a hue near its class's own, any brightness, shaded; stripes for the striped classes."""
    hue = (kind - 1) / max(classes - 1, 1) * 180 + random.normal(0, 9)
    pixel = np.array([[[hue % 180, random.uniform(90, 200), random.uniform(110, 245)]]], np.uint8)
    colour = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float64)
    rows, columns = np.mgrid[0:height, 0:width]
    angle = random.uniform(0, np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    shade = 14 * np.sin(along / random.uniform(14, 30))
    if kind > len(_OUTLINES):
        shade = shade + 55 * np.sign(np.sin(along / random.uniform(1.6, 2.6)))
    return np.asarray(colour + shade[..., None], np.float64)


def _outline_mask(
    random: np.random.Generator, size: tuple[int, int], kind: int, centre: NDArray[np.float64], radius: float
) -> NDArray[np.uint8]:
    corners, depth = list(_OUTLINES.values())[(kind - 1) % len(_OUTLINES)]
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
