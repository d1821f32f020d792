"""VOC 2012 with SBD, from archives to lists: on a small set as published, on real photographs, with faults of every kind."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from segdeploy.base.errors import InputError
from segdeploy.images.palette import distinct_palette
from segdeploy.training import voc

TRAIN, VAL = ("2007_000001", "2007_000002", "2007_000003"), ("2007_000007", "2007_000008")
AUG = ("2008_000004", "2008_000005", "2008_000006", "2008_000009")
COUNTS = {"train": 3, "val": 2, "trainaug": 7}


@pytest.fixture
def tree(voc_sbd, tmp_path):
    """Both data sets unpacked under a root."""
    voc_sbd(tmp_path / "data")
    return tmp_path / "data"


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


def many(voc_sbd, root, count):
    """So many jobs that processes are started and take a while."""
    rest = [f"2009_{index:06d}" for index in range(count)]
    _, sbd = voc_sbd(root, rest[:2])
    for name in rest[2:]:
        for folder, suffix in ((sbd / "cls", "mat"), (sbd / "img", "jpg")):
            os.link(folder / f"{rest[0]}.{suffix}", folder / f"{name}.{suffix}")
    (sbd / "train.txt").write_text("\n".join(rest))


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def spawned(pid):
    return [child for child in children(pid) if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def holds_back(pid, number):
    blocked = re.search(r"^SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]
    return bool(int(blocked, 16) >> (number - 1) & 1)


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "victim", "status", "line"),
    [
        (signal.SIGKILL, "parent", -signal.SIGKILL, ""),
        (signal.SIGINT, "all", 130, "start the same command again to go on"),
        (signal.SIGKILL, "worker", 1, "error: expected 2 processes at work; got one of them was killed"),
    ],
    ids=["killed", "interrupted", "worker killed"],
)
def test_killed_and_started_again(voc_sbd, tmp_path, number, victim, status, line):
    """In the middle of the work: whole label maps, no list, no process left; the next run goes on to the same end."""
    root = tmp_path / "data"
    many(voc_sbd, root, 600)
    code = "from segdeploy.cli.main import main; main()"
    arguments = ("data", "voc", "--sbd", "--subset", "--workers", "2", "--root", str(root))
    folder = root / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until(lambda: len(spawned(process.pid)) == 2 and len(list(folder.glob("*.png"))) > 80)
        family, workers = children(process.pid), spawned(process.pid)
        assert [holds_back(pid, signal.SIGINT) for pid in (process.pid, *workers)] == [False, True, True]
        if victim == "all":  # as a terminal does on Ctrl-C
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid if victim == "parent" else workers[0], number)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == status, err
    assert line in err
    assert "Traceback" not in err
    wait_until(lambda: not any(map(running, family)))
    assert "trainaug" not in lists(root)
    whole = list(folder.glob("[!.]*"))
    assert 78 <= len(whole) < 605  # two may still have had their temporary names
    kept = {path: path.stat().st_mtime_ns for path in whole}
    for path in whole:
        pixels(path)
    (folder / ".2009_000001.png.abcd1234").write_bytes(b"half")
    done = prepare(root)
    assert done.lists.counts() == {"train": 3, "val": 2, "trainaug": 603, "aug": 600}
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert labels(root).keys() == {f"{name}.png" for name in done.lists.trainaug + done.lists.val}
    assert lists(root)["trainaug"].split() == list(done.lists.trainaug)


def test_processes_and_none_give_the_same(voc_sbd, tmp_path):
    """In two processes as in this one."""
    for name, workers in (("one", 1), ("two", 2)):
        many(voc_sbd, tmp_path / name, 150)
        prepare(tmp_path / name, workers=workers)
    assert labels(tmp_path / "one") == labels(tmp_path / "two")
    assert lists(tmp_path / "one") == lists(tmp_path / "two")


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
