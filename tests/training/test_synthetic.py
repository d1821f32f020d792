from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from segdeploy.base.errors import InputError
from segdeploy.images.dataset import find_samples
from segdeploy.images.palette import distinct_palette
from segdeploy.training.fills import FILLS, patterned_fill
from segdeploy.training.synthetic import MOST_CLASSES, VOID, class_names, write_synthetic_voc


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def write(root, **changes):
    write_synthetic_voc(root, **{"train": 3, "val": 4, "size": (48, 64), "classes": 5, "seed": 3} | changes)
    return root


def test_layout(synthetic):
    """The lists name exactly the images and label maps that lie in VOC's folders."""
    voc = synthetic / "VOCdevkit" / "VOC2012"
    lists = {p.stem: p.read_text().split() for p in (voc / "ImageSets" / "Segmentation").iterdir()}
    assert {name: len(stems) for name, stems in lists.items()} == {"train": 8, "val": 5, "trainval": 13}
    assert lists["trainval"] == lists["train"] + lists["val"]
    assert {p.stem for p in (voc / "JPEGImages").glob("*.jpg")} == set(lists["trainval"])
    assert {p.stem for p in (voc / "SegmentationClass").glob("*.png")} == set(lists["trainval"])
    described = json.loads((synthetic / "classes.json").read_text())
    assert described["classes"] == list(class_names(5))
    assert [tuple(colour) for colour in described["palette"]] == list(distinct_palette(5))


def test_label_maps(synthetic):
    """Label maps are palette PNGs of the image's size, in VOC's colours, with nothing but classes and void."""
    for split in ("train", "val"):
        for sample in find_samples(synthetic, split):
            with Image.open(sample.label) as label, Image.open(sample.image) as image:
                assert label.mode == "P"
                assert label.size == image.size
                assert tuple(label.getpalette()[:15]) == sum(distinct_palette(5), ())
                assert set(np.unique(label)) <= {0, 1, 2, 3, 4, VOID}


def test_void_border(synthetic):
    """Void parts every object from the background, and is thin."""
    for sample in find_samples(synthetic, "train"):
        with Image.open(sample.label) as picture:
            label = np.array(picture).astype(int)
        for first, second in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            touching = (first != second) & (first != VOID) & (second != VOID)
            assert not touching.any()
        assert 0 < (label == VOID).mean() < 0.25


def test_validation_sizes_vary(tmp_path):
    """Some validation images have another size, so that dynamic shapes are met; training images have one."""
    root = write(tmp_path / "data", val=12)
    sizes = {split: {Image.open(s.image).size for s in find_samples(root, split)} for split in ("train", "val")}
    assert sizes["train"] == {(64, 48)}
    assert len(sizes["val"]) == 4


def test_deterministic(tmp_path):
    """The same arguments give the same bytes; another seed gives other images."""
    first, again, other = (digests(write(tmp_path / name, seed=seed)) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert first == again
    assert first != other
    assert first.keys() == other.keys()


def test_images_do_not_depend_on_their_number(tmp_path):
    """More images leave the first ones as they were."""
    few, many = digests(write(tmp_path / "few")), digests(write(tmp_path / "many", train=5))
    common = [name for name in few if name.endswith((".jpg", ".png"))]
    assert all(few[name] == many[name] for name in common)


def test_written_again_without_rests(tmp_path):
    """An older data set is replaced, not mixed with the new one."""
    root = write(tmp_path / "data", train=6)
    write(root, train=2)
    assert len(list(root.rglob("*.jpg"))) == 2 + 4
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_other_folder_is_not_overwritten(tmp_path):
    """A folder with something else in it is refused and left alone."""
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="would be overwritten"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def labels_of(root, split):
    return {label for sample in find_samples(root, split) for label in np.unique(np.array(Image.open(sample.label)))}


@pytest.mark.parametrize("split", ["train", "val"])
def test_few_classes_are_all_met(tmp_path, split):
    """Up to 21 classes are drawn at random: in 90 images each occurs."""
    root = write(tmp_path / "data", **{"train": 1, "val": 1, "classes": 21, split: 90})
    assert labels_of(root, split) == {*range(21), VOID}


@pytest.mark.parametrize(("classes", "size"), [(22, (32, 32)), (60, (48, 64)), (MOST_CLASSES, (48, 64))])
def test_many_classes_are_all_met(tmp_path, classes, size):
    """Of more, as many images as classes hold each of them."""
    root = write(tmp_path / "data", train=classes - 1, val=2, size=size, classes=classes)
    assert labels_of(root, "train") == {*range(classes), VOID}


def test_names_and_colours_are_distinct():
    """255 classes have as many names and colours, and the first of them do not depend on how many there are."""
    names = class_names(MOST_CLASSES)
    assert len(set(names)) == len(set(distinct_palette(MOST_CLASSES))) == MOST_CLASSES == 255
    assert names[:21] == class_names(21)
    assert (names[11], names[21]) == ("striped circle", "red dotted circle")


def test_classes_differ_where_they_should():
    """One outline, drawn by the same random numbers in every fill: no two surfaces are alike."""
    rows, columns = np.mgrid[-20:20, -20:20]
    surfaces = [patterned_fill(np.random.default_rng(0), rows, columns, 20, fill) for fill in range(2, len(FILLS))]
    for index, surface in enumerate(surfaces):
        for other in surfaces[:index]:
            assert np.abs(surface - other).mean() > 15


@pytest.mark.parametrize("size", [(1024, 2048), (48, 64), (33, 200)])
def test_sizes(tmp_path, size):
    """From large to small, images and labels have the size asked for, and objects their share of it."""
    root = write(tmp_path / "data", train=1, val=1, size=size, classes=60)
    (sample,) = find_samples(root, "train")
    label = np.array(Image.open(sample.label))
    assert Image.open(sample.image).size == label.shape[::-1] == size[::-1]
    objects = (label != 0) & (label != VOID)
    assert 0.02 < objects.sum() / min(size) ** 2 < 1.2


@pytest.mark.parametrize(
    "changes",
    [{"train": 0}, {"val": 0}, {"size": (8, 64)}, {"size": (64, 8193)}, {"classes": 1}, {"classes": MOST_CLASSES + 1}],
)
def test_senseless_numbers(tmp_path, changes):
    """Numbers that make no data set are refused, and nothing is written."""
    with pytest.raises(InputError):
        write(tmp_path / "data", **changes)
    assert not list(tmp_path.iterdir())
