"""What a user sees of a run while it goes on, and what stops it. Imports MMEngine: only ``train`` imports this module."""

from __future__ import annotations

import contextlib
import math
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from segdeploy.base.errors import DivergedError
from segdeploy.base.progress import Advance, progress_bar


class Display(Hook):
    """Moves the bar, and stops a run whose loss is no number any more."""

    priority = "LOWEST"
    advance: Advance

    def __init__(self, bar: contextlib.ExitStack, name: str) -> None:
        self._bar = bar
        self._name = name
        self._miou = ""

    def before_train(self, runner: Any) -> None:
        """Open the bar: only now is it known how far a resumed run had come."""
        if is_main_process():
            self.advance = self._bar.enter_context(progress_bar(f"train {self._name}", runner.max_iters, done=runner.iter))

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:  # noqa: ARG002  MMEngine's
        """Remember the mIoU for the bar."""
        if metrics and "mIoU" in metrics:
            self._miou = f"  val mIoU {metrics['mIoU']:.1f}"

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,  # noqa: ARG002  MMEngine passes it by name
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Show epoch, loss, learning rate and memory.

        Raises:
            DivergedError: the loss is NaN or infinite; names the images of the batch.
        """
        loss = float((outputs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            names = [Path(sample.img_path).name for sample in (data_batch or {}).get("data_samples", [])]
            raise DivergedError(
                expected="a finite loss",
                got=f"{loss} in iteration {runner.iter + 1}, with the images {', '.join(names[:8])}",
                fix="lower the learning rate, or check these images and their labels",
            )
        if is_main_process():
            # Loops by iteration have no epochs to speak of.
            epoch = f"epoch {runner.epoch + 1}/{runner.max_epochs}  " if runner.max_epochs > 1 else ""
            rate = next(iter(runner.optim_wrapper.get_lr().values()))[0]
            self.advance(note=f"{epoch}loss {loss:.3f}  lr {rate:.1e}  {_memory()}{self._miou}")


def _memory() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GiB of GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"  # Linux counts in KiB
