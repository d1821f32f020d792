"""Pairs of images and label maps on disk: where a model's config says that they are, or in layouts known without it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.layout import Labelling, Layout
from segdeploy.artifact.manifest import Manifest
from segdeploy.base.errors import InputError
from segdeploy.images.decode import IMAGE_SUFFIXES, MAX_PIXELS, checked_header

# Where PASCAL VOC may lie within the folder that a user names.
_WITHIN = ("", "VOCdevkit/VOC2012", "VOC2012")
# Lists of images whose label maps lie in SegmentationClassAug: what SBD adds, as mmseg's configs have it.
_AUGMENTED = {"aug", "trainaug"}
# Data sets with a folder a split: images, labels, and how their names end.
_FOLDERS = (
    ("img_dir", "ann_dir", None, ".png"),
    ("images", "annotations", None, ".png"),
    ("leftImg8bit", "gtFine", "_leftImg8bit.png", "_gtFine_labelTrainIds.png"),  # Cityscapes
)
_OTHER_NAMES = {"train": "training", "val": "validation"}  # ADE20K's
_LABEL_MODES = {"L", "P", "I", "I;16", "1"}


@dataclass(frozen=True)
class Sample:
    """One image and its label map.

    Attributes:
        name: as listed, or its path in the folder of images, without suffix.
        image: a picture.
        label: a label map.
        labelling: of the data set that it belongs to; None where only a model can say it.
    """

    name: str
    image: Path
    label: Path
    labelling: Labelling | None = None


def find_samples(root: Path | None, split: str, manifest: Manifest | None = None) -> list[Sample]:
    """The samples of a split, in the order of its list or by path.

    Where the model's config has a data set of that name, and the folder is laid out like it, that is the split. Else the folder
    is understood by itself: VOC's layout (``ImageSets/Segmentation/SPLIT.txt``, ``JPEGImages``, ``SegmentationClass``, at the
    root or in ``VOCdevkit/VOC2012``), mmseg's (``img_dir/SPLIT`` with ``ann_dir/SPLIT``, ``images/SPLIT`` with
    ``annotations/SPLIT``) and Cityscapes' (``leftImg8bit/SPLIT`` with ``gtFine/SPLIT``).

    Args:
        root: the data set's folder; None for where the model's config has it.
        split: such as ``val``.
        manifest: of the model; None where there is none.

    Raises:
        InputError: there is no such data set or split, or a file of it is missing.
    """
    recorded = _recorded(manifest.layouts if manifest else (), split)
    if root is None:
        if recorded:
            return _complete(_at_its_place(recorded), " and ".join(_source(one) for one in recorded))
        if manifest is None or manifest.lineage.data_root is None:
            raise InputError(expected="a data set", got="none recorded in the model's config", fix="pass --data DIR")
        root = Path(manifest.lineage.data_root)
    if not root.is_dir():
        raise InputError(expected=f"a data set at '{root}'", got="no such folder", fix="pass its folder with --data DIR")
    for layouts in (_moved(recorded, root), _of_split(root, split)):
        if layouts:
            samples = [sample for one in layouts for sample in list_samples(one)]
            return _complete(samples, " and ".join(_source(one) for one in layouts))
    raise InputError(
        expected=f"a split '{split}' in '{root}': {_asked(recorded)}ImageSets/Segmentation/{split}.txt, "
        f"or img_dir/{split} with ann_dir/{split}",
        got="none of these",
        fix="check --data and --split, or make one with: segdeploy data synth",
    )


def folder_layouts(root: Path) -> Iterator[list[Layout]]:
    """What a folder holds in each of the layouts that are understood without a config; every split, by name."""
    for within in _WITHIN:
        lists = sorted((root / within / "ImageSets" / "Segmentation").glob("*.txt"))
        if lists:
            yield [
                Layout(
                    split=path.stem,
                    root=str(root / within),
                    images="JPEGImages",
                    labels="SegmentationClassAug" if path.stem in _AUGMENTED else "SegmentationClass",
                    image_suffix=".jpg",
                    names=f"ImageSets/Segmentation/{path.name}",
                )
                for path in lists
            ]
    for images, labels, image_suffix, label_suffix in _FOLDERS:
        folder = root / images
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if splits:
            yield [
                Layout(split, str(root), f"{images}/{split}", f"{labels}/{split}", image_suffix, label_suffix)
                for split in splits
            ]


def list_samples(layout: Layout) -> list[Sample]:
    """What a data set lists, whether it is there or not: the same, and in the same order, as mmseg's BaseSegDataset.

    Raises:
        InputError: its list cannot be read, or it has no label maps.
    """
    if layout.labels is None:
        raise InputError(
            expected=f"label maps for {_source(layout)}", got="none in the model's config", fix="pass another --split or --data"
        )
    root = Path(layout.root)
    samples = []
    for listed in _listed(layout):
        suffix = PurePosixPath(listed).suffix if layout.image_suffix is None else layout.image_suffix
        name = listed.removesuffix(suffix)
        label = root / layout.labels / f"{name}{layout.label_suffix}"
        samples.append(Sample(name, root / layout.images / listed, label, layout.labelling))
    if isinstance(layout.indices, int):
        return samples[: layout.indices] if layout.indices >= 0 else samples[layout.indices :]
    return samples if layout.indices is None else [samples[index] for index in layout.indices if index < len(samples)]


def read_truth(sample: Sample, default: Labelling, *, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """The label map of a sample, as classes; see ``read_label``.

    Args:
        sample: which.
        default: for a sample of a data set that says nothing of its own: the model's.
        max_pixels: of a label map; see ``decode_image``.

    Raises:
        InputError: see ``read_label``.
    """
    labelling = sample.labelling or default
    return read_label(
        sample.label, reduce_zero_label=labelling.reduce_zero_label, label_map=labelling.label_map, max_pixels=max_pixels
    )


def read_label(
    path: Path,
    *,
    reduce_zero_label: bool = False,
    label_map: Sequence[tuple[int, int]] = (),
    max_pixels: int = MAX_PIXELS,
) -> NDArray[Any]:
    """Read a label map.

    Args:
        path: a PNG whose pixel values (palette indices or grey levels) are the labels.
        reduce_zero_label: label 0 becomes void and the others move down by one, as mmseg does for ADE20K.
        label_map: then, (label, class) of those that are another class; all at once.
        max_pixels: see ``decode_image``.

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
    header = checked_header(data, f"'{path}'", max_pixels=max_pixels)
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
    if label_map:
        present = set(np.unique(label).tolist())
        mapped = label.astype(np.promote_types(label.dtype, np.min_scalar_type(max(new for _, new in label_map))))
        for old, new in label_map:
            if old in present:
                mapped[label == old] = new
        label = mapped
    return label


