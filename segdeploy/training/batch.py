"""Images a step: they belong to the recipe, however many processes share them.

A learning rate is chosen for so many images a step. MMEngine's configs say the images a *process*, so that four GPUs train
another recipe than one. Here the total is divided over the processes, and over several forward passes where memory asks.
"""

from __future__ import annotations

from typing import Any

from segdeploy.base.errors import ConfigError


def total_batch(config: Any) -> int:
    """The images a step that a config's learning rate is for: ``auto_scale_lr.base_batch_size``, else those of one process."""
    base = (config.get("auto_scale_lr") or {}).get("base_batch_size")
    return int(base or config.train_dataloader.batch_size)


def divide_batch(config: Any, total: int, *, processes: int, accumulate: int) -> None:
    """Give each process its part of a step.

    Where a step is several forward passes, MMEngine counts the passes: what a config counts in iterations grows with them,
    so that as many steps are made and the rate falls as it would.

    Args:
        config: an ``mmengine.Config``, changed in place.
        total: images a step, over all processes and passes.
        processes: how many there are.
        accumulate: forward passes a step.

    Raises:
        ConfigError: the images cannot be divided so.
    """
    parts = processes * accumulate
    if total % parts:
        raise ConfigError(
            expected=f"images a step that {processes} processes of {accumulate} passes can share equally",
            got=str(total),
            fix=f"pass --batch {-(-total // parts) * parts}, or another number of processes",
        )
    config.train_dataloader.batch_size = total // parts
    if accumulate == 1:
        return
    config.optim_wrapper["accumulative_counts"] = accumulate
    scaling = config.get("auto_scale_lr")
    if scaling and "base_batch_size" in scaling:  # MMEngine compares it with the images of one pass
        scaling["base_batch_size"] /= accumulate
    _stretch_iterations(config, accumulate)


def _stretch_iterations(config: Any, factor: int) -> None:
    schedulers = config.get("param_scheduler") or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        if not scheduler.get("by_epoch", True):
            for key in ("begin", "end", "T_max", "total_steps", "total_iters", "step_size"):
                if scheduler.get(key):
                    scheduler[key] *= factor
            if "milestones" in scheduler:
                scheduler["milestones"] = [one * factor for one in scheduler["milestones"]]
    loop = config.train_cfg
    if "max_iters" not in loop:
        return
    for key, usual in (("max_iters", None), ("val_interval", 1000), ("val_begin", None)):
        if loop.get(key, usual):
            loop[key] = loop.get(key, usual) * factor
    checkpoint = (config.get("default_hooks") or {}).get("checkpoint")
    if checkpoint and not checkpoint.get("by_epoch", True) and checkpoint.get("interval", -1) > 0:
        checkpoint["interval"] *= factor
