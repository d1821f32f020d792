"""Which images and label maps a data set says it has, whether they are there or not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdeploy.artifact.layout import Layout
from segdeploy.base.errors import ConfigError, InputError
from segdeploy.images.dataset import Sample, folder_layouts, list_samples

# The order of splits; one that begins otherwise comes after those to train on, and takes no part in the search for leaks.
_ROLES = {"train": "train", "aug": "train", "val": "val", "test": "test"}
_ORDER = ("train", "", "val", "test")
_UNION = "trainval"


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
    pairs: tuple[Sample, ...]
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


def find_dataset(source: str, data_root: Path | None = None) -> Dataset:
    """The data set of a folder, or of a training config by any of its names.

    Args:
        source: the folder, or the config.
        data_root: the data set, in place of the config's.

    Raises:
        InputError: the folder holds none, or what the config names is not there.
        ConfigError: the config cannot be used.
    """
    if Path(source).is_dir():
        if data_root is not None:
            raise InputError(expected="a config with --data-root", got=f"the folder '{source}'", fix="leave one of them out")
        return splits_of_folder(Path(source))
    if os.sep in source and "::" not in source and not Path(source).is_file():
        raise InputError(expected=f"a data set's folder or a config at '{source}'", got="nothing there", fix="check the path")
    from segdeploy.models.configs import load_config
    from segdeploy.training.preflight import check_data, check_keys, move_data

    config = load_config(source)
    check_keys(config, source)
    if data_root is not None:
        move_data(config, data_root)
    check_data(config)
    return splits_of_config(config, source)


def splits_of_folder(root: Path) -> Dataset:
    """The splits of a data set in one of the layouts that ``segdeploy.images.dataset.find_samples`` understands by itself.

    A ``trainval`` beside its parts is left out: what is wrong with it is wrong with them.

    Raises:
        InputError: there is no data set, or its ``classes.json`` cannot be read.
    """
    layouts = {one.split: one for one in next(folder_layouts(root), [])}
    if not layouts:
        raise InputError(
            expected=f"a data set in '{root}': ImageSets/Segmentation/*.txt, or img_dir/SPLIT with ann_dir/SPLIT",
            got="neither",
            fix="check the folder, or name a training config",
        )
    splits = tuple(_folder_split(layouts[name]) for name in _in_order(layouts))
    return Dataset(splits, _class_names(Path(next(iter(layouts.values())).root)))


def splits_of_config(config: Any, name: str) -> Dataset:
    """The splits that a training config names, as mmseg's own data set classes understand them.

    Args:
        config: an ``mmengine.Config`` whose data are where it says.
        name: its own, for messages.

    Raises:
        ConfigError: a data set cannot be built.
    """
    from mmseg.datasets import BaseSegDataset

    from segdeploy.models.datasets import build_dataset, dataset_class, datasets_of

    splits, built = [], []
    for loader in ("train_dataloader", "val_dataloader"):
        for index, spec in enumerate(datasets_of(config, loader)):
            cls = dataset_class(spec.get("type"), trusted=True)
            if cls is None or not issubclass(cls, BaseSegDataset):
                raise ConfigError(
                    expected=f"a data set of {loader} in the config '{name}' that is one of mmseg's",
                    got=f"a {spec.get('type')}",
                    fix="custom_imports of the config must name the module of its class",
                )
            dataset = build_dataset(cls, spec, loader)
            part = loader.partition("_")[0] + (f"-{index + 1}" if index else "")
            images = dataset.data_prefix.get("img_path") or ""
            splits.append(Split(part, str(dataset.ann_file or images), tuple(_pairs(dataset, part))))
            built.append(dataset)
    if not built:
        raise ConfigError(expected=f"data sets in the config '{name}'", got="none", fix="name a training config")
    first = built[0]
    classes = tuple(first.metainfo.get("classes") or ())
    return Dataset(tuple(splits), classes, bool(first.reduce_zero_label), int(first.ignore_index))


def _pairs(dataset: Any, split: str) -> Iterator[Sample]:
    from segdeploy.models.datasets import dataset_labelling, dataset_layout

    layout = dataset_layout(dataset, split)
    if layout is not None:
        yield from list_samples(layout)
        return
    for info in dataset.load_data_list():  # a class that lists its images in a way of its own
        if info.get("seg_map_path"):
            image = Path(info["img_path"])
            yield Sample(image.stem, image, Path(info["seg_map_path"]), dataset_labelling(dataset))


def _in_order(names: Iterable[str]) -> list[str]:
    chosen = set(names)
    if {"train", "val"} <= chosen:
        chosen.discard(_UNION)
    return sorted(chosen, key=lambda name: (_ORDER.index(role(name)), name not in _ORDER, name))


def _folder_split(layout: Layout) -> Split:
    root = Path(layout.root)
    images, labels = root / layout.images, root / str(layout.labels)
    source = str(root / (layout.names or layout.images))
    try:
        return Split(layout.split, source, tuple(list_samples(layout)), images, labels)
    except InputError as error:
        return Split(layout.split, f"{source}: {error.got}", (), images, labels)


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
