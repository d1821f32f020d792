import os
import shutil
import signal
import sys
import threading

import pytest

from segdeploy.base import folders
from segdeploy.base.errors import InputError
from segdeploy.base.folders import claim_folder, is_marked, locked_folder, new_folder


def write(path, content, purpose="test"):
    with new_folder(path, purpose) as temporary:
        (temporary / "a").write_text(content)
        (temporary / "b").write_text(content)


def content(path):
    return [(path / name).read_text() for name in ("a", "b")]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    """An error midway keeps the older folder and removes the temporary one."""
    with new_folder(tmp_path / "d", "test") as temporary:
        (temporary / "old").touch()
    with pytest.raises(RuntimeError), new_folder(tmp_path / "d", "test") as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert [path.name for path in (tmp_path / "d").glob("[!.]*")] == ["old"]


def test_a_folder_is_replaced_whole(tmp_path):
    """Nothing of the older folder is left in the new one or beside it."""
    for name in ("old", "new"):
        with new_folder(tmp_path / "d", "test") as temporary:
            (temporary / name).touch()
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert [path.name for path in (tmp_path / "d").glob("[!.]*")] == ["new"]


def test_other_faults_keep_their_traceback(tmp_path):
    """An OSError that says nothing about the place is a bug, and stays one."""
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "d", "test"):
        (tmp_path / "nowhere" / "x").touch()


@pytest.mark.parametrize("mark", [None, "another purpose\n", "test", b"\xff"])
def test_what_is_the_users_stays(tmp_path, mark):
    """A folder with content and without this very mark is one line, before any work; its content is not touched."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis").write_text("mine")
    if mark is not None:
        (tmp_path / "d" / ".segdeploy").write_bytes(mark if isinstance(mark, bytes) else mark.encode())
    for take in (lambda: new_folder(tmp_path / "d", "test").__enter__(), lambda: claim_folder(tmp_path / "d", "test")):
        with pytest.raises(InputError, match=r"would be overwritten"):
            take()
    assert (tmp_path / "d" / "thesis").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_what_was_put_there_meanwhile_stays(tmp_path):
    """A folder that was empty at first and is the user's at last is not replaced."""
    (tmp_path / "d").mkdir()
    with pytest.raises(InputError, match="would be overwritten"), new_folder(tmp_path / "d", "test"):
        (tmp_path / "d" / "thesis").write_text("mine")
    assert (tmp_path / "d" / "thesis").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_file_is_not_replaced(tmp_path):
    """A file in the folder's place is refused in one line."""
    (tmp_path / "d").write_text("mine")
    with pytest.raises(InputError, match="a file"):
        write(tmp_path / "d", "new")
    assert (tmp_path / "d").read_text() == "mine"


def test_a_claimed_folder(tmp_path):
    """A new folder, an empty one and one claimed before can be claimed, for one purpose."""
    (tmp_path / "empty").mkdir()
    for name in ("new/deep", "empty", "empty"):
        claim_folder(tmp_path / name, "test")
        assert is_marked(tmp_path / name, "test")
    assert not is_marked(tmp_path / "empty", "other")
    assert not is_marked(tmp_path / "none", "test")


def test_a_link_stays_a_link(tmp_path):
    """What a link leads to is replaced, not the link."""
    write(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == ["new", "new"]


def kill_at(line, path):
    """Replace the folder in a child that is killed at that line of segdeploy's or shutil's code; whether it got so far."""
    child = os.fork()
    if child == 0:
        seen = 0

        def trace(frame, event, argument):
            nonlocal seen
            if frame.f_code.co_filename not in (folders.__file__, shutil.__file__):
                return None
            if event == "line":
                seen += 1
                if seen == line:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        write(path, "new")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("exchange", [True, False])
def test_killed_at_any_line(tmp_path, monkeypatch, exchange):
    """The folder is the old one or the new one, whole; what the killed run left is removed by the next.

    Without the exchange there is a moment with neither, and the next run puts the old one back.
    """
    if not exchange:
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    path, line, found = tmp_path / "d", 0, set()
    killed = True
    while killed:
        line += 1
        write(path, "old")
        killed = kill_at(line, path)
        if exchange:
            assert path.is_dir(), line
        with pytest.raises(KeyboardInterrupt), new_folder(path, "test"):
            raise KeyboardInterrupt
        found.add(tuple(content(path)))
        assert [one.name for one in tmp_path.iterdir()] == ["d"], line
    assert found == {("old", "old"), ("new", "new")}
    assert line > 40


def test_the_exchange_is_used_where_there_is_one(tmp_path, monkeypatch):
    """On Linux there is no moment without the folder."""
    probe, other = tmp_path / "one", tmp_path / "other"
    probe.mkdir()
    other.mkdir()
    if not folders._exchange(probe, other):
        pytest.skip("this file system cannot exchange folders")
    write(tmp_path / "d", "old")
    monkeypatch.setattr(type(tmp_path), "rename", None)
    write(tmp_path / "d", "new")
    assert content(tmp_path / "d") == ["new", "new"]


def test_a_living_runs_folder_is_left_alone(tmp_path):
    """Two at once do not remove each other's work, and the last one's stands whole; others' hidden folders stay."""
    others = [tmp_path / ".d.segdeploy", tmp_path / ".d.x1y2", tmp_path / ".e.segdeploy-1"]
    for one in others:
        one.mkdir()
    with new_folder(tmp_path / "d", "test") as first:
        (first / "a").write_text("first")
        (first / "b").write_text("first")
        write(tmp_path / "d", "second")
        assert (first / "a").exists()
    assert content(tmp_path / "d") == ["first", "first"]
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "d", *others])


def test_a_locked_folder_is_not_replaced(tmp_path):
    """A replacement waits for who holds the folder; who waited for it holds the new one."""
    write(tmp_path / "d", "old")
    replaced = threading.Thread(target=write, args=(tmp_path / "d", "new"))
    with locked_folder(tmp_path / "d"):
        replaced.start()
        replaced.join(0.2)
        assert content(tmp_path / "d") == ["old", "old"]
    replaced.join()
    with locked_folder(tmp_path / "d"):
        assert content(tmp_path / "d") == ["new", "new"]
