"""A scheduler's notice (SIGTERM, or SIGUSR1 some time before): the run saves where it is, and ends.

Imports MMEngine, so that a hook can be derived from its own: only ``train`` imports this module.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.dist import all_reduce, is_distributed, is_main_process
from mmengine.hooks import Hook

from segdeploy.base.files import write_file

NOTICES = (signal.SIGTERM, signal.SIGUSR1)
STOPPED_NAME = "stopped.pth"
# How many steps pass until processes ask one another: each of them may have got the notice, or only one.
_ASK_EVERY = 10


class StoppedError(Exception):
    """A run was told to end, and has saved.

    Attributes:
        signum: by which signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"told to end by {signal.Signals(signum).name}")
        self.signum = signum


class StopHook(Hook):
    """Saves and ends a run between two steps once it was told to."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self._told = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take notices while the block runs; only a process' main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {kind: signal.signal(kind, self._note) for kind in NOTICES}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save and end, where this or another process was told to.

        Raises:
            StoppedError: after saving.
        """
        del batch_idx, data_batch, outputs
        signum = self._told
        if is_distributed():
            signum = _agreed(signum) if runner.iter % _ASK_EVERY == 0 else 0
        if not signum:
            return
        # By iteration: the epoch has not ended. Momentum, schedule and position are all in it.
        runner.save_checkpoint(runner.work_dir, STOPPED_NAME, by_epoch=False)
        if is_main_process():
            write_file(Path(runner.work_dir) / "last_checkpoint", str(Path(runner.work_dir) / STOPPED_NAME))
        raise StoppedError(signum)

    def _note(self, signum: int, frame: object) -> None:
        del frame
        self._told = signum


def _agreed(signum: int) -> int:
    import torch

    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    told = torch.tensor(signum, device=device)
    all_reduce(told, op="max")
    return int(told)
