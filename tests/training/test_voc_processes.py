"""VOC + SBD in several processes: killed, interrupted, and the same as in one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.voc import labels, lists, pixels, prepare


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
