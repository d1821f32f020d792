"""What is wrong with a run is said before it starts: misspelt keys, data that is not there, labels of other classes."""

from __future__ import annotations

import difflib
import inspect
import json
from pathlib import Path
from typing import Any

from segdeploy.base.errors import ConfigError, InputError
from segdeploy.models.datasets import datasets_of

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
# Top-level names that configs define for their own use and that look like something MMEngine reads.
_OWN_NAMES = frozenset({"optimizer", "data", "dataset", "models", "test_dataset"})


def move_data(config: Any, root: Path) -> None:
    """Put a data set in place of the config's; a folder that holds ``VOCdevkit/VOC2012`` stands for that."""
    nested = root / "VOCdevkit" / "VOC2012"
    for loader in LOADERS:
        for dataset in datasets_of(config, loader):
            # Absolute: the checkpoint remembers it, and `eval` or `bench` may be run from another folder.
            dataset["data_root"] = str((nested if nested.is_dir() else root).resolve())


def check_keys(config: Any, name: str) -> None:
    """A misspelt key at the top of a config is one that MMEngine never reads: ``train_cgf`` changes nothing, silently.

    Raises:
        ConfigError: a key that is nearly one of MMEngine's.
    """
    from mmengine.runner import Runner

    known = {*inspect.signature(Runner.__init__).parameters, "test_pipeline", "train_pipeline", "tta_pipeline", "tta_model"}
    for key in config:
        if key in known or key in _OWN_NAMES:
            continue
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.87)
        if close:
            raise ConfigError(
                expected=f"keys that MMEngine reads in the config '{name}'",
                got=f"'{key}'",
                fix=f"did you mean '{close[0]}'?",
            )


def check_padding(config: Any) -> None:
    """Images of a training batch are stacked, which takes one size; some of mmseg's own configs do not say which.

    Raises:
        ConfigError: neither ``size`` nor ``size_divisor`` of the data preprocessor is given, or both are.
    """
    spec = config.model.get("data_preprocessor") or {}
    given = [key for key in ("size", "size_divisor") if spec.get(key) is not None]
    if spec.get("type") == "SegDataPreProcessor" and len(given) != 1:
        raise ConfigError(
            expected="model.data_preprocessor with a size, or a size_divisor, to pad training images to",
            got=" and ".join(given) or "neither",
            fix="pass the training crop: --cfg-options 'model.data_preprocessor.size=(512, 512)'",
        )


def end_epochs(config: Any) -> bool:
    """An epoch of an endless sampler never ends, and a config that inherits one for a loop by epoch trains its first for ever.

    Returns:
        Whether a sampler that ends took its place.
    """
    sampler = config.train_dataloader.get("sampler") or {}
    if "max_epochs" not in (config.get("train_cfg") or {}) or sampler.get("type") != "InfiniteSampler":
        return False
    sampler["type"] = "DefaultSampler"
    return True


def check_data(config: Any) -> None:
    """The folders and lists that a config names are there, and the classes are its own.

    Raises:
        InputError: names what is not there.
    """
    for loader in ("train_dataloader", "val_dataloader"):
        for dataset in datasets_of(config, loader):
            root = dataset.get("data_root")
            if root is None:
                continue
            prefix = dataset.get("data_prefix") or {}
            needed = (Path(root, part) for part in ("", dataset.get("ann_file") or "", *prefix.values()))
            missing = next((path for path in needed if not path.exists()), None)
            if missing is not None:
                raise InputError(
                    expected=f"the data set of {loader} at '{root}'",
                    got=f"nothing at '{missing}'",
                    fix="pass --data-root DIR, or make one with: segdeploy data voc, or segdeploy data synth",
                )
            _check_classes(dataset, Path(root))


def check_some(config: Any) -> None:
    """Every list and folder of images names one: of an empty one MMEngine says that there is no array to concatenate.

    Raises:
        InputError: names the list or the folder.
    """
    for dataset in (one for loader in ("train_dataloader", "val_dataloader") for one in datasets_of(config, loader)):
        root, prefix = Path(dataset.get("data_root") or ""), dataset.get("data_prefix") or {}
        listed = dataset.get("ann_file")
        if listed and (root / listed).is_file():
            where, some = f"the list '{root / listed}'", bool((root / listed).read_bytes().strip())
        elif not listed and (images := prefix.get("img_path")):
            where, some = f"the folder '{root / images}'", any(path.is_file() for path in (root / images).rglob("*"))
        else:
            continue
        if not some:
            raise InputError(expected=f"images in {where}", got="none", fix="see what else is wrong: segdeploy data check")


def check_files(runner: Any) -> None:
    """Every image and label is there before an hour is spent; stating 10,000 files takes a fraction of a second.

    Raises:
        InputError: files are missing, or too few for one batch.
    """
    for loop in (runner.train_loop, runner.val_loop):
        if loop is None:
            continue
        dataset = loop.dataloader.dataset
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        paths = [Path(info[key]) for info in infos for key in ("img_path", "seg_map_path") if info.get(key)]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise InputError(
                expected=f"every image of {len(infos)} with its label map",
                got=f"{len(missing)} files missing, the first '{missing[0]}'",
                fix="complete the data set; segdeploy data check lists all that is wrong with it",
            )
        if not len(loop.dataloader):
            raise InputError(
                expected=f"images for at least one batch of {loop.dataloader.batch_size}",
                got=str(len(infos)),
                fix="add images, or pass --cfg-options train_dataloader.batch_size=N",
            )


def _check_classes(dataset: Any, root: Path) -> None:
    """Synthetic data says which classes it has; labels beyond the model's would end in an index error."""
    described = next((path for path in (root / "classes.json", root.parent.parent / "classes.json") if path.is_file()), None)
    expected = list((dataset.get("metainfo") or {}).get("classes") or [])
    if described is None or not expected:
        return
    found = json.loads(described.read_text())["classes"]
    if found != expected:
        raise InputError(
            expected=f"the config's {len(expected)} classes in '{described}'",
            got=f"{len(found)}: {', '.join(found)}",
            fix=f"make the data set again with --classes {len(expected)}, or change the config's classes and num_classes",
        )
