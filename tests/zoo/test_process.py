"""A config's own process: what it may take, and what is left when it dies. The children here are small scripts."""

import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from segdeploy.base.errors import MissingExtraError
from segdeploy.zoo.process import Limits, run_one

PLENTY = Limits(timeout_s=60, memory_bytes=4 << 30)
ENTRY = '{"family": "f", "config": "c", "outcome": "exported", "parameters": 7}'


@pytest.fixture
def child(tmp_path):
    """Makes a command of a script that knows ``result``, the path it is to write to."""

    def make(body):
        path = tmp_path / "child.py"
        path.write_text("import pathlib, sys, time\nresult = pathlib.Path(sys.argv[3])\n" + textwrap.dedent(body))
        return (sys.executable, str(path))

    return make


def run(command, limits=PLENTY):
    return run_one("pspnet", "mmseg::pspnet/x", ("onnx", "torchscript"), limits, command)


def test_the_entry_is_the_childs(child):
    """What it wrote, with the seconds and the memory that were seen from outside."""
    entry = run(child(f"time.sleep(0.5); result.write_text({ENTRY!r})"))
    assert (entry.outcome, entry.parameters) == ("exported", 7)
    assert entry.seconds >= 0.5
    assert 1 << 20 < entry.peak_rss_bytes < 1 << 30


def test_what_the_child_is_told(child, tmp_path):
    """Family, config, where to write, and the formats; it stands in a scratch folder that goes with it."""
    seen = tmp_path / "seen"
    run(child(f"pathlib.Path({str(seen)!r}).write_text('\\n'.join([*sys.argv[1:3], *sys.argv[4:], str(pathlib.Path.cwd())]))"))
    *told, folder = seen.read_text().split("\n")
    assert told == ["pspnet", "mmseg::pspnet/x", "onnx", "torchscript"]
    assert not (tmp_path / folder).exists()


def test_too_long(child):
    """A child that does not end is ended, with its own children, and the entry says so."""
    pids = "import subprocess; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    command = child(f"{pids}\nopen(sys.argv[0] + '.pid', 'w').write(str(p.pid))\ntime.sleep(60)")
    started = time.monotonic()
    entry = run(command, Limits(timeout_s=2, memory_bytes=4 << 30))
    assert time.monotonic() - started < 30
    assert (entry.outcome, entry.reason) == ("failed", "stopped: it took longer than 2 s")
    grandchild = int(Path(command[1] + ".pid").read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(grandchild) and psutil.Process(grandchild).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "its own child runs on"
        time.sleep(0.05)


def test_what_was_found_before(child):
    """A format that had passed when the process was ended is kept; the entry is a failure all the same."""
    found = """{"family": "f", "config": "c", "outcome": "exported", "formats": [{"format": "onnx", "status": "dynamic"}]}"""
    for end, why in (
        ("time.sleep(60)", "stopped: it took longer than 2 s"),
        ("sys.exit(3)", "its process ended with exit status 3"),
    ):
        entry = run(child(f"result.write_text({found!r}); {end}"), Limits(timeout_s=2, memory_bytes=4 << 30))
        assert (entry.outcome, entry.reason) == ("failed", why)
        assert [(one.format, one.status) for one in entry.formats] == [("onnx", "dynamic")]


def test_too_much_memory(child):
    """A child that grows past its limit is ended before it takes the machine."""
    entry = run(child("x = bytearray(300 << 20)\ntime.sleep(60)"), Limits(timeout_s=60, memory_bytes=200 << 20))
    assert (entry.outcome, entry.reason) == ("failed", "stopped: it took more than 200 MiB of memory")
    assert entry.peak_rss_bytes > 200 << 20


def test_a_child_that_dies(child):
    """Its exit status and its last line; the run goes on."""
    entry = run(child("print('first'); raise RuntimeError('no such operator')"))
    assert entry.outcome == "failed"
    assert entry.reason == "its process ended with exit status 1: RuntimeError: no such operator"
    entry = run(child("import os; os.abort()"))
    assert entry.reason == "its process ended with exit status -6"


def test_without_psutil(child, monkeypatch):
    """Without it memory cannot be watched: said, and nothing is left running."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MissingExtraError, match="psutil"):
        run(child("time.sleep(60)"))
