"""Pairs of images and label maps on disk, in the layouts that mmseg's users have."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.base.errors import InputError
from segdeploy.images.decode import IMAGE_SUFFIXES, checked_header

# (images, labels) under the root, for data sets without lists.
SPLIT_FOLDERS = (("img_dir/{split}", "ann_dir/{split}"), ("images/{split}", "annotations/{split}"))
# Lists of images whose label maps lie in SegmentationClassAug.
AUGMENTED = {"aug", "trainaug"}
_LABEL_MODES = {"L", "P", "I", "I;16", "1"}


@dataclass(frozen=True)
class Sample:
    """One image and its label map."""

    name: str
    image: Path
    label: Path


def find_samples(root: Path, split: str) -> list[Sample]:
    """The samples of a split, in the order of its list or by name.

    Understood layouts: VOC's (``ImageSets/Segmentation/SPLIT.txt``, ``JPEGImages``, ``SegmentationClass``, at the root or in
    ``VOCdevkit/VOC2012``) and mmseg's (``img_dir/SPLIT`` with ``ann_dir/SPLIT``, ``images/SPLIT`` with
    ``annotations/SPLIT``).

    Raises:
        InputError: there is no such data set or split, or a file of it is missing.
    """
    if not root.is_dir():
        raise InputError(expected=f"a data set at '{root}'", got="no such folder", fix="pass its folder with --data DIR")
    for voc in (root, root / "VOCdevkit" / "VOC2012", root / "VOC2012"):
        names = voc / "ImageSets" / "Segmentation" / f"{split}.txt"
        if names.is_file():
            listed = [line.strip() for line in names.read_text().splitlines() if line.strip()]
            # What SBD adds has its masks in a folder of their own, as mmseg's configs have it.
            labels = voc / ("SegmentationClassAug" if split in AUGMENTED else "SegmentationClass")
            pairs = [Sample(n, voc / "JPEGImages" / f"{n}.jpg", labels / f"{n}.png") for n in listed]
            return _complete(pairs, f"'{names}'")
    for image_folder, label_folder in SPLIT_FOLDERS:
        images, labels = root / image_folder.format(split=split), root / label_folder.format(split=split)
        if images.is_dir():
            found = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
            return _complete([Sample(p.stem, p, labels / f"{p.stem}.png") for p in found], f"'{images}'")
    raise InputError(
        expected=f"a split '{split}' in '{root}': ImageSets/Segmentation/{split}.txt, or img_dir/{split} with ann_dir/{split}",
        got="neither",
        fix="check --data and --split, or make one with: segdeploy data synth",
    )


def read_label(path: Path, *, reduce_zero_label: bool = False) -> NDArray[Any]:
    """Read a label map.

    Args:
        path: a PNG whose pixel values (palette indices or grey levels) are the labels.
        reduce_zero_label: label 0 becomes void and the others move down by one, as mmseg does for ADE20K.

    Returns:
        [H, W] integers.

    Raises:
        InputError: missing, unreadable, or a colour picture.
    """
    from PIL import Image

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(expected=f"a label map at '{path}'", got=str(error), fix="mend or remove it") from error
    header = checked_header(data, f"'{path}'")
    try:
        with Image.open(io.BytesIO(data), formats=[header.kind]) as picture:
            mode, label = picture.mode, np.array(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's plugins raise
        raise InputError(expected=f"a label map at '{path}'", got=str(error), fix="mend or remove it") from error
    if mode not in _LABEL_MODES:
        raise InputError(
            expected=f"class indices in '{path}' (a palette or grey PNG)",
            got=f"a colour picture (mode {mode})",
            fix="convert its colours to indices",
        )
    label = label.astype(np.uint8) if mode == "1" else label
    if reduce_zero_label:
        label = label.copy()
        label[label == 0] = 255
        label -= 1
        label[label == 254] = 255
    return label


def _complete(samples: list[Sample], source: str) -> list[Sample]:
    if not samples:
        raise InputError(expected=f"images listed in {source}", got="none", fix="check the data set")
    missing = [path for sample in samples for path in (sample.image, sample.label) if not path.is_file()]
    if missing:
        raise InputError(
            expected=f"every image of {source} with its label map",
            got=f"{len(missing)} files missing, the first '{missing[0]}'",
            fix="complete the data set",
        )
    return samples
