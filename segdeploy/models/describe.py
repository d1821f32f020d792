"""From a Checkpoint to an mmseg model, and to what a manifest says of it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from segdeploy import __version__
from segdeploy.artifact.layout import Labelling, Layout
from segdeploy.artifact.manifest import (
    SCHEMA,
    Axis,
    Bounds,
    FileEntry,
    Format,
    Inference,
    InputSpec,
    Lineage,
    Manifest,
    OutputSpec,
    Pad,
    Postprocess,
    Precision,
    Preprocess,
    Toolchain,
)
from segdeploy.base.errors import ConfigError
from segdeploy.base.versions import version_of
from segdeploy.images.palette import completed_palette
from segdeploy.models.checkpoint import Checkpoint
from segdeploy.models.datasets import config_ignore_index, config_layouts, config_nan_to_num, dataset_class, datasets_of
from segdeploy.models.pipeline import pipeline_resize
from segdeploy.models.supported import check_padded_slide, head_config, threshold

_ANY = 1 << 16


def default_name(checkpoint: Checkpoint, config: str | None = None) -> str:
    """What to call the exports of a checkpoint: its folder's name for a numbered, 'best' or random file, else its own."""
    if checkpoint.path is None:
        return Path(str(config).split("::")[-1]).stem
    stem = checkpoint.path.stem
    if stem.startswith(("epoch_", "iter_", "best_", "latest", "random-weights")):
        return checkpoint.path.resolve().parent.name
    return stem


def describe(
    checkpoint: Checkpoint,
    *,
    name: str,
    fmt: Format,
    precision: Precision = "fp32",
    batch: Axis | None = None,
    height: Axis | None = None,
    width: Axis | None = None,
    files: tuple[FileEntry, ...] = (),
) -> Manifest:
    """Everything that a manifest says before the model is exported.

    Args:
        checkpoint: what to describe.
        name: the artifact's name.
        fmt: its format.
        precision: its arithmetic.
        batch: axis N; None for any (a checkpoint run as it is has no bounds).
        height: axis H, likewise.
        width: axis W, likewise.
        files: only for what is not written through ``write_artifact`` (a checkpoint run as it is).

    Raises:
        ConfigError: the config asks for something that segdeploy does not do.
    """
    model = checkpoint.config["model"]
    head = head_config(model)
    outputs = int(head.get("out_channels") or head.get("num_classes", 0))
    binary = outputs == 1
    classes, palette = _labels(checkpoint, 2 if binary else outputs)
    layouts = config_layouts(checkpoint.config, trusted=checkpoint.config_trusted)
    labelling = _labelling(layouts, checkpoint)
    crop_h, crop_w = crop_size(checkpoint.config)
    mask_dtype = "uint8" if len(classes) <= 256 else "int32"
    inference = _inference(model.get("test_cfg") or {})
    preprocess = _preprocess(checkpoint.config)
    check_padded_slide(preprocess.pad, inference)
    axes = (
        batch if batch is not None else Bounds(min=1, opt=1, max=_ANY),
        height if height is not None else Bounds(min=1, opt=crop_h, max=_ANY),
        width if width is not None else Bounds(min=1, opt=crop_w, max=_ANY),
    )
    return Manifest(
        schema=SCHEMA,
        name=name,
        format=fmt,
        precision=precision,
        files=files,
        input=InputSpec(name="image", dtype="uint8", layout="NHWC", shape=(*axes, 3)),
        outputs=(
            OutputSpec(name="mask", dtype=mask_dtype, layout="NHW"),
            OutputSpec(name="logits", dtype="float32", layout="NKhw"),
        ),
        preprocess=preprocess,
        postprocess=Postprocess(
            resize="bilinear",
            align_corners=bool(head.get("align_corners", False)),
            reduce="threshold" if binary else "argmax",
            threshold=threshold(head) if binary else None,
        ),
        inference=inference,
        classes=classes,
        palette=palette,
        ignore_index=config_ignore_index(checkpoint.config),
        nan_to_num=config_nan_to_num(checkpoint.config),
        reduce_zero_label=labelling.reduce_zero_label,
        label_map=labelling.label_map,
        layouts=layouts,
        lineage=Lineage(
            checkpoint_sha256=checkpoint.sha256,
            config_sha256=checkpoint.config_sha256,
            random_weights=checkpoint.random_weights,
            checkpoint=str(checkpoint.path.resolve()) if checkpoint.path else None,
            data_root=_data_root(layouts, checkpoint.config),
        ),
        toolchain=Toolchain(segdeploy=__version__, python=platform.python_version(), torch=version_of("torch")),
    )


def dataset_meta(checkpoint: Checkpoint) -> dict[str, Any]:
    """Classes, palette and reduce_zero_label: as the training recorded them, else as the config's data set says."""
    meta: Mapping[str, Any] = checkpoint.dataset_meta
    datasets = list(_datasets(checkpoint.config, trusted=checkpoint.config_trusted))
    if not _names(meta.get("classes")):
        meta = next((d for d in datasets if _names(d.get("classes"))), {})
    elif "reduce_zero_label" not in meta and datasets:  # mmseg 0.x recorded classes and palette alone
        meta = {**meta, "reduce_zero_label": datasets[0].get("reduce_zero_label", False)}
    return {key: meta[key] for key in ("classes", "palette", "reduce_zero_label") if key in meta}