def _recorded(layouts: Sequence[Layout], split: str) -> list[Layout]:
    """The config's data sets of a split; of one that it does not name, those of its val with the name put in its place."""
    named = [one for one in layouts if one.split == split]
    return named or [other for one in layouts if one.split == "val" and (other := _renamed(one, split)) != one]


def _renamed(layout: Layout, split: str) -> Layout:
    """The same, ``val`` in its paths being the split: of ``leftImg8bit/val`` it makes ``leftImg8bit/test``."""

    def renamed(path: str) -> str:
        return "/".join(f"{split}{part[3:]}" if part.split(".")[0] == "val" else part for part in path.split("/"))

    return msgspec.structs.replace(
        layout,
        images=renamed(layout.images),
        labels=layout.labels and renamed(layout.labels),
        names=layout.names and renamed(layout.names),
        indices=None,
    )


def _moved(recorded: Sequence[Layout], root: Path) -> list[Layout]:
    """The config's data sets at another root, where it is laid out like one of theirs; those of one root belong together."""
    for within in _WITHIN:
        moved = [(one.root, msgspec.structs.replace(one, root=str(root / within))) for one in recorded]
        absent = {own for own, one in moved if not _is_there(one)}
        there = list(dict.fromkeys(one for own, one in moved if own not in absent))
        if len({(one.images, one.names, one.image_suffix) for one in there}) < len(there):
            raise InputError(
                expected=f"one data set of the model's config at '{root}'",
                got="several that lie like it, and read it in different ways",
                fix="leave --data out, or pass a --config with the one that is meant",
            )
        if there:
            return there
    return []


def _is_there(layout: Layout) -> bool:
    root = Path(layout.root)
    if layout.names is not None and not (root / layout.names).exists():
        return False
    return (root / layout.images).is_dir() and next(iter(_listed(layout)), None) is not None


def _of_split(root: Path, split: str) -> list[Layout]:
    found = {one.split: one for kind in reversed(list(folder_layouts(root))) for one in kind}
    one = found.get(split) or found.get(_OTHER_NAMES.get(split, ""))
    return [one] if one else []


def _at_its_place(recorded: Sequence[Layout]) -> list[Sample]:
    for one in recorded:
        paths = (Path(one.root, part) for part in ("", one.names, one.images) if part is not None)
        missing = next((path for path in paths if not path.exists()), None)
        if missing is not None:
            raise InputError(
                expected=f"the data set of the model's config at '{one.root}'",
                got=f"nothing at '{missing}'",
                fix="pass --data DIR",
            )
    return [sample for one in recorded for sample in list_samples(one)]


def _listed(layout: Layout) -> list[str]:
    """The images' paths in their folder, with suffix."""
    folder = Path(layout.root, layout.images)
    names = Path(layout.root, layout.names) if layout.names else None
    if names is not None and not names.is_dir():  # mmseg passes over a list that is a folder
        try:
            lines = names.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                expected=f"a list of images at '{names}'",
                got=getattr(error, "strerror", None) or "not text",
                fix="mend it, or pass another --data",
            ) from error
        return [f"{line.strip()}{layout.image_suffix or ''}" for line in lines if line.strip()]
    found = []
    for place, _, files in os.walk(folder, followlinks=True):
        within = Path(place).relative_to(folder).as_posix()
        found += [file if within == "." else f"{within}/{file}" for file in files if _is_image(file, layout.image_suffix)]
    return sorted(found)


def _is_image(file: str, suffix: str | None) -> bool:
    if file.startswith("."):
        return False
    return Path(file).suffix.lower() in IMAGE_SUFFIXES if suffix is None else file.endswith(suffix)


def _source(layout: Layout) -> str:
    return f"'{Path(layout.root, layout.names or layout.images)}'"


def _asked(recorded: Sequence[Layout]) -> str:
    return "".join(f"{one.names or one.images} as in the model's config, " for one in recorded)


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
