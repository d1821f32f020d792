"""What a folder or a config says it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdeploy.base.errors import ConfigError, InputError
from segdeploy.images.dataset import find_samples
from segdeploy.training.splits import find_dataset, role, splits_of_folder

LISTS = ("val", "test", "trainval", "aug", "mine", "trainaug", "train")


def voc_lists(root, names=LISTS):
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.txt").write_text(f"{name}_1\n\n{name}_2\n")
    return root


@pytest.mark.parametrize(
    ("split", "purpose"),
    [
        ("train", "train"),
        ("training", "train"),
        ("trainaug", "train"),
        ("aug", "train"),
        ("train-2", "train"),
        ("val", "val"),
        ("validation", "val"),
        ("test", "test"),
        ("trainval", ""),
        ("mine", ""),
    ],
)
def test_role(split, purpose):
    """By the beginning of the name; what may be several is none."""
    assert role(split) == purpose


def test_voc(tmp_path):
    """Lists in the order of their use, without the one that is two others; what SBD adds has its own label maps."""
    splits = splits_of_folder(voc_lists(tmp_path / "VOCdevkit" / "VOC2012").parent.parent).splits
    assert [split.name for split in splits] == ["train", "aug", "trainaug", "mine", "val", "test"]
    first = {split.name: split.pairs[1] for split in splits}
    voc = tmp_path / "VOCdevkit" / "VOC2012"
    assert (first["train"].image, first["train"].label) == (
        voc / "JPEGImages" / "train_2.jpg",
        voc / "SegmentationClass" / "train_2.png",
    )
    assert first["aug"].label == voc / "SegmentationClassAug" / "aug_2.png"


def test_trainval_alone(tmp_path):
    """Where it is all there is, it is looked at."""
    assert [split.name for split in splits_of_folder(voc_lists(tmp_path, ["trainval"])).splits] == ["trainval"]


def test_as_find_samples(synthetic):
    """Of a data set without faults the pairs are those that training and evaluation find."""
    dataset = splits_of_folder(synthetic)
    assert dataset.classes[:2] == ("background", "circle")
    for split in dataset.splits:
        samples = find_samples(synthetic, split.name)
        assert [(p.name, p.image, p.label) for p in split.pairs] == [(s.name, s.image, s.label) for s in samples]


@pytest.mark.parametrize("layout", [("img_dir", "ann_dir"), ("images", "annotations")])
def test_folders(tmp_path, layout):
    """A folder a split; what is no image is none of it."""
    for name in ("validation", "training"):
        folder = tmp_path / layout[0] / name
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(folder / "a.JPG", format="JPEG")
        (folder / "notes.txt").write_text("x")
    splits = splits_of_folder(tmp_path).splits
    assert [(split.name, [pair.name for pair in split.pairs]) for split in splits] == [
        ("training", ["a"]),
        ("validation", ["a"]),
    ]
    assert splits[0].pairs[0].label == tmp_path / layout[1] / "training" / "a.png"


@pytest.mark.parametrize("text", ["{", "[]", '{"names": []}', '{"classes": 3}'])
def test_class_names_that_are_none(tmp_path, text):
    """A broken classes.json is one line."""
    (tmp_path / "img_dir" / "train").mkdir(parents=True)
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(InputError, match=r"class names in .*classes\.json"):
        splits_of_folder(tmp_path)


@pytest.mark.parametrize(
    ("target", "words"),
    [("", "ImageSets/Segmentation"), ("nowhere/at/all", "nothing there"), ("upernet_r18_syntetic", "upernet_r18_synthetic.py")],
)
def test_no_data_set(tmp_path, target, words):
    """An empty folder, a path that leads nowhere, and a name that is nearly a config's."""
    with pytest.raises((InputError, ConfigError), match=words):
        find_dataset(target or str(tmp_path))


def test_data_root_with_a_folder(synthetic):
    """Two data sets are one too many."""
    with pytest.raises(InputError, match="a config with --data-root"):
        find_dataset(str(synthetic), synthetic)


def test_config(synthetic):
    """Another data set in place of the config's: the pairs of its folder, with the config's classes."""
    dataset = find_dataset("upernet_r18_synthetic", synthetic)
    assert dataset.classes[:2] == ("background", "circle")
    of_folder = splits_of_folder(synthetic.resolve())
    found, expected = (
        [(split.name, [(one.name, one.image, one.label) for one in split.pairs]) for split in whole.splits]
        for whole in (dataset, of_folder)
    )
    assert found == expected


def config_text(dataset):
    return f"""
default_scope = 'mmseg'
train_dataloader = dict(dataset={dataset})
val_dataloader = dict(dataset=dict(type='BaseSegDataset', data_root='DATA',
    data_prefix=dict(img_path='img', seg_map_path='ann'), reduce_zero_label=True, metainfo=dict(classes=('a', 'b'))))
"""


@pytest.fixture
def nested(tmp_path):
    """Frames of two scenes, numbered from 1 in each."""
    for scene in ("one", "two"):
        for folder in ("img", "ann"):
            (tmp_path / "data" / folder / scene).mkdir(parents=True)
        (tmp_path / "data" / "img" / scene / "1.jpg").write_bytes(b"x")

    def write(dataset):
        path = tmp_path / "config.py"
        path.write_text(config_text(dataset).replace("DATA", str(tmp_path / "data")))
        return str(path)

    return write


ONE = (
    "dict(type='BaseSegDataset', data_root='DATA', data_prefix=dict(img_path='img', seg_map_path='ann'), "
    "reduce_zero_label=True, metainfo=dict(classes=('a', 'b')))"
)


def test_config_of_several_data_sets(nested):
    """Each is a split; folders in folders are part of a name, so that frames of two scenes are two."""
    dataset = find_dataset(nested(f"dict(type='ConcatDataset', datasets=[{ONE}, {ONE}])"))
    assert [split.name for split in dataset.splits] == ["train", "train-2", "val"]
    assert [[pair.name for pair in split.pairs] for split in dataset.splits] == [["one/1", "two/1"]] * 3
    assert dataset.reduce_zero_label
    assert dataset.classes == ("a", "b")


def test_config_with_a_typo(nested):
    """A key that MMEngine would pass over is told, with what was meant."""
    path = nested(ONE)
    Path(path).write_text(Path(path).read_text().replace("val_dataloader", "val_dataloadr"))
    with pytest.raises(ConfigError, match="got 'val_dataloadr'; did you mean 'val_dataloader'"):
        find_dataset(path)


def test_config_with_a_typo_in_its_data(nested):
    """What mmseg's class raises becomes one line."""
    with pytest.raises(ConfigError, match="a data set of train_dataloader .*data_prefx"):
        find_dataset(nested(ONE.replace("data_prefix", "data_prefx")))


def test_config_without_data(tmp_path):
    """A config of a model alone has nothing to check."""
    path = tmp_path / "config.py"
    path.write_text("model = dict(type='EncoderDecoder')\n")
    with pytest.raises(ConfigError, match="data sets in the config"):
        find_dataset(str(path))


def test_config_whose_data_are_missing(tmp_path):
    """The folder that is not there is named."""
    with pytest.raises(InputError, match=f"nothing at '{tmp_path / 'gone'}'"):
        find_dataset("upernet_r18_synthetic", tmp_path / "gone")
