"""Data sets as mmseg's users have them: mIoU of the config's own, held against mmseg's own Runner.test() on it."""

from __future__ import annotations

import copy
import shutil

import cv2
import msgspec
import numpy as np
import pytest

from segdeploy.base.errors import InputError
from segdeploy.images.dataset import find_samples
from segdeploy.runtime import open_session
from segdeploy.runtime.evaluation import evaluate
from segdeploy.runtime.open import eager_artifact
from support.data import CLASSES, PALETTE, shapes_image

SIZES = ((75, 100), (120, 80), (49, 41), (64, 96))
# The tiny model's classes by the names of other data sets, in another order than theirs.
CITYSCAPES = {"car": 13, "road": 0, "sky": 10, "person": 11, "building": 2}
ADE = {"sky": 2, "tree": 4, "wall": 0, "door": 14, "car": 20}
PREFIX = {"img_path": "img", "seg_map_path": "ann"}
OWN = {"type": "BaseSegDataset", "metainfo": {"classes": CLASSES, "palette": PALETTE}, "data_prefix": PREFIX}


def recoded(label, codes, void):
    table = np.full(256, void, np.uint16)
    table[: len(codes)] = codes
    return table[label]


def write(root, names, *, codes=range(5), void=255, suffixes=(".png", ".png"), folders=("img", "ann"), dtype=np.uint8, seed=5):
    """Labelled pictures of the given names; label maps hold ``codes`` in place of the classes 0 to 4."""
    random = np.random.default_rng(seed)
    for name, size in zip(names, SIZES, strict=False):
        image, label = shapes_image(random, *size)
        for folder, suffix, pixels in zip(
            folders, suffixes, (image[..., ::-1], recoded(label, codes, void).astype(dtype)), strict=True
        ):
            path = root / folder / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)


def cityscapes(root):
    """A subset of the classes in another order, other classes in the label maps, towns in folders, suffixes of its own."""
    prefix = {"img_path": "leftImg8bit/val", "seg_map_path": "gtFine/val"}
    suffixes = "_leftImg8bit.png", "_gtFine_labelTrainIds.png"
    codes = list(CITYSCAPES.values())
    write(root, ["ulm/1", "bonn/2", "bonn/1"], codes=codes, void=5, suffixes=suffixes, folders=prefix.values())
    write(root, ["a-b/1"], codes=codes, suffixes=suffixes, folders=prefix.values(), seed=6)
    metainfo = {"classes": tuple(CITYSCAPES), "palette": PALETTE}
    return {"type": "CityscapesDataset", "data_root": str(root), "data_prefix": prefix, "metainfo": metainfo}


def ade(root):
    """0 is void, the others count from 1, and a subset of them are the classes; other classes in the label maps."""
    prefix = {"img_path": "images/validation", "seg_map_path": "annotations/validation"}
    codes = [number + 1 for number in ADE.values()]
    write(root, "ab", codes=codes, void=0, suffixes=(".jpg", ".png"), folders=prefix.values())
    write(root, "cd", codes=codes, void=33, suffixes=(".jpg", ".png"), folders=prefix.values(), seed=6)
    metainfo = {"classes": list(ADE), "palette": PALETTE}
    return {"type": "mmseg.ADE20KDataset", "data_root": str(root), "data_prefix": prefix, "metainfo": metainfo}


def reduced(root):
    """0 is void in a data set of one's own."""
    write(root, "abcd", codes=range(1, 6), void=0)
    return OWN | {"data_root": str(root), "img_suffix": ".png", "reduce_zero_label": True}


def listed(root):
    """A list of some of them in an order of its own, folders in the names, suffixes on both sides."""
    write(root, ["x/1", "x/2", "y/1", "z"], suffixes=("_photo.png", "_truth.png"))
    (root / "lists").mkdir()
    (root / "lists" / "some.txt").write_text("y/1 \nx/1\nz\n")
    suffixes = {"img_suffix": "_photo.png", "seg_map_suffix": "_truth.png"}
    return OWN | suffixes | {"data_root": str(root), "ann_file": "lists/some.txt"}


def first_only(root):
    """``indices``, and no data_root: the prefixes say all."""
    write(root, "abcd")
    prefix = {key: str(root / folder) for key, folder in PREFIX.items()}
    return OWN | {"img_suffix": ".png", "data_prefix": prefix, "indices": [2, 0]}


def wrapped(root):
    """Two data sets in one, each with its own meaning of 0, repeated."""
    write(root / "one", "ab", codes=range(1, 6), void=0)
    write(root / "two", "cd", seed=6)
    parts = [
        OWN | {"data_root": str(root / "one"), "img_suffix": ".png", "reduce_zero_label": True},
        OWN | {"data_root": str(root / "two"), "img_suffix": ".png"},
    ]
    return {
        "type": "RepeatDataset",
        "times": 1,
        "dataset": {"type": "ConcatDataset", "datasets": parts, "ignore_keys": ["reduce_zero_label"]},
    }


def sixteen_bits(root):
    """Label maps of 16 bits."""
    write(root, "abcd", dtype=np.uint16)
    return OWN | {"data_root": str(root), "img_suffix": ".png"}


def void_is_254(root):
    """Another value than 255 does not count."""
    write(root, "abcd", void=254)
    return OWN | {"data_root": str(root), "img_suffix": ".png", "ignore_index": 254}


