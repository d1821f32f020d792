"""VOC 2012 with SBD, from archives to lists: on a small set as published, on real photographs, with faults of every kind."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from segdeploy.base.errors import InputError
from segdeploy.images.palette import distinct_palette
from segdeploy.training import voc
from support.voc import AUG, COUNTS, TRAIN, VAL, labels, lists, pixels, prepare, snapshot


@pytest.fixture
def archives(voc_sbd, tmp_path, monkeypatch):
    """Both as archives, which from now on are the published ones."""
    voc_sbd(tmp_path / "source")
    made = []
    for name, mode, archive in (("voc.tar", "w", "VOC_ARCHIVE"), ("sbd.tgz", "w:gz", "SBD_ARCHIVE")):
        with tarfile.open(tmp_path / name, mode) as tar:
            folder = getattr(voc, archive).folder.split("/")[0]
            tar.add(tmp_path / "source" / folder, folder)
        made.append(tmp_path / name)
        md5 = hashlib.md5(made[-1].read_bytes()).hexdigest()
        monkeypatch.setattr(voc, archive, replace(getattr(voc, archive), md5=md5))
    monkeypatch.setattr(voc, "WHOLE", COUNTS)
    return made


def test_published_archives():
    """Names and sums are those that torchvision carries."""
    from torchvision.datasets import SBDataset
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    published = DATASET_YEAR_DICT["2012"]
    assert (voc.VOC_ARCHIVE.name, voc.VOC_ARCHIVE.md5) == (published["filename"], published["md5"])
    assert voc.VOC_ARCHIVE.folder == published["base_dir"]
    assert (voc.SBD_ARCHIVE.name, voc.SBD_ARCHIVE.md5) == (SBDataset.filename, SBDataset.md5)
    assert voc._address(voc.VOC_ARCHIVE).endswith(f"/{voc.VOC_ARCHIVE.name}")
    assert voc._address(voc.SBD_ARCHIVE).endswith(f"/{voc.SBD_ARCHIVE.name}")


def test_lists(tree):
    """Sorted, one name a line; nothing of VOC's val, though SBD lists one of it."""
    done = prepare(tree)
    assert done.changed
    assert done.lists == voc.VocLists(TRAIN, VAL, TRAIN + AUG, AUG)
    written = lists(tree)
    assert written["trainaug"] == "".join(f"{name}\n" for name in TRAIN + AUG)
    assert written["aug"] == "".join(f"{name}\n" for name in AUG)
    assert not set(VAL) & set(written["trainaug"].split())


def test_labels(tree):
    """SBD's label maps as scipy reads them, in colours; VOC's own, byte for byte, where VOC has one."""
    prepare(tree)
    folder = tree / "VOCdevkit" / "VOC2012"
    made = folder / "SegmentationClassAug"
    assert {path.stem for path in made.iterdir()} == set(TRAIN + VAL + AUG)
    for name in AUG:
        mask = loadmat(tree / "benchmark_RELEASE" / "dataset" / "cls" / f"{name}.mat")["GTcls"][0]["Segmentation"][0]
        np.testing.assert_array_equal(pixels(made / f"{name}.png"), mask)
        with Image.open(made / f"{name}.png") as picture:
            assert picture.mode == "P"
            assert tuple(picture.getpalette()[: 3 * 21]) == sum(distinct_palette(21), ())
    for name in TRAIN + VAL:
        assert (made / f"{name}.png").read_bytes() == (folder / "SegmentationClass" / f"{name}.png").read_bytes()
    assert (pixels(made / f"{TRAIN[2]}.png") == 255).any()  # SBD has this one too, without void


def test_archives(tmp_path, archives):
    """From the two archives, in any order, to the same; the archives are left alone."""
    done = prepare(tmp_path / "data", subset=False, archives=archives[::-1])
    assert done.lists.counts() == {**COUNTS, "aug": 4}
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["VOCdevkit", "benchmark_RELEASE"]
    prepare(tmp_path / "source")
    assert labels(tmp_path / "data") == labels(tmp_path / "source")
    assert lists(tmp_path / "data") == lists(tmp_path / "source")
    assert all(path.is_file() for path in archives)


def test_archives_in_the_root(tmp_path, archives, monkeypatch):
    """What was fetched before under its published name is not fetched again."""
    monkeypatch.setattr(voc, "fetch", None)
    (tmp_path / "data").mkdir()
    for path, archive in zip(archives, (voc.VOC_ARCHIVE, voc.SBD_ARCHIVE), strict=True):
        path.rename(tmp_path / "data" / archive.name)
    assert prepare(tmp_path / "data", subset=False).lists.trainaug == TRAIN + AUG


def test_fetched(tmp_path, archives, monkeypatch):
    """What is missing is fetched to the root from where torchvision says, with the published sum."""
    fetched = []

    def fetch(url, path, md5):
        fetched.append((url, md5))
        shutil.copy(archives[0], path)

    monkeypatch.setattr(voc, "fetch", fetch)
    monkeypatch.setattr(voc, "_address", lambda archive: f"address of {archive.name}")
    prepare(tmp_path / "data", subset=False, archives=archives[1:])
    assert fetched == [("address of VOCtrainval_11-May-2012.tar", voc.VOC_ARCHIVE.md5)]


