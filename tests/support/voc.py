"""VOC 2012 with SBD as published, made small; what the tests of its preparation look at afterwards."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segdeploy.training import voc

TRAIN, VAL = ("2007_000001", "2007_000002", "2007_000003"), ("2007_000007", "2007_000008")
AUG = ("2008_000004", "2008_000005", "2008_000006", "2008_000009")
COUNTS = {"train": 3, "val": 2, "trainaug": 7}


@pytest.fixture
def tree(voc_sbd, tmp_path):
    """Both data sets unpacked under a root."""
    voc_sbd(tmp_path / "data")
    return tmp_path / "data"


def prepare(root, said=None, **changes):
    say = (lambda line: None) if said is None else said.append
    return voc.prepare_voc(root, **{"sbd": True, "subset": True, "workers": 1, "say": say} | changes)


def lists(root):
    folder = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    return {path.stem: path.read_text() for path in folder.iterdir()}


def labels(root):
    folder = root / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def pixels(path):
    with Image.open(path) as picture:
        return np.array(picture)


def snapshot(root):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in root.rglob("*")}