def _labels(checkpoint: Checkpoint, count: int) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    meta = dataset_meta(checkpoint)
    if count < 2:
        raise ConfigError(expected="a decode head with num_classes", got="none", fix="pass the right config: --config FILE")
    classes = _names(meta.get("classes")) or tuple(f"class_{i}" for i in range(count))
    if len(classes) != count:
        raise ConfigError(
            expected=f"{count} class names, as the decode head has",
            got=f"{len(classes)}",
            fix="check metainfo and num_classes in the config",
        )
    palette, _ = completed_palette(meta.get("palette"), count)
    return classes, palette


def palette_note(checkpoint: Checkpoint) -> str | None:
    """What to tell of colours that nobody gave; None where every class has its own."""
    given = dataset_meta(checkpoint).get("palette")
    classes = describe(checkpoint, name="x", fmt="eager").classes
    made = completed_palette(given, len(classes))[1]
    extra = max(len(given) - len(classes), 0) if given is not None and hasattr(given, "__len__") else 0
    if made:
        return f"the palette of {checkpoint.source} has no colour for {made} of {len(classes)} classes: they get distinct ones"
    if extra:
        return f"the palette of {checkpoint.source} has {extra} colours more than classes: they are left out"
    return None


def _names(given: Any) -> tuple[str, ...]:
    """Class names as a list, a tuple or an array has them; none where a file is named instead, or nothing."""
    if given is None or isinstance(given, (str, bytes)):
        return ()
    try:
        return tuple(str(one) for one in given)
    except TypeError:
        return ()


def _labelling(layouts: Sequence[Layout], checkpoint: Checkpoint) -> Labelling:
    """Of what the model is validated on; where the config does not say, as the training recorded it."""
    for split in ("val", "train"):
        for one in layouts:
            if one.split == split and one.labelling is not None:
                return one.labelling
    label_map = checkpoint.dataset_meta.get("label_map") or {}
    pairs = tuple((int(old), int(new)) for old, new in label_map.items())
    return Labelling(bool(dataset_meta(checkpoint).get("reduce_zero_label")), pairs)


def _datasets(config: Mapping[str, Any], *, trusted: bool) -> Iterator[Mapping[str, Any]]:
    """What the config says of its validation data: the dataset's metainfo, then what its class declares."""
    for loader in ("val_dataloader", "test_dataloader", "train_dataloader"):
        dataset = (config.get(loader) or {}).get("dataset") or {}
        yield dict(dataset.get("metainfo") or {}, reduce_zero_label=dataset.get("reduce_zero_label", False))
        if "type" in dataset:
            cls = dataset_class(dataset["type"], trusted=trusted)
            if cls is not None:
                yield dict(getattr(cls, "METAINFO", {}), reduce_zero_label=dataset.get("reduce_zero_label", False))


def _data_root(layouts: Sequence[Layout], config: Mapping[str, Any]) -> str | None:
    known = (one.root for one in layouts if one.split == "val")
    named = (str(Path(one["data_root"]).resolve()) for one in datasets_of(config, "val_dataloader") if one.get("data_root"))
    return next(chain(known, named), None)


def crop_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """The (H, W) that a config trains at."""
    size = config.get("crop_size") or (config["model"].get("data_preprocessor") or {}).get("size") or (512, 512)
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _preprocess(config: Mapping[str, Any]) -> Preprocess:
    spec = config["model"].get("data_preprocessor") or config.get("data_preprocessor") or {}
    mean, std = spec.get("mean"), spec.get("std")
    return Preprocess(
        color="rgb" if spec.get("bgr_to_rgb") else "bgr",
        mean=_triple(mean, 0.0),
        std=_triple(std, 1.0),
        resize=pipeline_resize(config),
        pad=_pad(spec.get("test_cfg") or {}, float(spec.get("pad_val") or 0)),
    )


def _pad(test_cfg: Mapping[str, Any], value: float) -> Pad | None:
    size, divisor = test_cfg.get("size"), test_cfg.get("size_divisor")
    if not test_cfg:
        return None
    if (size is None) == (divisor is None):
        raise ConfigError(
            expected="one of 'size' and 'size_divisor' in data_preprocessor.test_cfg", got=str(dict(test_cfg)), fix="mend it"
        )
    return Pad(size=_pair(size) if size is not None else None, divisor=divisor and int(divisor), value=value)


def _triple(values: Any, default: float) -> tuple[float, float, float]:
    numbers = tuple(float(v) for v in values) if values is not None else (default,) * 3
    if len(numbers) != 3:
        raise ConfigError(expected="mean and std of three channels", got=f"{len(numbers)}", fix="only RGB models are supported")
    return numbers


def _inference(test_cfg: Mapping[str, Any]) -> Inference:
    if test_cfg.get("mode", "whole") == "whole":
        return Inference(mode="whole")
    return Inference(mode="slide", crop=_pair(test_cfg["crop_size"]), stride=_pair(test_cfg["stride"]))


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)
