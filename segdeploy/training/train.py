"""Training, by MMEngine's Runner. What is added: one-line errors, a live bar, whole files, and where the result lies."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdeploy.core.checkpoint import load_checkpoint
from segdeploy.core.configs import load_config
from segdeploy.core.errors import CheckpointError, ConfigError, DivergedError, InputError
from segdeploy.core.files import write_file
from segdeploy.core.mmseg import load_mmseg
from segdeploy.core.progress import Advance, progress_bar
from segdeploy.core.targets import WORK_DIRS

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


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


def train(
    config: str,
    *,
    work_dir: Path | None = None,
    data_root: Path | None = None,
    resume: bool = False,
    amp: bool = False,
    seed: int | None = None,
    options: Mapping[str, str] | None = None,
) -> TrainResult:
    """Train a model as its config says.

    Args:
        config: see ``find_config``.
        work_dir: where logs and checkpoints go; ``work_dirs/NAME`` by default.
        data_root: the data set, in place of the config's; a folder that holds ``VOCdevkit/VOC2012`` stands for that.
        resume: go on from the last checkpoint in ``work_dir``.
        amp: mixed precision; needs CUDA.
        seed: in place of the config's.
        options: ``key=value`` changes to the config.

    Raises:
        ConfigError: the config cannot be loaded or does not fit together.
        InputError: the data set or a file of it is not there, or there is no CUDA for ``amp``.
        CheckpointError: there is nothing to resume, or it is damaged.
        DivergedError: the loss became NaN or infinite.
    """
    load_mmseg()
    loaded = load_config(config, options)
    place = work_dir or WORK_DIRS / Path(config.rpartition("::")[2]).stem
    _apply(loaded, place, data_root, resume=resume, amp=amp, seed=seed)
    _check_data(loaded)
    with _quiet_console(), contextlib.ExitStack() as bar:
        runner = _build_runner(loaded, config)
        _check_files(runner)
        runner.register_hook(_display_hook(bar, place.name), priority="LOWEST")
        with _whole_files():
            runner.train()
    return _result(runner, place)


def _apply(config: Any, place: Path, data_root: Path | None, *, resume: bool, amp: bool, seed: int | None) -> None:
    config.work_dir = str(place)
    if data_root is not None:
        nested = data_root / "VOCdevkit" / "VOC2012"
        for loader in _LOADERS:
            for dataset in _datasets(config, loader):
                # Absolute: the checkpoint remembers it, and `eval` or `bench` may be run from another folder.
                dataset["data_root"] = str((nested if nested.is_dir() else data_root).resolve())
    if seed is not None:
        config.randomness = {**config.get("randomness", {}), "seed": seed}
    if amp:
        _require_cuda()
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.setdefault("loss_scale", "dynamic")
    if resume:
        config.resume = True
        last = _last_checkpoint(place)
        load_checkpoint(last)  # MMEngine runs what it does not know: hold the file to plain data first
        config.load_from = str(last)


def _datasets(config: Any, loader: str) -> Iterator[Any]:
    """The data sets of a loader, out of wrappers such as ConcatDataset."""
    waiting = [(config.get(loader) or {}).get("dataset")]
    while waiting:
        dataset = waiting.pop(0)
        if not dataset:
            continue
        inner = [dataset.get("dataset"), *(dataset.get("datasets") or [])]
        if any(inner):
            waiting += inner
        else:
            yield dataset


def _require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise InputError(expected="a CUDA device for --amp", got="none", fix="leave --amp out")


def _last_checkpoint(place: Path) -> Path:
    pointer = place / "last_checkpoint"
    if not pointer.is_file():
        raise CheckpointError(
            expected=f"a run to resume in '{place}'",
            got="no last_checkpoint there",
            fix="leave --resume out, or name its folder with --work-dir",
        )
    # MMEngine writes the path as it was seen then; the folder may have been moved since.
    last = place / Path(pointer.read_text().strip()).name
    if not last.is_file():
        raise CheckpointError(expected=f"the checkpoint '{last}'", got="no such file", fix="leave --resume out")
    return last


def _check_data(config: Any) -> None:
    for loader in ("train_dataloader", "val_dataloader"):
        for dataset in _datasets(config, loader):
            root = dataset.get("data_root")
            if root is None:
                continue
            prefix = dataset.get("data_prefix") or {}
            needed = (Path(root, part) for part in ("", dataset.get("ann_file") or "", *prefix.values()))
            missing = next((path for path in needed if not path.exists()), None)
            if missing is not None:
                raise InputError(
                    expected=f"the data set of {loader} at '{root}'",
                    got=f"nothing at '{missing}'",
                    fix="pass --data-root DIR, or make one with: segdeploy data synth",
                )
            _check_classes(dataset, Path(root))


def _check_classes(dataset: Any, root: Path) -> None:
    """Synthetic data says which classes it has; labels beyond the model's would end in an index error."""
    described = next((path for path in (root / "classes.json", root.parent.parent / "classes.json") if path.is_file()), None)
    expected = list((dataset.get("metainfo") or {}).get("classes") or [])
    if described is None or not expected:
        return
    found = json.loads(described.read_text())["classes"]
    if found != expected:
        raise InputError(
            expected=f"the config's {len(expected)} classes in '{described}'",
            got=f"{len(found)}: {', '.join(found)}",
            fix=f"make the data set again with --classes {len(expected)}, or change the config's classes and num_classes",
        )


