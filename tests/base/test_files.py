import hashlib
import os
import stat
import subprocess
import sys

import pytest

from segdeploy.base.errors import InputError
from segdeploy.base.files import new_file, sha256_file, write_file
from segdeploy.base.folders import new_folder


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_sha256(tmp_path, size):
    """The digest is hashlib's, also at and around the size of a chunk."""
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_a_file_is_replaced_whole(tmp_path):
    """Text and bytes arrive as they are, folders are made, and nothing else stays behind."""
    write_file(tmp_path / "a" / "b.txt", "ä\n")
    write_file(tmp_path / "a" / "b.txt", b"new")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_failed_file_leaves_the_old_one(tmp_path):
    """An error midway changes nothing."""
    write_file(tmp_path / "f", "old")
    with pytest.raises(RuntimeError), new_file(tmp_path / "f") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "f").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    """A temporary file is private; what it becomes follows the umask."""
    mask = os.umask(0o027)
    try:
        write_file(tmp_path / "f", "x")
        with new_folder(tmp_path / "d", "test"):
            pass
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750


@pytest.mark.parametrize("make", [lambda path: write_file(path, "x"), lambda path: new_folder(path, "test").__enter__()])
def test_a_file_in_the_folders_place(tmp_path, make):
    """Where a folder cannot be made the user hears which, in one line."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a folder that can be written") as caught:
        make(tmp_path / "file" / "x")
    assert str(tmp_path / "file") in str(caught.value)


def test_a_full_disk(tmp_path, monkeypatch):
    """No space left is the user's to mend, not a traceback."""
    from pathlib import Path

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        write_file(tmp_path / "f", "x")
    assert not list(tmp_path.iterdir())


HOLDING = """
import sys
from pathlib import Path
from segdeploy.base.files import new_file

with new_file(Path(sys.argv[1]), Path(sys.argv[1]).suffix) as temporary:
    temporary.write_text("whole")
    print(temporary.name, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_run_left_goes_away(tmp_path):
    """Only what is ours, and only when its process is gone: one that still writes ends well."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDING, tmp_path / name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("killed", "killed.mp4", "living")
    ]
    *killed, living = (process.stdout.readline().strip() for process in running)
    for process in running[:-1]:
        process.kill()
        process.wait()
    others = [".notes.segdeploy-mine", "a.segdeploy-abcdefgh", ".b.abcdefgh"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / ".c.segdeploy-abcdefgh").symlink_to(tmp_path / ".b.abcdefgh")
    (tmp_path / ".d.segdeploy-abcdefgh").mkdir()
    assert all((tmp_path / name).exists() for name in killed)
    assert killed[1].endswith(".mp4")
    write_file(tmp_path / "new", "x")
    kept = {"new", living, *others, ".c.segdeploy-abcdefgh", ".d.segdeploy-abcdefgh"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    running[-1].communicate("")
    assert {path.name for path in tmp_path.iterdir()} == kept - {living} | {"living"}
    assert (tmp_path / "living").read_text() == "whole"
