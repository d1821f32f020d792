"""What is slow to make is made once a run, by the worker that asks first; the others wait for it."""

from __future__ import annotations

import os
import shutil

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Makes a folder once for all workers: (name, what fills an empty folder) -> the folder. Nobody may change it.

    A maker that fails, or skips, leaves nothing behind: the next worker that asks meets the same failure by itself.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # a worker's own folder lies in that of the whole run
    root /= "once"
    root.mkdir(exist_ok=True)

    def make(name, fill):
        folder, whole = root / name, root / f"{name}.whole"
        with FileLock(root / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed
                folder.mkdir()
                fill(folder)
                whole.touch()
        return folder

    return make