def _build_runner(loaded: Any, config: str) -> Any:
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    try:
        runner = RUNNERS.build(loaded) if "runner_type" in loaded else Runner.from_cfg(loaded)
        # Runner.train would build these later; here what fails is known to be the config's fault.
        _ = runner.train_loop, runner.val_loop
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    except Exception as error:  # the config names any class, which raises what it likes
        raise ConfigError(
            expected=f"a config that MMEngine can build ('{config}')",
            got=f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'no message')}",
            fix="mend it, or override it with --cfg-options",
        ) from error
    for handler in [one for one in runner.logger.handlers if type(one) is logging.StreamHandler]:
        runner.logger.removeHandler(handler)
    return runner


def _check_files(runner: Any) -> None:
    """Every image and label is there before an hour is spent; stating 10,000 files takes a fraction of a second."""
    for loop in (runner.train_loop, runner.val_loop):
        if loop is None:
            continue
        dataset = loop.dataloader.dataset
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        paths = [Path(info[key]) for info in infos for key in ("img_path", "seg_map_path") if info.get(key)]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise InputError(
                expected=f"every image of {len(infos)} with its label map",
                got=f"{len(missing)} files missing, the first '{missing[0]}'",
                fix="complete the data set",
            )
        if not len(loop.dataloader):
            raise InputError(
                expected=f"images for at least one batch of {loop.dataloader.batch_size}",
                got=str(len(infos)),
                fix="add images, or pass --cfg-options train_dataloader.batch_size=N",
            )


@contextlib.contextmanager
def _quiet_console() -> Iterator[None]:
    """The console keeps the live bar: what MMEngine prints to stdout is in its log file as well."""
    with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _whole_files() -> Iterator[None]:
    """A run that is killed leaves no half a checkpoint: MMEngine's files are written beside their place, then renamed."""
    from mmengine.fileio import LocalBackend

    original = LocalBackend.put
    LocalBackend.put = lambda _self, obj, filepath: write_file(Path(filepath), bytes(obj))
    try:
        yield
    finally:
        LocalBackend.put = original


def _display_hook(bar: contextlib.ExitStack, name: str) -> Any:
    import torch
    from mmengine.hooks import Hook

    class Display(Hook):
        """Moves the bar, and stops a run whose loss is no number any more."""

        advance: Advance
        miou = ""

        def before_train(self, runner: Any) -> None:
            """Open the bar: only now is it known how far a resumed run had come."""
            self.advance = bar.enter_context(progress_bar(f"train {name}", runner.max_iters, done=runner.iter))

        def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:  # noqa: ARG002
            """Remember the mIoU for the bar."""
            if metrics and "mIoU" in metrics:
                self.miou = f"  val mIoU {metrics['mIoU']:.1f}"

        def after_train_iter(
            self,
            runner: Any,
            batch_idx: int,  # noqa: ARG002  MMEngine passes it by name
            data_batch: Any = None,
            outputs: Mapping[str, Any] | None = None,
        ) -> None:
            """Show epoch, loss, learning rate and memory."""
            loss = float((outputs or {}).get("loss", 0.0))
            if not math.isfinite(loss):
                names = [Path(sample.img_path).name for sample in (data_batch or {}).get("data_samples", [])]
                raise DivergedError(
                    expected="a finite loss",
                    got=f"{loss} in iteration {runner.iter + 1}, with the images {', '.join(names[:8])}",
                    fix="lower the learning rate, or check these images and their labels",
                )
            # Loops by iteration have no epochs to speak of.
            epoch = f"epoch {runner.epoch + 1}/{runner.max_epochs}  " if runner.max_epochs > 1 else ""
            rate = next(iter(runner.optim_wrapper.get_lr().values()))[0]
            memory = f"  {torch.cuda.max_memory_reserved() / 2**30:.1f} GiB" if torch.cuda.is_available() else ""
            self.advance(note=f"{epoch}loss {loss:.3f}  lr {rate:.1e}{memory}{self.miou}")

    return Display()


def _result(runner: Any, place: Path) -> TrainResult:
    info = runner.message_hub.runtime_info
    if "best_ckpt" in info and (best := place / Path(info["best_ckpt"]).name).is_file():
        score = info.get("best_score")
        return TrainResult(best, None if score is None else float(score), place)
    scalars = runner.message_hub.log_scalars.get("val/mIoU")
    return TrainResult(_last_checkpoint(place), float(scalars.current()) if scalars else None, place)
