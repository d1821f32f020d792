"""MMEngine's epoch loop, which can be gone on with in the middle of an epoch, and a validation that was cut off made up for.

Imports MMEngine, so that classes can be derived from its own: only ``runner`` imports this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop


class ExactEpochLoop(EpochBasedTrainLoop):
    """Epochs that begin where the checkpoint was written."""

    def run_epoch(self) -> None:
        """One epoch, or the rest of one."""
        done = self._iter - self._epoch * len(self.dataloader)
        if done:
            self.dataloader.sampler.begin_after(done * self.dataloader.batch_size)
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, start=done):
            self.run_iter(index, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


class MissedValidationHook(Hook):
    """MMEngine saves before it validates: what was cut off in between is validated before a run goes on."""

    priority = "LOWEST"  # the others must be ready for it

    def before_train(self, runner: Any) -> None:
        """Validate where that was due and the run's logs have nothing of it."""
        loop = runner.train_loop
        if runner.val_loop is None or not isinstance(loop, ExactEpochLoop) or loop.iter != loop.epoch * len(loop.dataloader):
            return
        due = loop.epoch >= max(1, loop.val_begin) and (loop.epoch % loop.val_interval == 0 or loop.epoch == loop.max_epochs)
        if due and loop.epoch not in validated_steps(Path(runner.work_dir)):
            runner.val_loop.run()


def validated_steps(work_dir: Path) -> set[int]:
    """The epochs or iterations whose validation a run has to show: in its logs, over all of its starts, or as the best one."""
    steps = {int(path.stem.rpartition("_")[2]) for path in work_dir.glob("best_*_*.pth") if path.stem[-1].isdecimal()}
    for path in work_dir.glob("*/vis_data/scalars.json"):
        for line in path.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            if "lr" not in record and "step" in record:
                steps.add(int(record["step"]))
    return steps
