"""What this machine has, and what a test needs of it."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def shared():
    """The folder of real data and checkpoints beside the checkout."""
    if not (SHARED / "checkpoints" / "camvid_upernet_r18.pth").is_file() or not (SHARED / "data" / "camvid").is_dir():
        pytest.skip("there is no folder 'shared' with data/camvid and checkpoints beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def gpu():
    """This machine's GPU."""
    from segdeploy.base.machine import local_gpu

    found = local_gpu()
    if found is None:
        pytest.skip("this machine has no NVIDIA GPU")
    return found


@pytest.fixture(scope="session")
def no_gpu():
    """A machine without a GPU."""
    from segdeploy.base.machine import local_gpu

    if local_gpu() is not None:
        pytest.skip("this machine has an NVIDIA GPU")


@pytest.fixture(scope="session")
def one_thread():
    """Models this small run fastest on one thread; on several, beside other jobs, they mostly wait for one another."""
    import torch

    from segdeploy.runtime import open as opening

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "compute_threads", lambda: 1)
        yield
