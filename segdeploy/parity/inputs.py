"""The pictures that parity is judged on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.manifest import Manifest
from segdeploy.base.errors import InputError
from segdeploy.images.arrays import Image, Labels
from segdeploy.images.dataset import Sample, find_samples, read_truth
from segdeploy.images.decode import MAX_PIXELS, list_images, read_checked, read_image
from segdeploy.images.label_png import encode_png
from segdeploy.images.resize import resize_image

_NOISE_IMAGES = 8
T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """One picture, read when it is needed.

    Attributes:
        name: for tables.
        read: gives its pixels, uint8 [H, W, 3] RGB.
        encoded: gives a file of it, as a server takes it.
        truth: gives its label map [H, W]; None where there is none.
    """

    name: str
    read: Callable[[], Image]
    encoded: Callable[[], bytes]
    truth: Callable[[], Labels] | None = None


@dataclass(frozen=True)
class Inputs:
    """Pictures, and what to call them in a verdict; whether they are none, but seeded noise."""

    described: str
    pictures: tuple[Picture, ...]
    noise: bool = False


def pictures_of_folder(folder: Path, limit: int | None = None, *, max_pixels: int = MAX_PIXELS) -> Inputs:
    """The images of a folder, without labels; with a limit so many of them, evenly spaced: neighbours are often alike.

    ``max_pixels`` is the limit of ``decode_image``.

    Raises:
        InputError: there are none.
    """
    found = _spread(list_images(folder), limit)
    pictures = tuple(
        Picture(path.stem, partial(read_image, path, max_pixels=max_pixels), partial(read_checked, path, max_pixels=max_pixels))
        for path in found
    )
    return Inputs(f"{len(found)} images of {folder.name}", pictures)


def pictures_of_dataset(
    root: Path | None, split: str, manifest: Manifest, limit: int | None = None, *, max_pixels: int = MAX_PIXELS
) -> Inputs:
    """The labelled images of a data set, likewise; None for the one of the model's config.

    Raises:
        InputError: there is no such data set or split.
    """
    samples = find_samples(root, split, manifest)
    name = (root or Path(manifest.lineage.data_root or "")).name
    chosen = _spread(samples, limit)
    some = f"{len(chosen)} of {len(samples)}" if len(chosen) < len(samples) else f"all {len(samples)}"
    pictures = tuple(_labelled(sample, manifest, max_pixels) for sample in chosen)
    return Inputs(f"{some} labelled images of {name}, {split}", pictures)


def default_pictures(manifest: Manifest, limit: int | None = None, *, max_pixels: int = MAX_PIXELS) -> Inputs:
    """The validation set that the model's config names, where it is on this machine; else seeded noise."""
    with suppress(InputError):  # the config's data set lies elsewhere; the verdict says what was taken instead
        return pictures_of_dataset(None, "val", manifest, limit, max_pixels=max_pixels)
    return noise(manifest, limit)


def noise(manifest: Manifest, limit: int | None = None) -> Inputs:
    """Seeded noise of two scales: coarse blobs make masks with regions, fine grain reaches the first layers."""
    (_, height, _), (_, width, _) = (bounds(axis) for axis in manifest.input.shape[1:3])
    random = np.random.default_rng(0)
    coarse = [random.integers(0, 256, (6, 6, 3), dtype=np.uint8) for _ in range(_NOISE_IMAGES)]
    fine = random.integers(-20, 20, (_NOISE_IMAGES, height, width, 3))
    images = [
        np.clip(resize_image(blob, height, width).astype(np.int64) + grain, 0, 255).astype(np.uint8)
        for blob, grain in zip(coarse, fine, strict=True)
    ][:limit]
    pictures = tuple(
        Picture(f"noise-{index}", partial(_same, image), partial(encode_png, image)) for index, image in enumerate(images)
    )
    return Inputs(f"{len(images)} images of seeded noise", pictures, noise=True)


def _labelled(sample: Sample, manifest: Manifest, max_pixels: int) -> Picture:
    truth = partial(read_truth, sample, manifest.labelling, max_pixels=max_pixels)
    read = partial(read_image, sample.image, max_pixels=max_pixels)
    return Picture(sample.name, read, partial(read_checked, sample.image, max_pixels=max_pixels), truth)


def _spread(found: Sequence[T], limit: int | None) -> list[T]:
    if limit is None or limit >= len(found):
        return list(found)
    return [found[index * len(found) // limit] for index in range(limit)]


def _same(image: Image) -> Image:
    return image
