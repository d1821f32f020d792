"""What a run will be: a config, or that of the run to go on with, and what was asked for beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segdeploy.base.errors import ConfigError, InputError
from segdeploy.base.progress import say
from segdeploy.models.checkpoint import WORK_DIRS, load_plain
from segdeploy.models.configs import load_config
from segdeploy.models.packages import load_mmseg
from segdeploy.training.batch import divide_batch, total_batch
from segdeploy.training.preflight import check_data, check_keys, check_padding, check_some, end_epochs, move_data
from segdeploy.training.resuming import Run, drawn_seed, find_run, resumed_config
from segdeploy.training.schedule import change_length, iterations_per_epoch


@dataclass(frozen=True)
class Settings:
    """How to train, beside what the config says.

    Attributes:
        work_dir: where logs and checkpoints go; ``work_dirs/NAME`` by default.
        data_root: the data set, in place of the config's; a folder that holds ``VOCdevkit/VOC2012`` stands for that.
        resume: go on from the last checkpoint in ``work_dir``.
        load_from: a checkpoint to start from; what does not fit the model is listed and keeps its initialisation.
        epochs: how long, in place of what the config says, be that epochs or iterations.
        iterations: likewise.
        amp: mixed precision; needs CUDA.
        channels_last: weights and activations in NHWC memory order.
        compile: the network's parts through ``torch.compile``, for training steps alone.
        auto_scale_lr: learning rate in proportion to the images a step, from the config's base batch size.
        batch: images a step over all processes; None for those of the recipe.
        accumulate: forward passes a step.
        resume_changed: go on although the number of processes or the images a step are others than the run's.
        seed: in place of the config's.
        options: ``key=value`` changes to the config.
    """

    work_dir: Path | None = None
    data_root: Path | None = None
    resume: bool = False
    load_from: str | None = None
    epochs: int | None = None
    iterations: int | None = None
    amp: bool = False
    channels_last: bool = False
    compile: bool = False
    auto_scale_lr: bool = False
    batch: int | None = None
    accumulate: int = 1
    resume_changed: bool = False
    seed: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)


def configure(config: str, settings: Settings, *, world: int = 1, launched: bool = False) -> tuple[Any, Path]:
    """Load a config with the settings applied, and check what can be checked before anything is built.

    Args:
        config: see ``find_config``; where a run is resumed, its own config counts, as it was.
        settings: changes to it.
        world: processes in all.
        launched: this is one of several processes that were started together.

    Returns:
        The ``mmengine.Config`` and the work dir.

    Raises:
        ConfigError, InputError, CheckpointError: see ``train``.
    """
    load_mmseg()
    if settings.resume and settings.load_from:
        raise InputError(
            expected="--resume or --load-from",
            got="both",
            fix="--resume goes on with a run as it was; --load-from starts a new one from other weights",
        )
    work_dir = settings.work_dir or WORK_DIRS / Path(config.rpartition("::")[2]).stem
    run = find_run(work_dir) if settings.resume else None
    loaded, differences = resumed_config(run, config, settings.options) if run else (load_config(config, settings.options), [])
    check_keys(loaded, config)
    loaded.work_dir = str(work_dir)
    loaded.launcher = "pytorch" if launched else "none"
    _apply(loaded, settings)
    _choose_start(loaded, run, settings)
    _choose_batch(loaded, run, settings, world)
    check_padding(loaded)
    check_data(loaded)
    check_some(loaded)
    if end_epochs(loaded):
        differences = [*differences, "the loop counts epochs and the sampler never ends one: DefaultSampler takes its place"]
    _choose_length(loaded, settings, world)
    if settings.resume and run is None:
        differences = [*differences, f"nothing to resume in '{work_dir}' yet: starting anew"]
    if not launched or os.environ.get("RANK", "0") == "0":
        for line in differences:
            say(line)
    return loaded, work_dir


def _apply(config: Any, settings: Settings) -> None:
    if settings.data_root is not None:
        move_data(config, settings.data_root)
    if settings.seed is not None:
        config.randomness = {**config.get("randomness", {}), "seed": settings.seed}
    if settings.amp:
        _require_cuda()
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.setdefault("loss_scale", "dynamic")
    if settings.auto_scale_lr:
        _scale_learning_rate(config)


def _choose_length(config: Any, settings: Settings, world: int) -> None:
    if settings.epochs is not None:
        change_length(config, settings.epochs, "epochs", _iterations_per_epoch(config, world))
    elif settings.iterations is not None:
        count = settings.iterations * settings.accumulate  # MMEngine counts forward passes
        change_length(config, count, "iterations", _iterations_per_epoch(config, world))


def _require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise InputError(expected="a CUDA device for --amp", got="none", fix="leave --amp out")


def _scale_learning_rate(config: Any) -> None:
    scaling = config.get("auto_scale_lr") or {}
    if "base_batch_size" not in scaling:
        raise ConfigError(
            expected="the batch size that the config's learning rate is for, auto_scale_lr.base_batch_size",
            got="none",
            fix="add auto_scale_lr=dict(base_batch_size=16), say, to the config",
        )
    config.auto_scale_lr = {**scaling, "enable": True}


def _choose_start(config: Any, run: Run | None, settings: Settings) -> None:
    if run is not None:
        drawn = drawn_seed(run.checkpoint)  # reads it: what cannot be read is said before anything is built
        config.resume, config.load_from = True, str(run.checkpoint)
        if drawn is not None:
            config.randomness = {**config.get("randomness", {}), "seed": drawn}
    elif settings.load_from:
        config.load_from = settings.load_from
        if not settings.load_from.startswith(("http://", "https://")):
            load_plain(Path(settings.load_from))


def _choose_batch(config: Any, run: Run | None, settings: Settings, world: int) -> None:
    """Images a step, and how the processes share them.

    Raises:
        ConfigError: they cannot be shared.
        InputError: a run would go on with others than it had.
    """
    before = run.total_batch if run is not None else None
    own = int(config.train_dataloader.batch_size) * world * int(config.optim_wrapper.get("accumulative_counts", 1))
    typed = "train_dataloader.batch_size" in settings.options  # MMEngine's own meaning: the images of one process
    if settings.batch is None and (typed or before == own):
        total = own  # also a run that goes on: its config has been divided
    else:
        total = settings.batch or before or total_batch(config)
        divide_batch(config, total, processes=world, accumulate=settings.accumulate)
    config.segdeploy_total_batch = total
    if run is None or settings.resume_changed:
        return
    for what, then, now in (("images a step", before, total), ("processes", run.world, world)):
        if then is not None and then != now:
            raise InputError(
                expected=f"{then} {what}, as the run in '{run.work_dir}' had",
                got=str(now),
                fix="start as many as then, or pass --resume-changed to go on with others: it is another run from there on",
            )


def _iterations_per_epoch(config: Any, processes: int) -> int:
    from mmengine.registry import DATASETS

    loader = config.train_dataloader
    try:
        images = len(DATASETS.build(loader.dataset))
    except Exception as error:  # the config names any class, which raises what it likes
        raise unbuildable("a training data set", error) from error
    return iterations_per_epoch(images, loader.batch_size, processes, drop_last=bool(loader.get("drop_last")))


def unbuildable(expected: str, error: Exception) -> ConfigError:
    """The error for what a config names and cannot be built."""
    return ConfigError(
        expected=expected,
        got=f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'no message')}",
        fix="mend it, or override it with --cfg-options",
    )
