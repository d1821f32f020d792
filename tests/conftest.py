"""Wiring only: what all tests share is in ``support``."""

from __future__ import annotations

import os
import signal

# Before numpy and torch are loaded: each worker of the suite has one core, and threads beyond it only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Started in the background by a shell, a process ignores Ctrl-C, and so do the programs whose Ctrl-C is tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "support.sooner",
    "support.once",
    "support.machine",
    "support.data",
    "support.models",
    "support.mmseg",
    "support.artifacts",
]
