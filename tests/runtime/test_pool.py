import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from segdeploy.base.errors import BackendError
from segdeploy.images.dataset import Sample, find_samples
from segdeploy.runtime import pool
from segdeploy.runtime.evaluation import tally

HANGING = """
import sys, time
from pathlib import Path
from segdeploy.artifact.folder import open_artifact
from segdeploy.images.dataset import find_samples
from segdeploy.runtime.evaluation import tally

if __name__ == "__main__":
    samples = find_samples(Path(sys.argv[2]), "val") * 10000
    tally(open_artifact(Path(sys.argv[1])), samples, device="cpu", threads=1, processes=2)
"""


def children(pid):
    """Of a process, by /proc."""
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


@pytest.fixture
def running(tmp_path, onnx_artifact, labelled_root):
    """An evaluation without end in a process group of its own, with its two workers."""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("this system has no /proc to find the worker processes in")
    script = tmp_path / "endless.py"
    script.write_text(textwrap.dedent(HANGING))
    process = subprocess.Popen(
        [sys.executable, script, onnx_artifact.folder, labelled_root], stderr=subprocess.PIPE, text=True, start_new_session=True
    )

    def workers():
        found = [pid for pid in children(process.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        return found if len(found) == 2 else None

    found = wait_until(workers)
    assert found, process.stderr.read()
    yield process, found
    process.kill()
    process.wait()
    process.stderr.close()


@pytest.mark.parametrize("delay", [0.0, 1.5])
def test_ctrl_c_ends_all(running, delay):
    """As a terminal sends it, to every process of the group, while they start and while they work: none is left."""
    process, workers = running
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert err.count("KeyboardInterrupt") == 1, err  # the one that hands out the work; a worker has nothing to say
    assert wait_until(lambda: not any(map(alive, workers)))


def test_workers_end_with_their_parent(running):
    """Killed outright, it can end nobody: the workers find their pipe closed."""
    process, workers = running
    process.kill()
    assert wait_until(lambda: not any(map(alive, workers)))


def test_a_worker_that_is_killed(onnx_artifact, labelled_root, monkeypatch):
    """As the system does when memory runs out: one line with the signal, and the other worker ends too."""
    started = []
    give = pool._Worker.give

    def kill_the_first(self, index, sample):
        started.append(self._process)
        if index == 3:
            started[0].kill()
        return give(self, index, sample)

    monkeypatch.setattr(pool._Worker, "give", kill_the_first)
    samples = find_samples(labelled_root, "val") * 3
    with pytest.raises(BackendError, match=r"one ended by SIGKILL \(out of memory\?\); use fewer --processes"):
        tally(onnx_artifact, samples, device="cpu", threads=1, processes=2)
    assert not multiprocessing.active_children()


def test_a_bug_in_a_worker_keeps_its_traceback(onnx_artifact, labelled_root):
    """It is not dressed up as an error of the user's, and it can be found."""
    samples = find_samples(labelled_root, "val")
    with pytest.raises(RuntimeError, match=r"in a worker:(.|\n)*load_sample(.|\n)*AttributeError"):
        tally(onnx_artifact, [*samples[:2], "no sample", *samples[2:]], device="cpu", threads=1, processes=2)
    assert not multiprocessing.active_children()


def test_a_worker_in_the_middle_of_an_image_is_ended(onnx_artifact, labelled_root, tmp_path):
    """An error elsewhere does not wait for it: here it reads a pipe into which nobody writes."""
    sample = find_samples(labelled_root, "val")[0]
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    released = []

    def release():  # so that a fault fails this test, rather than hanging it
        released.append(True)
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))

    timer = threading.Timer(30, release)
    timer.start()
    with pytest.raises(RuntimeError, match="in a worker"):
        tally(onnx_artifact, [Sample("pipe", pipe, sample.label), "no sample"], device="cpu", threads=1, processes=2)
    timer.cancel()
    assert not released
    assert not multiprocessing.active_children()


def test_threads_are_shared(onnx_artifact, labelled_root, monkeypatch):
    """Each process has its part of the threads, and at least one."""
    asked = []

    class StopError(Exception):
        pass

    def note(self, artifact, device, threads, *_):
        asked.append(threads)
        raise StopError

    monkeypatch.setattr(pool._Worker, "__init__", note)
    for threads, processes in ((8, 2), (5, 2), (1, 4)):
        with pytest.raises(StopError):
            tally(onnx_artifact, find_samples(labelled_root, "val"), threads=threads, processes=processes)
    assert asked == [4, 2, 1]