def void_is_0(root):
    """A class does not count, though it may be predicted."""
    write(root, "abcd", void=0)
    return OWN | {"data_root": str(root), "img_suffix": ".png", "ignore_index": 0}


def unlabelled(root):
    """A class that no label map has."""
    write(root, "abcd", codes=(0, 1, 2, 3, 255))
    return OWN | {"data_root": str(root), "img_suffix": ".png"}


FIT = [{"type": "Resize", "scale": (96, 64), "keep_ratio": True}]
CASES = {
    "cityscapes": (cityscapes, {}, FIT),
    "ade": (ade, {}, [{"type": "Resize", "scale": 80, "interpolation": "area"}]),
    "reduced": (reduced, {}, FIT),
    "listed": (listed, {}, [{"type": "Resize", "scale_factor": 0.7, "interpolation": "nearest"}]),
    "first_only": (first_only, {}, FIT),
    "wrapped": (wrapped, {}, FIT),
    "sixteen_bits": (sixteen_bits, {}, [*FIT, {"type": "ResizeToMultiple", "size_divisor": 32}]),
    "void_is_254": (void_is_254, {"ignore_index": 254}, [{"type": "ResizeShortestEdge", "scale": 60, "max_size": 80}]),
    "void_is_0": (void_is_0, {"ignore_index": 0}, FIT),
    "unlabelled_counts": (unlabelled, {"nan_to_num": 0}, FIT),
}


def with_pipeline(dataset, pipeline):
    if "datasets" in dataset:
        return dataset | {"datasets": [with_pipeline(one, pipeline) for one in dataset["datasets"]]}
    if "dataset" in dataset:
        return dataset | {"dataset": with_pipeline(dataset["dataset"], pipeline)}
    return dataset | {"pipeline": pipeline}


@pytest.fixture(scope="module")
def checkpoint_of(checkpoint_path, config_values, tmp_path_factory):
    """Writes the tiny checkpoint with another data set, options of the metric and pipeline in its config."""
    import torch
    from mmengine.config import Config

    def make(name, dataset, metric, resizes):
        load, *rest = [step for step in config_values["test_pipeline"] if step["type"] != "Resize"]
        values = copy.deepcopy(config_values)
        values["test_dataloader"]["dataset"] = with_pipeline(dataset, [load, *resizes, *rest])
        values["val_dataloader"] = values["test_dataloader"]
        values["test_evaluator"] = {"type": "IoUMetric", "iou_metrics": ["mIoU"], **metric}
        checkpoint = torch.load(checkpoint_path, weights_only=True)
        checkpoint["meta"] = {"cfg": Config(values).pretty_text, "epoch": 1, "iter": 60}
        path = tmp_path_factory.mktemp("checkpoints") / f"{name}.pth"
        torch.save(checkpoint, path)
        return path

    return make


@pytest.fixture(scope="module", params=CASES)
def case(request, checkpoint_of, tmp_path_factory):
    """A data set of each kind, and a checkpoint whose config has it."""
    make, metric, resizes = CASES[request.param]
    root = tmp_path_factory.mktemp(request.param) / "data"
    root.mkdir()
    return checkpoint_of(request.param, make(root), metric, resizes)


def test_is_mmsegs_runner(case, run_mmseg):
    """The config's own data set, where it says, read as it says: mIoU to the last digit that mmseg prints."""
    expected = run_mmseg(case, own_data=True)
    with open_session(eager_artifact(case), "cpu") as session:
        result = evaluate(session, find_samples(None, "val", session.artifact.manifest))
    assert {"aAcc": result.aacc, "mIoU": result.miou, "mAcc": result.macc} == pytest.approx(expected, abs=0.01)
    assert 20 < result.miou < 99, "a score at either end would prove little"


def test_at_another_place(case, tmp_path):
    """The same data set at another root, by the manifest alone: the same samples in the same order, read in the same way."""
    manifest = eager_artifact(case).manifest
    manifest = msgspec.json.decode(msgspec.json.encode(manifest), type=type(manifest))
    here = find_samples(None, "val", manifest)
    own, *others = sorted({one.root for one in manifest.layouts})
    moved = shutil.copytree(own, tmp_path / "moved")
    if others:  # two that lie alike, and mean different things by 0
        with pytest.raises(InputError, match="got several that lie like it"):
            find_samples(moved, "val", manifest)
        return
    expected = [(one.name, moved / one.image.relative_to(own), one.labelling) for one in here]
    found = find_samples(moved, "val", manifest)
    assert [(one.name, one.image, one.labelling) for one in found] == expected
    assert len(found) > 1
    assert all(one.label.is_relative_to(moved) for one in found)


def test_void_that_is_not_the_configs(checkpoint_of, tmp_path):
    """255 where another value is void: mmseg counts each such pixel as a wrong prediction; here it is said, in one line."""
    write(tmp_path, "ab")
    dataset = OWN | {"data_root": str(tmp_path), "img_suffix": ".png"}
    artifact = eager_artifact(checkpoint_of("other_void", dataset, {"ignore_index": 254}, FIT))
    with (
        open_session(artifact, "cpu") as session,
        pytest.raises(InputError, match=r"254 \(void\).*got the value 255.*ignore_index"),
    ):
        evaluate(session, find_samples(tmp_path, "val", artifact.manifest))
