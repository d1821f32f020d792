import numpy as np
import pytest
from PIL import Image

from segdeploy.base.errors import InputError
from segdeploy.images.dataset import find_samples, read_label


def make_voc(root):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name in ("b", "a", "c"):
        (root / "JPEGImages" / f"{name}.jpg").touch()
        (root / "SegmentationClass" / f"{name}.png").touch()
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("b\na\n\n")


@pytest.mark.parametrize("inside", ["", "VOCdevkit/VOC2012", "VOC2012"])
def test_voc_layout(tmp_path, inside):
    """The list decides which, and in which order, wherever the user points."""
    make_voc(tmp_path / inside)
    samples = find_samples(tmp_path, "val")
    assert [sample.name for sample in samples] == ["b", "a"]
    assert samples[0].image == tmp_path / inside / "JPEGImages" / "b.jpg"
    assert samples[0].label == tmp_path / inside / "SegmentationClass" / "b.png"


@pytest.mark.parametrize(("images", "labels"), [("img_dir", "ann_dir"), ("images", "annotations")])
def test_mmsegs_layouts(tmp_path, images, labels):
    """Without lists: every picture of the split, by name."""
    for folder in (images, labels):
        (tmp_path / folder / "val").mkdir(parents=True)
    for name in ("b.jpg", "a.png", "ignored.txt"):
        (tmp_path / images / "val" / name).touch()
        (tmp_path / labels / "val" / name).with_suffix(".png").touch()
    samples = find_samples(tmp_path, "val")
    assert [sample.image.name for sample in samples] == ["a.png", "b.jpg"]
    assert [sample.label.name for sample in samples] == ["a.png", "b.png"]


def test_what_is_missing_is_named(tmp_path):
    """A missing folder, split or label map, and an empty split, are InputErrors that name it."""
    with pytest.raises(InputError, match="no such folder"):
        find_samples(tmp_path / "none", "val")
    make_voc(tmp_path / "voc")
    with pytest.raises(InputError, match="a split 'test'"):
        find_samples(tmp_path / "voc", "test")
    (tmp_path / "voc" / "SegmentationClass" / "a.png").unlink()
    with pytest.raises(InputError, match=r"1 files missing, the first '.*a\.png'"):
        find_samples(tmp_path / "voc", "val")
    (tmp_path / "empty" / "img_dir" / "val").mkdir(parents=True)
    with pytest.raises(InputError, match="got none"):
        find_samples(tmp_path / "empty", "val")


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_labels_of_every_kind(tmp_path, mode):
    """Grey, palette, one-bit and 16-bit label maps give their values."""
    values = np.array([[0, 1], [1, 0]] if mode == "1" else [[0, 3], [200, 255]])
    if mode == "P":
        picture = Image.fromarray(values.astype(np.uint8))
        picture.putpalette([7] * 768)
    else:
        kinds = {"L": np.uint8, "1": bool, "I;16": np.uint16}
        picture = Image.fromarray(values.astype(kinds[mode]))
    picture.save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_label(tmp_path / "x.png"), values)


@pytest.mark.filterwarnings("ignore:`reduce_zero_label`")
def test_reduce_zero_label_is_mmsegs(tmp_path):
    """Zero becomes void, the others move down, void stays: as mmseg's own LoadAnnotations does it."""
    from segdeploy.models.packages import load_mmseg

    load_mmseg()
    from mmseg.datasets.transforms import LoadAnnotations

    path = tmp_path / "x.png"
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(path)
    results = {"seg_map_path": str(path), "reduce_zero_label": True, "seg_fields": []}
    expected = LoadAnnotations(reduce_zero_label=True)(results)["gt_seg_map"]
    np.testing.assert_array_equal(read_label(path, reduce_zero_label=True), expected)


def test_labels_that_are_none(tmp_path):
    """A colour picture, a damaged file and a missing one are InputErrors that name the file."""
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    with pytest.raises(InputError, match="a colour picture"):
        read_label(tmp_path / "colour.png")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n123")
    for name in ("damaged.png", "none.png"):
        with pytest.raises(InputError, match=name):
            read_label(tmp_path / name)
