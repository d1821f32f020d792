"""What can be wrong with a VOC + SBD: one line each, no list is written, and the next run goes on."""

from __future__ import annotations

import shutil

import cv2
import pytest
from PIL import Image

from segdeploy.base.errors import InputError
from segdeploy.training import voc
from support.voc import AUG, TRAIN, VAL, labels, lists, prepare


def bad_mat(tree):
    (tree / "benchmark_RELEASE" / "dataset" / "cls" / f"{AUG[1]}.mat").write_bytes(b"MATLAB")


def no_mat(tree):
    (tree / "benchmark_RELEASE" / "dataset" / "cls" / f"{AUG[1]}.mat").unlink()


def other_size(tree):
    path = tree / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{AUG[1]}.jpg"
    cv2.imwrite(str(path), cv2.imread(str(path))[1:])


def no_image(tree):
    (tree / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{AUG[1]}.jpg").unlink()
    (tree / "benchmark_RELEASE" / "dataset" / "img" / f"{AUG[1]}.jpg").unlink()


def damaged_image(tree):
    (tree / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{AUG[1]}.jpg").write_bytes(b"\xff\xd8")


def no_label(tree):
    (tree / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"{VAL[0]}.png").unlink()


def cut_label(tree):
    path = tree / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"{VAL[0]}.png"
    path.write_bytes(path.read_bytes()[:-5])


def other_size_of_vocs_own(tree):
    Image.new("P", (9, 9)).save(tree / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"{TRAIN[0]}.png")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (bad_mat, rf"in every .mat; got 1 without: {AUG[1]} \("),
        (no_mat, rf"in every .mat; got 1 without: {AUG[1]} \(no such file"),
        (other_size, rf"their images' sizes; got 1 without: {AUG[1]} \(\d+x\d+, its image \d+x\d+\)"),
        (no_image, rf"an image for every label map; got 1 without: {AUG[1]} \(missing\)"),
        (damaged_image, rf"an image for every label map; got 1 without: {AUG[1]} \("),
        (no_label, rf"a PNG in SegmentationClass.*got 1 without: {VAL[0]}.png \(missing\)"),
        (cut_label, rf"a PNG in SegmentationClass.*got 1 without: {VAL[0]} \(no whole PNG\)"),
        (other_size_of_vocs_own, rf"sizes; got 1 without: {TRAIN[0]} \(9x9, its image"),
    ],
)
def test_faults(tree, spoil, words):
    """One line; no list is written, and mending it is all that the next run needs."""
    shutil.copytree(tree, tree.with_name("good"))
    spoil(tree)
    said = []
    with pytest.raises(InputError, match=words):
        prepare(tree, said)
    assert said == []
    assert lists(tree).keys() == {"train", "val"}
    assert f"{AUG[1]}.png" not in labels(tree) or spoil in (no_label, cut_label, other_size_of_vocs_own)
    shutil.copytree(tree.with_name("good"), tree, dirs_exist_ok=True)
    prepare(tree)
    prepare(tree.with_name("good"))
    assert labels(tree) == labels(tree.with_name("good"))


def test_many_faults(voc_sbd, tmp_path):
    """All are counted, a line a kind with the first few named; the good ones are converted."""
    rest = [f"2009_{index:06d}" for index in range(12)]
    voc_sbd(tmp_path, rest)
    folder = tmp_path / "benchmark_RELEASE" / "dataset"
    for name in rest[:7]:
        (folder / "cls" / f"{name}.mat").write_bytes(b"x" * 200)
    for name in rest[7:9]:
        path = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{name}.jpg"
        cv2.imwrite(str(path), cv2.imread(str(path))[2:])
    said = []
    with pytest.raises(InputError) as caught:
        prepare(tmp_path, said)
    lines = sorted([*said, f"error: {caught.value}"])
    assert len(lines) == 2
    assert "got 7 without: 2009_000000 (" in lines[0]
    assert "2009_000002 (" in lines[0]
    assert "2009_000003" not in lines[0]
    assert "and 4 more" in lines[0]
    assert "got 2 without: 2009_000007 (" in lines[1]
    assert {f"{name}.png" for name in rest} & labels(tmp_path).keys() == {f"{name}.png" for name in rest[9:]}
    assert "trainaug" not in lists(tmp_path)


def test_missing_label_does_not_hide_the_rest(tree):
    """What SBD has wrong is told in the same run, and the good label maps are made."""
    no_label(tree)
    bad_mat(tree)
    said = []
    with pytest.raises(InputError) as caught:
        prepare(tree, said)
    lines = sorted([*said, f"error: {caught.value}"])
    assert len(lines) == 2
    assert f"got 1 without: {AUG[1]} (" in lines[0]
    assert f"got 1 without: {VAL[0]}.png (missing)" in lines[1]
    assert labels(tree).keys() == {f"{name}.png" for name in TRAIN + VAL + AUG} - {f"{VAL[0]}.png", f"{AUG[1]}.png"}
    assert lists(tree).keys() == {"train", "val"}


def test_missing_images_and_labels_of_voc(tree):
    """Both kinds are reported."""
    no_label(tree)
    (tree / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{TRAIN[0]}.jpg").unlink()
    said = []
    with pytest.raises(InputError, match="SegmentationClass"):
        prepare(tree, said, sbd=False)
    assert len(said) == 1
    assert f"{TRAIN[0]}.jpg (missing)" in said[0]


@pytest.mark.parametrize("name", ["../../x", "a b", "/etc/passwd", ".hidden"])
def test_names_that_are_none(tree, name):
    """A name becomes a path: nothing else is let in."""
    with (tree / "benchmark_RELEASE" / "dataset" / "train.txt").open("a") as stream:
        stream.write(f"{name}\n")
    with pytest.raises(InputError, match="names of images in .*train.txt"):
        prepare(tree)


def test_lists_of_voc_that_overlap(tree):
    """An image to train and to validate on is no list of VOC's."""
    with (tree / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt").open("a") as stream:
        stream.write(f"{VAL[1]}\n")
    with pytest.raises(InputError, match=f"both train.txt and val.txt.*{VAL[1]}"):
        prepare(tree)


def test_list_missing(tree):
    """A folder without its list is one line."""
    (tree / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(InputError, match="a list of images at .*val.txt"):
        prepare(tree)


def test_lists_from_elsewhere(tree):
    """A byte order mark, Windows' line ends and empty lines are no part of a name."""
    path = tree / "benchmark_RELEASE" / "dataset" / "train.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert prepare(tree).lists.trainaug == TRAIN + AUG


def test_two_at_once(tree):
    """A second run in the same folder is told so."""
    with voc._alone(tree), pytest.raises(InputError, match="to work alone"):
        prepare(tree)
    prepare(tree)


def test_root_is_a_file(tmp_path):
    """No folder can be made there."""
    (tmp_path / "data").write_text("x")
    with pytest.raises(InputError, match="choose another --root"):
        prepare(tmp_path / "data")


def test_folder_that_cannot_be_written(tree):
    """Where a folder should be there is a file."""
    (tree / "VOCdevkit" / "VOC2012" / "SegmentationClassAug").write_text("x")
    with pytest.raises(InputError, match="a folder that can be written"):
        prepare(tree)


def test_disk_full(tree, monkeypatch):
    """A label map that cannot be written is counted like any other fault."""

    def write_file(path, data):
        raise InputError(expected="room", got="No space left on device", fix="free some")

    monkeypatch.setattr("segdeploy.training.voc_masks.write_file", write_file)
    with pytest.raises(InputError, match="room and permission to write; got 9 without: .*No space left"):
        prepare(tree)