def test_wrong_md5s(tmp_path, archives):
    """Two wrong archives are two lines, before anything is fetched or unpacked."""
    for path in archives:
        path.write_bytes(path.read_bytes()[:-1])
    said = []
    with pytest.raises(InputError, match=f"expected MD5.*{archives[1].name}"):
        prepare(tmp_path / "data", said, subset=False, archives=archives)
    assert len(said) == 1
    assert f"'{archives[0]}'" in said[0]
    assert voc.VOC_ARCHIVE.md5 in said[0]
    assert not list((tmp_path / "data").iterdir())


def test_one_archive_fails(tmp_path, archives, monkeypatch):
    """The other one is unpacked all the same, so that the next run has less to do."""

    def fetch(url, path, md5):
        raise InputError(expected="an answer", got="none", fix="wait")

    monkeypatch.setattr(voc, "fetch", fetch)
    with pytest.raises(InputError, match="an answer"):
        prepare(tmp_path / "data", subset=False, archives=archives[1:])
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["benchmark_RELEASE"]


def test_sbd_archive_without_sbd(tmp_path, archives):
    """An archive that would not be used is said, not passed over."""
    with pytest.raises(InputError, match="expected --sbd"):
        prepare(tmp_path / "data", sbd=False, archives=archives)


def test_voc_alone(tree):
    """Without SBD nothing is written."""
    shutil.rmtree(tree / "benchmark_RELEASE")
    before = snapshot(tree)
    done = prepare(tree, sbd=False)
    assert done == voc.Prepared(voc.VocLists(TRAIN, VAL), changed=False)
    assert snapshot(tree) == before


def test_second_run_does_nothing(tree):
    """Not a file is touched."""
    prepare(tree)
    before = snapshot(tree)
    done = prepare(tree)
    assert not done.changed
    assert snapshot(tree) == before


def test_counts_of_the_whole(tree, monkeypatch):
    """Without --subset the published numbers hold, and are looked at before the work."""
    with pytest.raises(InputError, match="train 1,464, val 1,449, trainaug 10,582; got train 3, val 2, trainaug 7.*--subset"):
        prepare(tree, subset=False)
    assert not labels(tree)
    monkeypatch.setattr(voc, "WHOLE", COUNTS)
    assert prepare(tree, subset=False).changed


def test_after_mmsegs_script(tree):
    """Label maps of SBD for VOC's own images and a list in set order, as mmseg's script leaves them, are put right."""
    folder = tree / "VOCdevkit" / "VOC2012"
    prepare(tree)
    wanted = labels(tree), lists(tree)
    (folder / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("\n".join((TRAIN + AUG)[::-1]))
    mask = loadmat(tree / "benchmark_RELEASE" / "dataset" / "cls" / f"{TRAIN[2]}.mat")["GTcls"][0]["Segmentation"][0]
    Image.fromarray(mask).save(folder / "SegmentationClassAug" / f"{TRAIN[2]}.png")
    assert prepare(tree).changed
    assert (labels(tree), lists(tree)) == wanted


def test_images_of_sbd(tree):
    """An image that VOC's folder lacks is taken from SBD; VOC's own must be there."""
    images = tree / "VOCdevkit" / "VOC2012" / "JPEGImages"
    data = (images / f"{AUG[0]}.jpg").read_bytes()
    (images / f"{AUG[0]}.jpg").unlink()
    assert prepare(tree).images_copied == 1
    assert (images / f"{AUG[0]}.jpg").read_bytes() == data


@pytest.mark.shared
def test_real_photographs_through_mmseg(shared, tmp_path):
    """mmseg's own data set reads the result as its config names it: 3 + 7 to train on; and trainaug from one folder."""
    from segdeploy.models.packages import load_mmseg

    load_mmseg()
    from mmseg.datasets import PascalVOCDataset

    for folder in ("VOCdevkit", "benchmark_RELEASE"):
        shutil.copytree(shared / "data" / "voc-mini" / folder, tmp_path / folder, copy_function=shutil.copyfile)
    for folder in tmp_path.rglob("*"):
        folder.chmod(0o755)
    assert prepare(tmp_path).lists.counts() == {"train": 3, "val": 5, "trainaug": 10, "aug": 7}
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    read = {}
    for split, folder in (
        ("train", "SegmentationClass"),
        ("aug", "SegmentationClassAug"),
        ("trainaug", "SegmentationClassAug"),
    ):
        data = PascalVOCDataset(
            data_root=str(tmp_path / "VOCdevkit" / "VOC2012"),
            data_prefix={"img_path": "JPEGImages", "seg_map_path": folder},
            ann_file=f"ImageSets/Segmentation/{split}.txt",
            pipeline=pipeline,
        )
        read[split] = {}
        for item in data:
            label = item["data_samples"].gt_sem_seg.data.numpy()[0]
            assert label.shape == tuple(item["inputs"].shape[1:])
            assert set(np.unique(label)) <= {*range(21), 255}
            read[split][Path(item["data_samples"].img_path).stem] = label
    assert {split: len(found) for split, found in read.items()} == {"train": 3, "aug": 7, "trainaug": 10}
    for name, label in {**read["train"], **read["aug"]}.items():
        np.testing.assert_array_equal(read["trainaug"][name], label)
