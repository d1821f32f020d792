"""Archives: which is which, and unpacking that leaves the folder's outside alone."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from segdeploy.base.errors import InputError
from segdeploy.training.archives import Archive, recognise, unpack

FIRST, SECOND = Archive("first.tar", "", "Kit/VOC"), Archive("second.tgz", "", "RELEASE/dataset")
FILES = {"Kit/VOC/a.txt": b"a" * 20_000, "Kit/VOC/deep/b.txt": b"b" * 700, "Kit/other.txt": b"o"}


def member(name, kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def make(path, files=FILES, more=()):
    """A tar, compressed where its name says so."""
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, data in files.items():
            tar.addfile(member(name, size=len(data)), io.BytesIO(data))
        for info in more:
            tar.addfile(info)
    return path


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["x.tar", "x.tgz"])
def test_unpack(tmp_path, name):
    """The archive's folder lies under the root, and nothing else of it."""
    unpack(make(tmp_path / name), FIRST, tmp_path / "root")
    assert tree(tmp_path / "root") == {name: data for name, data in FILES.items() if name.startswith("Kit/VOC/")}
    assert [path.name for path in (tmp_path / "root" / "Kit").iterdir()] == ["VOC"]


def test_after_a_killed_run(tmp_path):
    """What a killed run left in the staging folder is not taken for part of the data."""
    staging = tmp_path / "root" / "Kit" / ".unpacking-VOC"
    (staging / "Kit" / "VOC").mkdir(parents=True)
    (staging / "Kit" / "VOC" / "half.txt").write_text("x")
    unpack(make(tmp_path / "x.tar"), FIRST, tmp_path / "root")
    assert set(tree(tmp_path / "root")) == {"Kit/VOC/a.txt", "Kit/VOC/deep/b.txt"}


@pytest.mark.parametrize(
    "bad",
    [
        member("../evil.txt"),
        member("Kit/VOC/../../../evil.txt"),
        member("Kit/VOC/out", tarfile.SYMTYPE, "../../../.."),
        member("Kit/VOC/out", tarfile.SYMTYPE, "/etc/passwd"),
        member("Kit/VOC/out", tarfile.LNKTYPE, "../../outside.txt"),
        member("Kit/VOC/device", tarfile.CHRTYPE),
        member("Kit/VOC/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name} {info.linkname}",
)
def test_unsafe(tmp_path, bad):
    """What leads out of the folder, and what is no file, is refused; nothing is left, inside or outside."""
    (tmp_path / "outside.txt").write_text("mine")
    path = make(tmp_path / "x.tar", more=[bad])
    with pytest.raises(InputError, match="do not use this archive"):
        unpack(path, FIRST, tmp_path / "in" / "root")
    assert set(tree(tmp_path)) == {"outside.txt", "x.tar"}


def test_absolute_path_stays_inside(tmp_path):
    """The data filter takes the leading slash away."""
    unpack(make(tmp_path / "x.tar", {**FILES, f"{tmp_path}/evil.txt": b"e"}), FIRST, tmp_path / "root")
    assert not (tmp_path / "evil.txt").exists()


@pytest.mark.parametrize("name", ["x.tar", "x.tgz"])
def test_truncated_anywhere(tmp_path, name):
    """An archive that ends early is one line wherever it was cut, between two files too; nothing is left."""
    path = make(tmp_path / name)
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        borders = [info.offset for info in tar] if name == "x.tar" else []
    for cut in (0, 1, 100, len(whole) // 2, *borders, *(border + 300 for border in borders)):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="complete tar archive at"):
            unpack(path, FIRST, tmp_path / "root")
        assert not tree(tmp_path / "root"), cut


def test_no_archive(tmp_path):
    """Any other file is one line."""
    (tmp_path / "x.tar").write_bytes(b"<html>" * 500)
    with pytest.raises(InputError, match="complete tar archive at"):
        unpack(tmp_path / "x.tar", FIRST, tmp_path / "root")


def test_another_content(tmp_path):
    """An archive without the folder is named."""
    with pytest.raises(InputError, match="RELEASE/dataset in"):
        unpack(make(tmp_path / "x.tar"), SECOND, tmp_path / "root")
    assert not tree(tmp_path / "root")


def test_no_room(tmp_path, monkeypatch):
    """A full disk is one line, and nothing half unpacked stays on it."""

    def extract(*arguments, **options):
        raise OSError(28, "No space left on device")

    path = make(tmp_path / "x.tar")
    monkeypatch.setattr(tarfile.TarFile, "extract", extract)
    with pytest.raises(InputError, match="No space left on device; make room"):
        unpack(path, FIRST, tmp_path / "root")
    assert not list((tmp_path / "root" / "Kit").iterdir())


def test_python_without_the_filter(tmp_path, monkeypatch):
    """Where tarfile cannot unpack safely it is not tried."""
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(InputError, match="tar -xf"):
        unpack(make(tmp_path / "x.tar"), FIRST, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_recognised_by_md5(tmp_path):
    """The name does not matter, the content does."""
    path = make(tmp_path / "renamed.bin")
    known = (SECOND, Archive("first.tar", hashlib.md5(path.read_bytes()).hexdigest(), "Kit/VOC"))
    assert recognise(path, known, subset=False) is known[1]


def test_wrong_md5(tmp_path):
    """The line names what was expected of that file, and what it has."""
    path = make(tmp_path / "first.tar")
    got = hashlib.md5(path.read_bytes()).hexdigest()
    known = (Archive("first.tar", "1" * 32, "Kit/VOC"), Archive("second.tgz", "2" * 32, "RELEASE/dataset"))
    with pytest.raises(InputError, match=f"MD5 {'1' * 32} .*got {got} .*--subset") as caught:
        recognise(path, known, subset=False)
    assert "2" * 32 not in str(caught.value)
    with pytest.raises(InputError, match=f"MD5 {'1' * 32} .*or {'2' * 32} "):
        recognise(path.rename(tmp_path / "other.tar"), known, subset=False)


@pytest.mark.parametrize("prefix", ["", "./"])
def test_subset_recognised_by_its_folders(tmp_path, prefix):
    """A part of the data has an MD5 of its own."""
    first = make(tmp_path / "a.tar", {f"{prefix}Kit/VOC/a": b""})
    second = make(tmp_path / "b.tgz", {f"{prefix}RELEASE/readme": b"", f"{prefix}RELEASE/dataset/x": b""})
    assert recognise(first, (FIRST, SECOND), subset=True) is FIRST
    assert recognise(second, (FIRST, SECOND), subset=True) is SECOND
    with pytest.raises(InputError, match="got neither"):
        recognise(make(tmp_path / "c.tar", {"Kit/VOCX/a": b""}), (FIRST, SECOND), subset=True)


@pytest.mark.parametrize("subset", [False, True])
def test_missing_archive(tmp_path, subset):
    """A path that leads nowhere, or to a folder."""
    with pytest.raises(InputError, match="no such file"):
        recognise(tmp_path / "x.tar", (FIRST, SECOND), subset=subset)
    with pytest.raises(InputError, match="is a directory"):
        recognise(tmp_path, (FIRST, SECOND), subset=subset)
