"""Which images and label maps a data set says it has, whether they are there or not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdeploy.base.errors import ConfigError, InputError
from segdeploy.images.dataset import AUGMENTED, SPLIT_FOLDERS
from segdeploy.images.decode import IMAGE_SUFFIXES

# The order of splits; one that begins otherwise comes after those to train on, and takes no part in the search for leaks.
_ROLES = {"train": "train", "aug": "train", "val": "val", "test": "test"}
_ORDER = ("train", "", "val", "test")
_UNION = "trainval"


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
        image_folder: with ``label_folder``, to find label maps of no image; None where a config says it pair by pair.
        label_folder: likewise.
    """

    name: str
    source: str
    pairs: tuple[Pair, ...]
    image_folder: Path | None = None
    label_folder: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """What is to be checked.

    Attributes:
        splits: its parts.
        classes: their names; empty where nothing says them.
        reduce_zero_label: label 0 is void and the others count from 1, as in ADE20K.
        ignore_index: of void.
    """

    splits: tuple[Split, ...]
    classes: tuple[str, ...] = ()
    reduce_zero_label: bool = False
    ignore_index: int = 255


def role(split: str) -> str:
    """What a split is for, going by its name: ``train``, ``val`` or ``test``; empty where that is unclear or several."""
    if split.startswith(_UNION):
        return ""
    return next((purpose for start, purpose in _ROLES.items() if split.startswith(start)), "")


def find_dataset(target: str, data_root: Path | None = None) -> Dataset:
    """The data set of a folder, or of a training config by any of its names.

    Args:
        target: the folder, or the config.
        data_root: the data set, in place of the config's.

    Raises:
        InputError: the folder holds none, or what the config names is not there.
        ConfigError: the config cannot be used.
    """
    if Path(target).is_dir():
        if data_root is not None:
            raise InputError(expected="a config with --data-root", got=f"the folder '{target}'", fix="leave one of them out")
        return splits_of_folder(Path(target))
    if os.sep in target and "::" not in target and not Path(target).is_file():
        raise InputError(expected=f"a data set's folder or a config at '{target}'", got="nothing there", fix="check the path")
    from segdeploy.models.configs import load_config
    from segdeploy.training.preflight import check_data, check_keys, move_data

    config = load_config(target)
    check_keys(config, target)
    if data_root is not None:
        move_data(config, data_root)
    check_data(config)
    return splits_of_config(config, target)


def splits_of_folder(root: Path) -> Dataset:
    """The splits of a data set in VOC's layout or mmseg's; see ``segdeploy.images.dataset.find_samples``.

    A ``trainval`` beside its parts is left out: what is wrong with it is wrong with them.

    Raises:
        InputError: there is no data set, or its ``classes.json`` cannot be read.
    """
    for voc in (root, root / "VOCdevkit" / "VOC2012", root / "VOC2012"):
        lists = {path.stem: path for path in (voc / "ImageSets" / "Segmentation").glob("*.txt")}
        if lists:
            return Dataset(tuple(_voc_split(voc, lists[name]) for name in _in_order(lists)), _class_names(voc))
    for images, labels in SPLIT_FOLDERS:
        folder = root / images.partition("/")[0]
        names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        if names:
            found = (_folder_split(n, root / images.format(split=n), root / labels.format(split=n)) for n in _in_order(names))
            return Dataset(tuple(found), _class_names(root))
    raise InputError(
        expected=f"a data set in '{root}': ImageSets/Segmentation/*.txt, or img_dir/SPLIT with ann_dir/SPLIT",
        got="neither",
        fix="check the folder, or name a training config",
    )


def splits_of_config(config: Any, name: str) -> Dataset:
    """The splits that a training config names, found by mmseg's own data set classes.

    Args:
        config: an ``mmengine.Config`` whose data are where it says.
        name: its own, for messages.

    Raises:
        ConfigError: a data set cannot be built.
    """
    from mmseg.registry import DATASETS

    from segdeploy.training.preflight import datasets_of

    splits, built = [], []
    for loader in ("train_dataloader", "val_dataloader"):
        for index, spec in enumerate(datasets_of(config, loader)):
            try:
                dataset = DATASETS.build({**spec, "pipeline": [], "lazy_init": True})
                infos = dataset.load_data_list()
            except Exception as error:  # the config names any class, which raises what it likes
                raise ConfigError(
                    expected=f"a data set of {loader} in the config '{name}'",
                    got=f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'no message')}",
                    fix="mend it",
                ) from error
            images = Path(dataset.data_prefix.get("img_path") or "")
            pairs = tuple(_config_pair(info, images) for info in infos if info.get("seg_map_path"))
            part = loader.partition("_")[0] + (f"-{index + 1}" if index else "")
            splits.append(Split(part, str(dataset.ann_file or images), pairs))
            built.append(dataset)
    if not built:
        raise ConfigError(expected=f"data sets in the config '{name}'", got="none", fix="name a training config")
    first = built[0]
    classes = tuple(first.metainfo.get("classes") or ())
    return Dataset(tuple(splits), classes, bool(first.reduce_zero_label), int(first.ignore_index))


def _config_pair(info: dict[str, Any], images: Path) -> Pair:
    image = Path(info["img_path"])
    name = image.relative_to(images) if image.is_relative_to(images) else Path(image.name)
    return Pair(str(name.with_suffix("")), image, Path(info["seg_map_path"]))


def _in_order(names: Iterable[str]) -> list[str]:
    chosen = set(names)
    if {"train", "val"} <= chosen:
        chosen.discard(_UNION)
    return sorted(chosen, key=lambda name: (_ORDER.index(role(name)), name not in _ORDER, name))


def _voc_split(voc: Path, path: Path) -> Split:
    images, labels = voc / "JPEGImages", voc / ("SegmentationClassAug" if path.stem in AUGMENTED else "SegmentationClass")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        return Split(path.stem, f"{path}: {getattr(error, 'strerror', None) or 'not text'}", (), images, labels)
    pairs = tuple(Pair(name, images / f"{name}.jpg", labels / f"{name}.png") for name in names)
    return Split(path.stem, str(path), pairs, images, labels)


def _folder_split(name: str, images: Path, labels: Path) -> Split:
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return Split(name, str(images), tuple(Pair(path.stem, path, labels / f"{path.stem}.png") for path in found), images, labels)


def _class_names(root: Path) -> tuple[str, ...]:
    """Of ``classes.json``, which synthetic data have beside them; of VOC's own, from mmseg."""
    for path in (root / "classes.json", root.parent.parent / "classes.json"):
        if path.is_file():
            try:
                return tuple(map(str, json.loads(path.read_text())["classes"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    expected=f"class names in '{path}'", got=f"{type(error).__name__}: {error}", fix="mend or remove it"
                ) from error
    if root.name == "VOC2012":
        from segdeploy.models.packages import load_mmseg

        load_mmseg()
        from mmseg.datasets import PascalVOCDataset

        return tuple(PascalVOCDataset.METAINFO["classes"])
    return ()
