"""Training, by MMEngine's Runner. What is added: one-line errors, exact resuming, whole files, and where the result lies."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdeploy.base.progress import say
from segdeploy.models.checkpoint import load_plain
from segdeploy.training.configure import Settings, configure, unbuildable
from segdeploy.training.distributed import connected, place_from
from segdeploy.training.preflight import check_files
from segdeploy.training.resuming import find_run, remember
from segdeploy.training.schedule import iterations_per_epoch, length_of


@dataclass(frozen=True)
class TrainResult:
    """What a training run left.

    Attributes:
        checkpoint: the best by validation mIoU where the config keeps it, else the last.
        miou: of that checkpoint on the validation images, in per cent; None where it was not validated.
        work_dir: logs and checkpoints.
    """

    checkpoint: Path
    miou: float | None
    work_dir: Path


def train(config: str, settings: Settings | None = None) -> TrainResult:
    """Train a model as its config says; one of several processes where torchrun or Slurm started this one.

    Args:
        config: see ``find_config``.
        settings: changes to it.

    Raises:
        ConfigError: the config cannot be loaded or does not fit together.
        InputError: the data set or a file of it is not there, a label has no class, or this machine has not what was asked for.
        CheckpointError: there is nothing to resume, it is damaged, or does not fit.
        DivergedError: the loss became NaN or infinite.
        StoppedError: SIGTERM or SIGUSR1 told it to end; it has saved.
    """
    settings = settings or Settings()
    place = place_from(os.environ)
    loaded, work_dir = configure(config, settings, world=place.world if place else 1, launched=place is not None)
    with connected(place), _quiet_console(), contextlib.ExitStack() as bar:
        from segdeploy.training.display import Display
        from segdeploy.training.loops import MissedValidationHook
        from segdeploy.training.runner import LabelHook, PositionHook, whole_files
        from segdeploy.training.stopping import StopHook

        runner = _build_runner(loaded, config)
        check_files(runner)
        if runner.rank == 0:
            total = loaded.segdeploy_total_batch
            remember(work_dir, total_batch=total, world=runner.world_size, options=settings.options)
            say(_outline(runner))
        runner.register_hook(PositionHook())
        runner.register_hook(LabelHook())
        runner.register_hook(Display(bar, work_dir.name))
        runner.register_hook(MissedValidationHook())
        stop = StopHook()
        runner.register_hook(stop)
        _prepare_network(runner.model, channels_last=settings.channels_last, compiled=settings.compile)
        with whole_files(), stop.listening():
            runner.train()
        return _result(runner, work_dir)


def _build_runner(loaded: Any, config: str) -> Any:
    from segdeploy.training.runner import ExactRunner

    try:
        runner = ExactRunner.from_cfg(loaded)
        # Runner.train would build these later; here what fails is known to be the config's fault.
        _ = runner.train_loop, runner.val_loop
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    except Exception as error:  # the config names any class, which raises what it likes
        raise unbuildable(f"a config that MMEngine can build ('{config}')", error) from error
    for handler in [one for one in runner.logger.handlers if type(one) is logging.StreamHandler]:
        runner.logger.removeHandler(handler)
    return runner


def _outline(runner: Any) -> str:
    """One line: how many images, steps and epochs there will be, and at which learning rate."""
    loader = runner.train_dataloader
    passes = int(runner.cfg.optim_wrapper.get("accumulative_counts", 1))
    batch = runner.world_size * loader.batch_size * passes
    images = len(loader.dataset)
    per_epoch = iterations_per_epoch(images, loader.batch_size, runner.world_size, drop_last=loader.drop_last)
    length = length_of(runner.cfg, per_epoch)
    scaling = runner.auto_scale_lr or {}
    rate = runner.optim_wrapper.param_groups[0]["lr"]
    if scaling.get("enable"):
        rate *= batch / passes / scaling["base_batch_size"]
    processes = f", {runner.world_size} processes" if runner.world_size > 1 else ""
    processes += f" in {passes} passes" if passes > 1 else ""
    return (
        f"{images:,} images, {batch} a step{processes}: {length.iterations:,} iterations, "
        f"{length.epochs:.4g} epochs of {per_epoch:,}; learning rate {rate:g}"
    )


def _prepare_network(model: Any, *, channels_last: bool, compiled: bool) -> None:
    import torch

    bare = getattr(model, "module", model)
    if channels_last:
        # Convolutions pass on the memory order of their weights: the images need not be converted.
        bare.to(memory_format=torch.channels_last)
    if compiled:
        for name in ("backbone", "neck", "decode_head", "auxiliary_head"):
            part = getattr(bare, name, None)
            for one in part if isinstance(part, torch.nn.ModuleList) else [part] if part is not None else []:
                _compile_training(one)


def _compile_training(part: Any) -> None:
    """Compile a part's forward for training: crops have one size there, while each validation image would compile anew."""
    import torch

    plain = part.forward
    fast = torch.compile(plain)

    def forward(*inputs: Any, **named: Any) -> Any:
        return (fast if part.training else plain)(*inputs, **named)

    part.forward = forward


@contextlib.contextmanager
def _quiet_console() -> Iterator[None]:
    """The console keeps the live bar: what MMEngine prints to stdout is in its log file as well."""
    with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _result(runner: Any, place: Path) -> TrainResult:
    info = runner.message_hub.runtime_info
    if "best_ckpt" in info and (best := place / Path(info["best_ckpt"]).name).is_file():
        score = info.get("best_score")
        return TrainResult(best, None if score is None else float(score), place)
    kept = sorted(place.glob("best_*.pth"), key=lambda path: path.stat().st_mtime)
    if kept:  # a run that was over before it was resumed: its last checkpoint was written before the best one
        known = dict(load_plain(kept[-1]).get("message_hub") or {}).get("runtime_info") or {}
        score = known.get("best_score")
        return TrainResult(kept[-1], None if score is None else float(score), place)
    scalars = runner.message_hub.log_scalars.get("val/mIoU")
    run = find_run(place)
    assert run is not None, "a run that has ended has saved"
    return TrainResult(run.checkpoint, float(scalars.current()) if scalars else None, place)
