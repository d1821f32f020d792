"""Which images and label maps a data set says it has, whether they are there or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segdeploy.core.dataset import AUGMENTED, SPLIT_FOLDERS
from segdeploy.core.errors import InputError
from segdeploy.core.imaging import IMAGE_SUFFIXES

# Lists that are others put together: what is wrong with them is wrong with their parts.
_UNIONS = {"trainval"}


@dataclass(frozen=True)
class Pair:
    """An image and its label map, as listed."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        name: such as ``train``.
        source: the list or folder that names its images.
        pairs: in its order.
        label_folder: where its label maps lie, to find those of no image; None where a config says it pair by pair.
        image_folder: likewise.
    """

    name: str
    source: str
    pairs: tuple[Pair, ...]
    label_folder: Path | None = None
    image_folder: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """What is to be checked.

    Attributes:
        splits: its parts.
        classes: their names; empty where nothing says them.
        palette: RGB a class; may be empty.
        reduce_zero_label: label 0 is void and the others count from 1, as in ADE20K.
        ignore_index: of void.
    """

    splits: tuple[Split, ...]
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = field(default=())
    reduce_zero_label: bool = False
    ignore_index: int = 255


def find_dataset(target: str) -> Dataset:
    """The data set of a folder, or of a training config by any of its names.

    Raises:
        InputError: the folder holds none, or what the config names is not there.
        ConfigError: the config cannot be used.
    """
    if Path(target).is_dir():
        return splits_of_folder(Path(target))
    from segdeploy.core.configs import load_config
    from segdeploy.training.preflight import check_data

    config = load_config(target)
    check_data(config)
    return splits_of_config(config)


def splits_of_folder(root: Path) -> Dataset:
    """The splits of a data set in VOC's layout or mmseg's; see ``segdeploy.core.dataset.find_samples``.

    Raises:
        InputError: there is no data set.
    """
    for voc in (root, root / "VOCdevkit" / "VOC2012", root / "VOC2012"):
        lists = sorted((voc / "ImageSets" / "Segmentation").glob("*.txt"))
        if lists:
            classes, palette = _described(voc)
            splits = tuple(_voc_split(voc, path) for path in lists if path.stem not in _UNIONS)
            return Dataset(splits, classes, palette)
    for images, labels in SPLIT_FOLDERS:
        folder = root / images.partition("/")[0]
        names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if names:
            classes, palette = _described(root)
            found = tuple(
                _folder_split(name, root / images.format(split=name), root / labels.format(split=name)) for name in names
            )
            return Dataset(found, classes, palette)
    raise InputError(
        expected=f"a data set in '{root}': ImageSets/Segmentation/*.txt, or img_dir/SPLIT with ann_dir/SPLIT",
        got="neither",
        fix="check the folder, or name a training config",
    )


def splits_of_config(config: Any) -> Dataset:
    """The splits that a training config names, found by mmseg's own data set classes.

    Args:
        config: an ``mmengine.Config`` whose data are where it says.
    """
    from mmseg.registry import DATASETS

    from segdeploy.training.preflight import datasets_of

    splits, first = [], None
    for loader in ("train_dataloader", "val_dataloader"):
        for index, spec in enumerate(datasets_of(config, loader)):
            dataset = DATASETS.build({**spec, "pipeline": [], "lazy_init": True})
            infos = dataset.load_data_list()
            pairs = tuple(
                Pair(Path(info["img_path"]).stem, Path(info["img_path"]), Path(info["seg_map_path"])) for info in infos
            )
            name = loader.partition("_")[0] + (f"-{index + 1}" if index else "")
            splits.append(Split(name, str(dataset.ann_file or dataset.data_prefix.get("img_path")), pairs))
            first = first or dataset
    assert first is not None
    meta = first.metainfo
    return Dataset(
        tuple(splits),
        tuple(meta.get("classes") or ()),
        tuple(tuple(int(value) for value in colour) for colour in meta.get("palette") or ()),  # type: ignore[misc]
        bool(first.reduce_zero_label),
        int(first.ignore_index),
    )


def _voc_split(voc: Path, path: Path) -> Split:
    names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    labels = voc / ("SegmentationClassAug" if path.stem in AUGMENTED else "SegmentationClass")
    pairs = tuple(Pair(name, voc / "JPEGImages" / f"{name}.jpg", labels / f"{name}.png") for name in names)
    return Split(path.stem, str(path), pairs, labels, voc / "JPEGImages")


def _folder_split(name: str, images: Path, labels: Path) -> Split:
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return Split(name, str(images), tuple(Pair(path.stem, path, labels / f"{path.stem}.png") for path in found), labels, images)


def _described(root: Path) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Class names of ``classes.json``, which synthetic data have beside them; of VOC's own, from mmseg."""
    for path in _places(root):
        if path.is_file():
            content = json.loads(path.read_text())
            return tuple(content["classes"]), tuple(tuple(colour) for colour in content.get("palette", ()))
    if root.name == "VOC2012":
        from segdeploy.core.mmseg import load_mmseg

        load_mmseg()
        from mmseg.datasets import PascalVOCDataset

        meta = PascalVOCDataset.METAINFO
        return tuple(meta["classes"]), tuple(tuple(colour) for colour in meta["palette"])
    return (), ()


def _places(root: Path) -> Iterator[Path]:
    yield root / "classes.json"
    yield root.parent.parent / "classes.json"
