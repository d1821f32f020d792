"""Every kind of fault, planted in a small data set; class frequencies against a count by hand."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from segdeploy.training.check import KINDS, check
from segdeploy.training.splits import Dataset, find_dataset, splits_of_folder

SIZE = (12, 20)
CLASSES = ("sky", "road", "car")


def write_pair(root, split, name, label, *, seed, suffix="png"):
    for folder in (root / "img_dir" / split, root / "ann_dir" / split):
        folder.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (*label.shape, 3), dtype=np.uint8)
    Image.fromarray(image).save(root / "img_dir" / split / f"{name}.{suffix}")
    Image.fromarray(label).save(root / "ann_dir" / split / f"{name}.png")


def random_label(seed):
    label = np.random.default_rng(seed).integers(0, len(CLASSES), SIZE, dtype=np.uint8)
    label[:2] = 255
    return label


@pytest.fixture
def clean(tmp_path):
    """Four images to train and two to validate on, with the names of their three classes."""
    root = tmp_path / "data"
    for index in range(6):
        write_pair(root, "train" if index < 4 else "val", f"p{index}", random_label(index), seed=index)
    (root / "classes.json").write_text('{"classes": ["sky", "road", "car"]}')
    return root


def look(root, **changes):
    return check(splits_of_folder(root), **{"workers": 1} | changes)


def found(report):
    return {finding.kind: (finding.severity, finding.count, finding.examples) for finding in report.findings}


def test_clean(clean):
    """Nothing is found where nothing is wrong."""
    report = look(clean)
    assert report.findings == ()
    assert report.faults == 0
    assert [(split.name, split.images) for split in report.splits] == [("train", 4), ("val", 2)]
    assert (report.classes, report.classes_are_guessed) == (CLASSES, False)


def test_frequencies(clean):
    """Pixels and images of each class and of void, as numpy counts them in what Pillow reads."""
    write_pair(clean, "val", "one", np.full((5, 9), 2, np.uint8), seed=9)
    for split in look(clean).splits:
        labels = [np.asarray(Image.open(path)) for path in (clean / "ann_dir" / split.name).iterdir()]
        assert split.pixels == tuple(sum((one == label).sum() for one in labels) for label in (0, 1, 2, 255))
        assert split.images_with == tuple(sum((one == label).any() for one in labels) for label in (0, 1, 2, 255))


def test_everything_at_once(clean):
    """All kinds but those of lists, in one run: each with its number and where it is."""
    train, val = clean / "ann_dir" / "train", clean / "ann_dir" / "val"
    images = clean / "img_dir"
    (images / "test").mkdir()  # no image listed
    (train / "p0.png").unlink()  # label map missing
    Image.fromarray(random_label(0)).save(val / "alone.png")  # label map of no image
    (images / "train" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")  # image cannot be read
    Image.fromarray(random_label(1)).save(train / "broken.png")
    write_pair(clean, "train", "cut", random_label(2), seed=20)  # label map cannot be read
    (train / "cut.png").write_bytes((train / "cut.png").read_bytes()[:40])
    for index in range(7):  # label map is a colour picture
        write_pair(clean, "train", f"colour{index}", random_label(3), seed=30 + index)
        Image.new("RGB", SIZE[::-1], (128, 64, 128)).save(train / f"colour{index}.png")
    write_pair(clean, "val", "size", random_label(4), seed=40)  # sizes differ
    Image.fromarray(random_label(4)[1:]).save(val / "size.png")
    strange = random_label(5)
    strange[0, :8] = (3, 7, 9, 11, 13, 15, 200, 254)
    write_pair(clean, "val", "strange", strange, seed=50)  # label out of range
    write_pair(clean, "val", "twin", random_label(6), seed=1, suffix="bmp")  # the picture of train's p1, in another format
    write_pair(clean, "val", "p2", random_label(7), seed=60)  # the name of train's p2, another picture
    write_pair(clean, "val", "void", np.full(SIZE, 255, np.uint8), seed=70)
    write_pair(clean, "train", "void", np.full(SIZE, 255, np.uint8), seed=71)
    report = look(clean)
    image = {split: images / split for split in ("train", "val")}
    shown = found(report)
    reasons = {kind: shown[kind][2] for kind in ("image cannot be read", "label map cannot be read")}
    assert reasons["image cannot be read"][0].startswith(f"{image['train'] / 'broken.jpg'}: ")
    assert reasons["label map cannot be read"][0].startswith(f"{train / 'cut.png'}: ")
    assert shown == {
        "no image listed": ("fault", 1, (str(images / "test"),)),
        "label map missing": ("fault", 1, (str(train / "p0.png"),)),
        "label map of no image": ("fault", 1, (str(val / "alone.png"),)),
        "image cannot be read": ("fault", 1, reasons["image cannot be read"]),
        "label map cannot be read": ("fault", 1, reasons["label map cannot be read"]),
        "label map is a colour picture": (
            "fault",
            7,
            tuple(f"{train / f'colour{index}.png'}: a colour picture (mode RGB)" for index in range(5)),
        ),
        "sizes differ": ("fault", 1, (f"{val / 'size.png'}: 20x11, its image 20x12",)),
        "label out of range": ("fault", 1, (f"{val / 'strange.png'}: 3, 7, 9, 11, 13 ..., where 0 to 2 are classes",)),
        "same picture in two splits": (
            "fault",
            1,
            (f"{image['train'] / 'p1.png'} in train is {image['val'] / 'twin.bmp'} in val",),
        ),
        "same name in two splits": (
            "note",
            2,
            ("p2 in train and val, other pictures", "void in train and val, other pictures"),
        ),
        "nothing but void": ("note", 2, (str(train / "void.png"), str(val / "void.png"))),
    }
    assert report.faults == 15
    assert list(shown) == [kind for kind in KINDS if kind in shown]


def test_lists(voc_sbd, tmp_path):
    """What only lists can have wrong: names that lead nowhere, twice, or to what is held out; in every list, told once."""
    voc, _ = voc_sbd(tmp_path)
    lists = voc / "ImageSets" / "Segmentation"
    with (lists / "train.txt").open("a") as stream:
        stream.write("2007_000001\n2007_000008\nnowhere\n")
    shutil.copy(lists / "train.txt", lists / "train_copy.txt")
    (lists / "test.txt").write_text("\n")
    (lists / "val_bytes.txt").write_bytes(b"\xff\xfe\x00")
    shown = found(look(tmp_path))
    shown.pop("class never occurs")
    assert shown == {
        "no image listed": ("fault", 2, (f"{lists / 'val_bytes.txt'}: not text", str(lists / "test.txt"))),
        "listed twice": ("fault", 2, ("2007_000001 in train (2 times)", "2007_000001 in train_copy (2 times)")),
        "image missing": ("fault", 1, (str(voc / "JPEGImages" / "nowhere.jpg"),)),
        "label map missing": ("fault", 1, (str(voc / "SegmentationClass" / "nowhere.png"),)),
        "in two splits": ("fault", 1, (f"{voc / 'JPEGImages' / '2007_000008.jpg'} in train and train_copy and val",)),
    }


def save(values, path):
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def rename_both(root, old, new):
    for folder in ("img_dir", "ann_dir"):
        (root / folder / old).rename(root / folder / new)


# One thing made wrong with the files of the clean data set, or with its lists.
WRONG_FILES = {
    "no image listed": lambda root: (root / "img_dir/test").mkdir(),
    "label map missing": lambda root: (root / "ann_dir/train/p0.png").unlink(),
    "label map of no image": lambda root: save(random_label(0), root / "ann_dir/train/alone.png"),
    "image cannot be read": lambda root: (root / "img_dir/train/p0.png").write_bytes(b"no picture"),
    "label map cannot be read": lambda root: (root / "ann_dir/train/p0.png").write_bytes(b"no picture"),
    "label map is a colour picture": lambda root: save(np.zeros((*SIZE, 3)), root / "ann_dir/train/p0.png"),
    "sizes differ": lambda root: save(random_label(0)[1:], root / "ann_dir/train/p0.png"),
    "label out of range": lambda root: save(np.full(SIZE, len(CLASSES)), root / "ann_dir/train/p0.png"),
    "same picture in two splits": lambda root: shutil.copy(root / "img_dir/train/p0.png", root / "img_dir/val/p4.png"),
    "same name in two splits": lambda root: rename_both(root, "val/p4.png", "val/p0.png"),
    "nothing but void": lambda root: save(np.full(SIZE, 255), root / "ann_dir/train/p0.png"),
    "class never occurs": lambda root: [save(np.zeros(SIZE), path) for path in (root / "ann_dir/val").iterdir()],
}
WRONG_LISTS = {
    "listed twice": lambda train, val: ((*train, train[0]), val),
    "in two splits": lambda train, val: (train, (*val, train[0])),
    "image missing": lambda train, val: ((replace(train[0], image=train[0].image.with_name("no.png")), *train[1:]), val),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_alone(kind, clean):
    """Each kind of thing that can be wrong is found where it is all that is wrong, and taken for nothing else."""
    if kind in WRONG_LISTS:
        dataset = splits_of_folder(clean)
        pairs = WRONG_LISTS[kind](*(split.pairs for split in dataset.splits))
        dataset = replace(dataset, splits=tuple(map(lambda one, new: replace(one, pairs=new), dataset.splits, pairs)))
    else:
        WRONG_FILES[kind](clean)
        dataset = splits_of_folder(clean)
    assert [one.kind for one in check(dataset, workers=1).findings] == [kind]


def test_class_that_never_occurs(clean):
    """Told once, with the splits that lack it; a split without labels lacks nothing."""
    for path in (clean / "ann_dir" / "val").iterdir():
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(path)
    (clean / "img_dir" / "test").mkdir()
    shown = found(look(clean, classes=4))
    assert shown["class never occurs"] == (
        "note",
        3,
        ("label 1 in val", "label 2 in val", "label 3 in train, val"),
    )


def test_classes_unknown(clean):
    """Without names their number is that of the largest label; what no uint8 label map can hold is out of range."""
    (clean / "classes.json").unlink()
    label = random_label(0).astype(np.uint16)
    label[3, :3] = (6, 300, 40000)
    write_pair(clean, "train", "deep", label, seed=90)
    report = look(clean)
    assert report.classes_are_guessed
    assert report.classes == tuple(f"label {index}" for index in range(7))
    assert found(report)["label out of range"][2] == (
        f"{clean / 'ann_dir' / 'train' / 'deep.png'}: 300, 40000, where 0 to 254 are classes",
    )


def test_number_of_classes_given(clean):
    """One class less than the labels have: each label map that holds it is told."""
    shown = found(look(clean, classes=2))["label out of range"]
    assert shown[1] == 6
    assert shown[2][0].endswith("p0.png: 2, where 0 to 1 are classes")


def test_22_classes(tmp_path):
    """VOC's names, and a label of one class more."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split in ("train", "val"):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(f"{split}1\n")
        Image.fromarray(np.random.default_rng(len(split)).integers(0, 255, (4, 6, 3), np.uint8)).save(
            root / "JPEGImages" / f"{split}1.jpg"
        )
        Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) % 22).save(root / "SegmentationClass" / f"{split}1.png")
    report = look(root)
    assert len(report.classes) == 21
    assert found(report)["label out of range"][2][0].endswith("train1.png: 21, where 0 to 20 are classes")


