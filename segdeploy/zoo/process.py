"""One config of the zoo in a process of its own, which is ended where it takes too long or too much memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from segdeploy.base.errors import MissingExtraError
from segdeploy.zoo.result import Entry

COMMAND = (sys.executable, "-m", "segdeploy.zoo.child")
_POLL_S = 0.2


@dataclass(frozen=True)
class Limits:
    """What one config may take.

    Attributes:
        timeout_s: seconds.
        memory_bytes: resident memory of its process and its children.
    """

    timeout_s: float
    memory_bytes: int


def run_one(family: str, config: str, formats: Sequence[str], limits: Limits, child: Sequence[str] = ()) -> Entry:
    """Try one config in a process of its own, which is ended where it takes too long or too much memory.

    Args:
        family: what to call it.
        config: its name.
        formats: to export to.
        limits: for the process.
        child: a command in place of the usual one; it is given the config, the result's path and the formats.

    Raises:
        MissingExtraError: psutil is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="segdeploy-zoo-") as scratch, tempfile.TemporaryFile() as log:
        result = Path(scratch) / "entry.json"
        started = time.monotonic()
        process = subprocess.Popen(
            [*(child or COMMAND), family, config, str(result), *formats],
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        stopped, peak = _watch(process, limits)
        seconds = round(time.monotonic() - started, 1)
        entry = Entry(family=family, config=config, outcome="exported")
        if result.is_file():  # written after each format: what was found before an end is kept
            entry = msgspec.json.decode(result.read_bytes(), type=Entry)
        if stopped or process.returncode or not result.is_file():
            log.seek(0)
            why = stopped or _last_words(process.returncode, log.read().decode(errors="replace"))
            entry = msgspec.structs.replace(entry, outcome="failed", reason="; ".join(filter(None, (entry.reason, why))))
        return msgspec.structs.replace(entry, seconds=seconds, peak_rss_bytes=peak)


def _watch(process: subprocess.Popen[bytes], limits: Limits) -> tuple[str, int]:
    """Wait for a process; why it was stopped, if it was, and the largest memory seen."""
    try:
        import psutil
    except ModuleNotFoundError as error:
        process.kill()
        process.wait()
        raise MissingExtraError(package="psutil", extra="bench", purpose="watching the memory of an export") from error
    deadline, peak, why = time.monotonic() + limits.timeout_s, 0, ""
    try:
        while process.poll() is None and not why:
            rss = _resident(psutil, process.pid)
            peak = max(peak, rss)
            if rss > limits.memory_bytes:
                why = f"stopped: it took more than {limits.memory_bytes >> 20} MiB of memory"
            elif time.monotonic() > deadline:
                why = f"stopped: it took longer than {limits.timeout_s:g} s"
            else:
                time.sleep(_POLL_S)
    finally:
        if process.poll() is None:
            _kill(psutil, process)
    return why, peak


def _resident(psutil: Any, pid: int) -> int:
    total = 0
    try:
        parent = psutil.Process(pid)
        for one in (parent, *parent.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.Error:  # one of them has just ended
        pass
    return total


def _kill(psutil: Any, process: subprocess.Popen[bytes]) -> None:
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        children = []
    process.kill()
    for one in children:
        with suppress(psutil.Error):
            one.kill()
    process.wait()


def _last_words(code: int | None, log: str) -> str:
    said = [line.strip() for line in log.splitlines() if line.strip()]
    return f"its process ended with exit status {code}" + (f": {said[-1][:200]}" if said else "")
