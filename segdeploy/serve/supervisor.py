"""Runs a command for as long as somebody holds the other end of its standard input; then ends the whole process group.

A script of its own, started by its path and before anything else is loaded: when ``segdeploy serve`` is killed in a way that it
cannot answer (SIGKILL, out of memory), its end of the pipe closes, and neither Java nor a worker outlives it.

    python supervisor.py FOLDER COMMAND...      FOLDER is removed in that case
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading


def main(folder: str, command: list[str]) -> int:
    """Run the command and give its status; never returns where standard input ends before it."""
    threading.Thread(target=_watch, args=(folder,), daemon=True).start()
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def _watch(folder: str) -> None:
    # Not sys.stdin: a thread that waits in it holds a lock that the interpreter wants at its end.
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)  # it holds tokens
    os.killpg(0, signal.SIGKILL)  # this process too


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
