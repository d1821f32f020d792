"""The data sets of a config, as mmseg's own classes understand it: where they lie, and what their labels mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from segdeploy.artifact.layout import Labelling, Layout
from segdeploy.base.errors import ConfigError
from segdeploy.models.packages import load_mmseg
from segdeploy.models.registry import registered

_SPLITS = ("train", "val", "test")
_IGNORE_INDEX = 255  # the default of mmseg's metric, data sets and heads


def datasets_of(config: Mapping[str, Any], loader: str) -> Iterator[Any]:
    """The data sets of a loader, out of wrappers such as ConcatDataset."""
    waiting = [(config.get(loader) or {}).get("dataset")]
    while waiting:
        dataset = waiting.pop(0)
        if not dataset:
            continue
        inner = [dataset.get("dataset"), *(dataset.get("datasets") or [])]
        if any(inner):
            waiting += inner
        else:
            yield dataset


def config_layouts(config: Mapping[str, Any], *, trusted: bool) -> tuple[Layout, ...]:
    """Every data set of a config that lies on disk as BaseSegDataset has it.

    ``test`` is there where it is another than ``val``, and stands for it where a config has none.

    Args:
        config: plain data.
        trusted: the user passed it, so that it may name any code.

    Raises:
        ConfigError: mmseg's class does not take what the config says of it.
    """
    found = {split: _layouts(config, split, trusted=trusted) for split in _SPLITS}
    as_val = [_named(one, "val") for one in found["test"]]
    if as_val == found["val"]:
        found["test"] = []
    found["val"] = found["val"] or as_val
    return tuple(one for split in _SPLITS for one in found[split])


def dataset_layout(dataset: Any, split: str) -> Layout | None:
    """How a data set that mmseg has built is laid out; None where its class lists its images in a way of its own."""
    return _layout_of(dataset, split) if _lists_its_folder(type(dataset)) else None


def _layout_of(dataset: Any, split: str) -> Layout:
    prefix = dataset.data_prefix
    named = {"images": prefix.get("img_path") or ".", "labels": prefix.get("seg_map_path"), "names": dataset.ann_file}
    paths = {key: _absolute(path) for key, path in named.items() if path}
    root = _absolute(dataset.data_root or ".")
    if not dataset.data_root or not all(path.is_relative_to(root) for path in paths.values()):
        root = Path(os.path.commonpath([path.parent for path in paths.values()]))
    relative = {key: path.relative_to(root).as_posix() for key, path in paths.items()}
    indices = dataset._indices  # noqa: SLF001  it has no public name
    return Layout(
        split=split,
        root=str(root.resolve()),
        images=relative["images"],
        labels=relative.get("labels"),
        image_suffix=dataset.img_suffix,
        label_suffix=dataset.seg_map_suffix,
        names=relative.get("names"),
        indices=indices if indices is None or isinstance(indices, int) else tuple(indices),
        labelling=dataset_labelling(dataset),
    )


def dataset_labelling(dataset: Any) -> Labelling:
    """What the label maps of a data set that mmseg has built mean; a class that stays what it is is left out of the map."""
    pairs = ((int(old), int(new)) for old, new in (dataset.label_map or {}).items())
    return Labelling(bool(dataset.reduce_zero_label), tuple((old, new) for old, new in pairs if old != new))


def dataset_class(name: object, *, trusted: bool) -> Any:
    """A data set's class; None where nobody registered that name. For the user's own config MMEngine may import it."""
    if not trusted:
        return registered("DATASETS", name)
    load_mmseg()
    from mmseg.registry import DATASETS

    return name if isinstance(name, type) else DATASETS.get(str(name))


def build_dataset(cls: Any, spec: Mapping[str, Any], loader: str) -> Any:
    """A data set of mmseg's, its files not looked at.

    Args:
        cls: a BaseSegDataset.
        spec: what the config says of it.
        loader: whose it is, for messages.

    Raises:
        ConfigError: the class does not take what the config says.
    """
    given = {key: value for key, value in spec.items() if key not in ("type", "_scope_", "backend_args")}
    metainfo = {**(spec.get("metainfo") or {}), "palette": []}  # one that is short of colours would be an error here
    dataset = cls.__new__(cls)
    try:
        dataset.__init__(**{**given, "metainfo": metainfo, "pipeline": [], "lazy_init": True})
    except Exception as error:
        # Some assert, once all is known, that their files are there: here they need not be.
        if isinstance(error, AssertionError) and hasattr(dataset, "pipeline"):
            return dataset
        raise ConfigError(
            expected=f"a data set of {loader} that {cls.__name__} takes",
            got=f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'no message')}",
            fix="mend it",
        ) from error
    return dataset


def config_ignore_index(config: Mapping[str, Any]) -> int:
    """The label that does not count: of the metric that mmseg evaluates with, else of the head's loss."""
    metric = _metric(config)
    if metric is not None:
        return _whole(metric.get("ignore_index", _IGNORE_INDEX))
    head = config["model"].get("decode_head") or {}
    head = head[-1] if isinstance(head, (list, tuple)) else head
    return _whole(head.get("ignore_index", _IGNORE_INDEX))


def config_nan_to_num(config: Mapping[str, Any]) -> float | None:
    """What the metric that mmseg evaluates with takes for the score of a class that does not occur; None to leave it out."""
    value = (_metric(config) or {}).get("nan_to_num")
    if value is not None and not isinstance(value, (int, float)):
        raise ConfigError(expected="a number as nan_to_num of IoUMetric", got=repr(value), fix="mend the config")
    return None if value is None else float(value)


def _metric(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for key in ("test_evaluator", "val_evaluator"):
        evaluators = config.get(key) or ()
        for one in [evaluators] if isinstance(evaluators, Mapping) else evaluators:
            if str(one.get("type")).endswith("IoUMetric"):
                found: Mapping[str, Any] = one
                return found
    return None


def _absolute(path: str) -> Path:
    return Path(os.path.normpath(Path(path).absolute()))  # links are kept: the same data set may lie elsewhere without them


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise ConfigError(expected="a whole number as ignore_index", got=repr(value), fix="mend the config")
    return value


def _layouts(config: Mapping[str, Any], split: str, *, trusted: bool) -> list[Layout]:
    """Of all data sets of a split, or none of them: a part would be taken for the whole."""
    loader = f"{split}_dataloader"
    found: list[Layout] = []
    for spec in datasets_of(config, loader):
        cls = dataset_class(spec["type"], trusted=trusted) if "type" in spec else None
        if cls is None or not _lists_its_folder(cls) or _reaches_out(spec, trusted=trusted):
            return []
        found.append(_layout_of(build_dataset(cls, spec, loader), split))
    return found


def _lists_its_folder(cls: Any) -> bool:
    from mmseg.datasets import BaseSegDataset

    return issubclass(cls, BaseSegDataset) and cls.load_data_list is BaseSegDataset.load_data_list


def _named(layout: Layout, split: str) -> Layout:
    return msgspec.structs.replace(layout, split=split)


def _reaches_out(spec: Mapping[str, Any], *, trusted: bool) -> bool:
    """Whether to construct it would fetch something, or, of a checkpoint's own config, open a file that it names."""
    metainfo = (spec.get("metainfo") or {}).values()
    places = [spec.get("data_root"), spec.get("ann_file"), *(spec.get("data_prefix") or {}).values(), *metainfo]
    return any("://" in str(place) for place in places) or (not trusted and any(isinstance(one, str) for one in metainfo))
