"""Training, by MMEngine's Runner. What is added: one-line errors, exact resuming, whole files, and where the result lies."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segdeploy.base.errors import CheckpointError, ConfigError, InputError
from segdeploy.base.progress import say
from segdeploy.models.checkpoint import WORK_DIRS, load_plain
from segdeploy.models.configs import load_config
from segdeploy.models.packages import load_mmseg
from segdeploy.training.distributed import Place, connected, place_from
from segdeploy.training.preflight import check_data, check_files, check_keys, check_padding, check_some, move_data
from segdeploy.training.schedule import change_length, iterations_per_epoch, length_of


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
    seed: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)


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
    """
    settings = settings or Settings()
    place = place_from(os.environ)
    loaded, work_dir = configure(config, settings, place)
    with connected(place), _quiet_console(), contextlib.ExitStack() as bar:
        from segdeploy.training.display import Display
        from segdeploy.training.runner import LabelHook, PositionHook, whole_files

        runner = _build_runner(loaded, config)
        check_files(runner)
        if runner.rank == 0:
            say(_outline(runner))
        runner.register_hook(PositionHook())
        runner.register_hook(LabelHook())
        runner.register_hook(Display(bar, work_dir.name))
        _prepare_network(runner.model, channels_last=settings.channels_last, compiled=settings.compile)
        with whole_files():
            runner.train()
        return _result(runner, work_dir)


def configure(config: str, settings: Settings, place: Place | None = None) -> tuple[Any, Path]:
    """Load a config with the settings applied, and check what can be checked before anything is built.

    Returns:
        The ``mmengine.Config`` and the work dir.

    Raises:
        ConfigError, InputError, CheckpointError: see ``train``.
    """
    load_mmseg()
    loaded = load_config(config, settings.options)
    check_keys(loaded, config)
    work_dir = settings.work_dir or WORK_DIRS / Path(config.rpartition("::")[2]).stem
    loaded.work_dir = str(work_dir)
    loaded.launcher = "pytorch" if place else "none"
    if settings.data_root is not None:
        move_data(loaded, settings.data_root)
    if settings.seed is not None:
        loaded.randomness = {**loaded.get("randomness", {}), "seed": settings.seed}
    if settings.amp:
        _require_cuda()
        loaded.optim_wrapper.type = "AmpOptimWrapper"
        loaded.optim_wrapper.setdefault("loss_scale", "dynamic")
    if settings.auto_scale_lr:
        _scale_learning_rate(loaded)
    _choose_start(loaded, work_dir, settings)
    check_padding(loaded)
    check_data(loaded)
    check_some(loaded)
    if settings.epochs is not None or settings.iterations is not None:
        per_epoch = _iterations_per_epoch(loaded, place.world if place else 1)
        if settings.epochs is not None:
            change_length(loaded, settings.epochs, "epochs", per_epoch)
        else:
            assert settings.iterations is not None
            change_length(loaded, settings.iterations, "iterations", per_epoch)
    return loaded, work_dir


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


def _choose_start(config: Any, work_dir: Path, settings: Settings) -> None:
    if settings.resume and settings.load_from:
        raise InputError(
            expected="--resume or --load-from",
            got="both",
            fix="--resume goes on with a run as it was; --load-from starts a new one from other weights",
        )
    if settings.resume:
        last = last_checkpoint(work_dir)
        content = load_plain(last)  # what cannot be read is said before anything is built
        config.resume, config.load_from = True, str(last)
        # A run without a seed of its own drew one: the samplers, built before the checkpoint is read, need it.
        drawn = dict(content.get("meta") or {}).get("seed")
        if drawn is not None:
            config.randomness = {**config.get("randomness", {}), "seed": int(drawn)}
    elif settings.load_from:
        config.load_from = settings.load_from
        if not settings.load_from.startswith(("http://", "https://")):
            load_plain(Path(settings.load_from))


def last_checkpoint(work_dir: Path) -> Path:
    """The checkpoint to resume from.

    Raises:
        CheckpointError: there is none.
    """
    pointer = work_dir / "last_checkpoint"
    if not pointer.is_file():
        raise CheckpointError(
            expected=f"a run to resume in '{work_dir}'",
            got="no last_checkpoint there",
            fix="leave --resume out, or name its folder with --work-dir",
        )
    # MMEngine writes the path as it was seen then; the folder may have been moved since.
    last = work_dir / Path(pointer.read_text().strip()).name
    if not last.is_file():
        raise CheckpointError(expected=f"the checkpoint '{last}'", got="no such file", fix="leave --resume out")
    return last


def _iterations_per_epoch(config: Any, processes: int) -> int:
    from mmengine.registry import DATASETS

    loader = config.train_dataloader
    try:
        images = len(DATASETS.build(loader.dataset))
    except Exception as error:  # the config names any class, which raises what it likes
        raise _unbuildable("a training data set", error) from error
    return iterations_per_epoch(images, loader.batch_size, processes, drop_last=bool(loader.get("drop_last")))


def _build_runner(loaded: Any, config: str) -> Any:
    from segdeploy.training.runner import ExactRunner

    try:
        runner = ExactRunner.from_cfg(loaded)
        # Runner.train would build these later; here what fails is known to be the config's fault.
        _ = runner.train_loop, runner.val_loop
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    except Exception as error:  # the config names any class, which raises what it likes
        raise _unbuildable(f"a config that MMEngine can build ('{config}')", error) from error
    for handler in [one for one in runner.logger.handlers if type(one) is logging.StreamHandler]:
        runner.logger.removeHandler(handler)
    return runner


def _unbuildable(expected: str, error: Exception) -> ConfigError:
    return ConfigError(
        expected=expected,
        got=f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'no message')}",
        fix="mend it, or override it with --cfg-options",
    )


def _outline(runner: Any) -> str:
    """One line: how many images, steps and epochs there will be, and at which learning rate."""
    loader = runner.train_dataloader
    batch = runner.world_size * loader.batch_size
    images = len(loader.dataset)
    per_epoch = iterations_per_epoch(images, loader.batch_size, runner.world_size, drop_last=loader.drop_last)
    length = length_of(runner.cfg, per_epoch)
    scaling = runner.auto_scale_lr or {}
    rate = runner.optim_wrapper.param_groups[0]["lr"]
    if scaling.get("enable"):
        rate *= batch / scaling["base_batch_size"]
    processes = f", {runner.world_size} processes" if runner.world_size > 1 else ""
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
    scalars = runner.message_hub.log_scalars.get("val/mIoU")
    return TrainResult(last_checkpoint(place), float(scalars.current()) if scalars else None, place)
