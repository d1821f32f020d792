"""Going on with a run: its config as it was, what differs now, and a learning rate that follows a new length.

MMEngine restores a scheduler with all that it was built from, so that a run which is made longer would keep its old end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from segdeploy.base.errors import CheckpointError, ConfigError
from segdeploy.base.files import write_file
from segdeploy.base.records import Struct
from segdeploy.models.checkpoint import load_plain
from segdeploy.models.configs import load_config

# Beside the logs: what a config does not say of a run.
RECORD_NAME = "run.json"
# What is chosen for a run beside its config, and goes on being so.
_OF_A_RUN = {"work_dir", "launcher", "resume", "load_from", "randomness", "train_dataloader.batch_size"}
_MOVING = {"last_step", "_global_step", "_last_value", "verbose", "base_values"}


@dataclass(frozen=True)
class Run:
    """A run that can be gone on with.

    Attributes:
        work_dir: where it lies.
        checkpoint: the last one.
        config: the config that it ran with, as MMEngine wrote it down; None where that is gone.
        total_batch: images a step; None where nothing says it.
        world: processes; likewise.
        options: what was typed for ``--cfg-options``; it is in the config already.
    """

    work_dir: Path
    checkpoint: Path
    config: Path | None
    total_batch: int | None
    world: int | None
    options: Mapping[str, str]


class _Record(Struct, frozen=True):
    """The content of ``run.json``."""

    total_batch: int | None = None
    world: int | None = None
    options: dict[str, str] = msgspec.field(default_factory=dict)


def find_run(work_dir: Path) -> Run | None:
    """The run in a work dir; None where none has left a checkpoint yet.

    Raises:
        CheckpointError: there was one, and its last checkpoint is gone.
    """
    pointer = work_dir / "last_checkpoint"
    if not pointer.is_file():
        return None
    # MMEngine writes the path as it was seen then; the folder may have been moved since.
    last = work_dir / Path(pointer.read_text().strip()).name
    if not last.is_file():
        raise CheckpointError(expected=f"the checkpoint '{last}'", got="no such file", fix="leave --resume out")
    configs = sorted(work_dir.glob("*.py"), key=lambda path: path.stat().st_mtime)
    record = _read_record(work_dir / RECORD_NAME)
    return Run(work_dir, last, configs[-1] if configs else None, record.total_batch, record.world, record.options)


def remember(work_dir: Path, *, total_batch: int, world: int, options: Mapping[str, str]) -> None:
    """Write down what a config does not say."""
    record = _Record(total_batch=total_batch, world=world, options=dict(options))
    write_file(work_dir / RECORD_NAME, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def drawn_seed(checkpoint: Path) -> int | None:
    """The seed of a run: one without a seed of its own drew one, and the samplers need it before the checkpoint is read."""
    drawn = dict(load_plain(checkpoint).get("meta") or {}).get("seed")
    return None if drawn is None else int(drawn)


def resumed_config(run: Run, name: str, options: Mapping[str, str]) -> tuple[Any, list[str]]:
    """The config of a run with the options typed now.

    Args:
        run: which.
        name: of the config that was named now.
        options: of ``--cfg-options``.

    Returns:
        The ``mmengine.Config``, and in a line each what the named config says otherwise than the run did.
    """
    if run.config is None:
        return load_config(name, options), []
    # What was typed then was converted with the rest, where the run counts in another unit than its config.
    config = load_config(str(run.config), {key: value for key, value in options.items() if run.options.get(key) != value})
    try:
        named = load_config(name, options)
    except ConfigError:  # gone or changed since: the run has its own
        return config, []
    return config, list(_differences(named.to_dict(), config.to_dict()))


def _differences(named: Mapping[str, Any], run: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key in sorted({*named, *run} & set(named), key=str):
        at = f"{path}{key}"
        if at in _OF_A_RUN or key == "data_root":
            continue
        ours, theirs = named[key], run.get(key)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from _differences(ours, theirs, f"{at}.")
        elif _plain(ours) != _plain(theirs):
            yield f"{at}: {_short(theirs)} in the run, {_short(ours)} in the config"


def _plain(value: Any) -> Any:
    return list(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _read_record(path: Path) -> _Record:
    if not path.is_file():
        return _Record()
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except msgspec.DecodeError as error:
        raise CheckpointError(
            expected=f"the record of a run in '{path}'", got=str(error), fix="remove that file to resume without it"
        ) from error


class Plan:
    """The schedule that a config asks for, kept while MMEngine restores the one that a run was started with."""

    def __init__(self, runner: Any) -> None:
        """Take it from a runner that has built its schedulers and not yet resumed."""
        self._schedulers = [_built_from(one) for one in _each(runner.param_schedulers)]
        self._groups = [dict(_values(group)) for group in runner.optim_wrapper.param_groups]

    def follow(self, runner: Any) -> bool:
        """Put it in force where it is another than the restored one; whether it is."""
        restored = [_built_from(one) for one in _each(runner.param_schedulers)]
        groups = runner.optim_wrapper.param_groups
        same = restored == self._schedulers and all(
            _initial(group, name) == _initial(planned, name)
            for group, planned in zip(groups, self._groups, strict=True)
            for name in ("lr", "momentum")
        )
        if same or not self._schedulers:
            return False
        for group, planned in zip(groups, self._groups, strict=True):
            for name in ("lr", "momentum"):
                if f"initial_{name}" in planned:
                    group[name] = group[f"initial_{name}"] = planned[f"initial_{name}"]
        runner.param_schedulers = runner.build_param_scheduler(copy.deepcopy(runner.cfg.param_scheduler))
        _advance(_each(runner.param_schedulers), runner.iter, _epoch_length(runner))
        return True


def rate_at_the_end(runner: Any) -> float:
    """The learning rate of a run's last step, by stepping a copy of its schedulers from the beginning."""
    import torch
    from mmengine.optim import OptimWrapper

    first = runner.optim_wrapper.param_groups[0]
    one = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": _initial(first, "lr"), "momentum": first.get("momentum", 0.0)}
    wrapper = OptimWrapper(torch.optim.SGD([one]))
    schedulers = runner._build_param_scheduler(copy.deepcopy(runner.cfg.param_scheduler or []), wrapper)  # noqa: SLF001
    _advance(schedulers, runner.max_iters - 1, _epoch_length(runner))
    return float(wrapper.param_groups[0]["lr"])


def _epoch_length(runner: Any) -> int | None:
    """Iterations an epoch; None where the loop counts iterations, and no epoch ever ends."""
    return len(runner.train_dataloader) if "max_epochs" in runner.cfg.train_cfg else None


def _advance(schedulers: list[Any], iterations: int, per_epoch: int | None) -> None:
    """Step schedulers as ParamSchedulerHook does in so many iterations."""
    by_iteration = [one for one in schedulers if not one.by_epoch]
    by_epoch = [one for one in schedulers if one.by_epoch]
    for iteration in range(1, iterations + 1):
        for one in by_iteration:
            one.step()
        if per_epoch and iteration % per_epoch == 0:
            for one in by_epoch:
                one.step()


def _each(schedulers: Any) -> list[Any]:
    if isinstance(schedulers, dict):  # of several optimizers
        return [one for part in schedulers.values() for one in part]
    return list(schedulers or [])


def _built_from(scheduler: Any) -> dict[str, Any]:
    return {key: value for key, value in scheduler.state_dict().items() if key not in _MOVING}


def _values(group: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in group.items() if key != "params")


def _initial(group: Mapping[str, Any], name: str) -> Any:
    return group.get(f"initial_{name}", group.get(name))