def test_reduce_zero_label(clean):
    """Label 0 is void and the others count from 1, as mmseg's own loader does it."""
    from segdeploy.models.packages import load_mmseg

    load_mmseg()
    from mmseg.datasets.transforms import LoadAnnotations

    dataset = splits_of_folder(clean)
    report = check(Dataset(dataset.splits, ("road", "car"), reduce_zero_label=True), workers=1)
    loader = LoadAnnotations(reduce_zero_label=True)
    for split in report.splits:
        paths = (clean / "ann_dir" / split.name).iterdir()
        labels = [
            loader({"seg_map_path": str(path), "seg_fields": [], "reduce_zero_label": True})["gt_seg_map"] for path in paths
        ]
        assert split.pixels == tuple(sum((one == label).sum() for one in labels) for label in (0, 1, 255))
    assert report.findings == ()


def test_cut_jpeg(clean):
    """A JPEG that ends in the middle is one that OpenCV fills with grey without a word."""
    write_pair(clean, "train", "photo", random_label(0).repeat(9, 0).repeat(9, 1), seed=4, suffix="jpg")
    path = clean / "img_dir" / "train" / "photo.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert found(look(clean))["image cannot be read"][1] == 1


def test_orientation(clean):
    """A photograph that EXIF turns has the size that mmseg sees, which is that of its label map."""
    path = clean / "img_dir" / "train" / "p0.png"
    turned = Image.open(path).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    turned.save(path.with_suffix(".jpg"), exif=exif)
    path.unlink()
    assert look(clean).findings == ()


def test_other_void(clean):
    """A config may name another label as void."""
    dataset = splits_of_folder(clean)
    report = check(Dataset(dataset.splits, ("sky", "road"), ignore_index=2), workers=1)
    assert found(report)["label out of range"][1] == 6  # 255 is then a label like others
    first = np.concatenate([np.asarray(Image.open(path)) for path in (clean / "ann_dir" / "train").iterdir()])
    assert report.splits[0].pixels == tuple((first == label).sum() for label in (0, 1, 2))


def test_processes_and_none_give_the_same(clean):
    """Order and content do not depend on how many read."""
    for index in range(40):
        write_pair(clean, "train", f"more{index}", random_label(index) + (index % 3 == 0), seed=100 + index)
    assert look(clean, workers=2) == look(clean)


@pytest.mark.shared
def test_real_data(shared):
    """CamVid's frequencies, counted anew, by the config that names its classes."""
    dataset = find_dataset("upernet_r18_camvid_192x256_50e", shared / "data" / "camvid")
    report = check(replace(dataset, splits=dataset.splits[1:]), workers=1)
    assert report.faults == 0
    paths = (shared / "data" / "camvid" / "ann_dir" / "val").iterdir()
    counts = sum(np.bincount(np.asarray(Image.open(path)).ravel(), minlength=256) for path in paths)
    assert report.splits[0].pixels == (*counts[:11], counts[255])
    assert report.classes[:2] == ("sky", "building")
