"""How long a run is: epochs from iterations and back, with the learning rate, the checkpoints and the validations following."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from segdeploy.base.errors import ConfigError

Unit: TypeAlias = Literal["epochs", "iterations"]

_ENDLESS, _ENDING = "InfiniteSampler", "DefaultSampler"


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        count: of units.
        unit: what the config counts.
        per_epoch: iterations an epoch.
    """

    count: int
    unit: Unit
    per_epoch: int

    @property
    def iterations(self) -> int:
        """In iterations."""
        return self.count * self.per_epoch if self.unit == "epochs" else self.count

    @property
    def epochs(self) -> float:
        """In epochs."""
        return self.count if self.unit == "epochs" else self.count / self.per_epoch


def iterations_per_epoch(images: int, batch: int, processes: int, *, drop_last: bool) -> int:
    """How many steps one pass over the images takes, each of ``processes * batch`` images; at least 1."""
    own = math.ceil(images / processes)  # DefaultSampler fills up, so that all processes have as many
    return max(1, own // batch if drop_last else math.ceil(own / batch))


def length_of(config: Any, per_epoch: int) -> Length:
    """The length that a config asks for.

    Raises:
        ConfigError: its loop is neither by epoch nor by iteration.
    """
    loop = config.get("train_cfg") or {}
    for key, unit in (("max_epochs", "epochs"), ("max_iters", "iterations")):
        if key in loop:
            return Length(int(loop[key]), unit, per_epoch)  # type: ignore[arg-type]  # mypy widens the literal
    raise ConfigError(
        expected="a train_cfg with max_epochs or max_iters",
        got=", ".join(map(str, loop)) or "nothing",
        fix="add one to the config",
    )


def change_length(config: Any, count: int, unit: Unit, per_epoch: int) -> None:
    """Make a config run for ``count`` epochs or iterations, whichever it counts now.

    What reaches to the end (the learning rate's decay) reaches to the new end; a warm-up stays as long as it was. Where the
    unit changes, intervals of checkpoints and validations are converted, and the sampler becomes one that ends or one that
    does not.

    Args:
        config: an ``mmengine.Config``, changed in place.
        count: how many.
        unit: of what.
        per_epoch: iterations an epoch.

    Raises:
        ConfigError: see ``length_of``.
    """
    old, new = length_of(config, per_epoch), Length(count, unit, per_epoch)
    schedulers = config.get("param_scheduler") or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        _stretch(scheduler, old, new)
    loop = config.train_cfg
    interval = int(loop.get("val_interval", 1 if old.unit == "epochs" else 1000))
    for key in ("max_epochs", "max_iters", "by_epoch", "type"):
        loop.pop(key, None)
    by_epoch = unit == "epochs"
    loop.update(
        {"type": "EpochBasedTrainLoop", "max_epochs": count} if by_epoch else {"type": "IterBasedTrainLoop", "max_iters": count}
    )
    loop["val_interval"] = _interval(interval, old, new)
    if loop.get("val_begin"):
        loop["val_begin"] = _interval(int(loop["val_begin"]), old, new)
    if old.unit != unit:
        _change_unit(config, old, new)


def _change_unit(config: Any, old: Length, new: Length) -> None:
    by_epoch = new.unit == "epochs"
    hooks = config.get("default_hooks") or {}
    if hooks.get("checkpoint"):
        hooks["checkpoint"]["by_epoch"] = by_epoch
        hooks["checkpoint"]["interval"] = _interval(int(hooks["checkpoint"].get("interval", 1)), old, new)
    if hooks.get("logger"):
        hooks["logger"]["log_metric_by_epoch"] = by_epoch
    config["log_processor"] = {**(config.get("log_processor") or {}), "by_epoch": by_epoch}
    sampler = config.train_dataloader.get("sampler") or {}
    if sampler.get("type") in {_ENDLESS, _ENDING}:
        sampler["type"] = _ENDING if by_epoch else _ENDLESS


def _interval(value: int, old: Length, new: Length) -> int:
    """The same distance in the new unit, at least 1 and at most the whole run."""
    if old.unit != new.unit:
        value = round(value / new.per_epoch) if new.unit == "epochs" else value * new.per_epoch
    return min(max(1, value), new.count)


def _stretch(scheduler: Any, old: Length, new: Length) -> None:
    by_epoch = bool(scheduler.get("by_epoch", True))
    whole = old.epochs if by_epoch else old.iterations
    begin, end = scheduler.get("begin", 0), scheduler.get("end")
    if end is not None and end < whole:
        return  # a warm-up, or one phase of several
    factor = new.count / whole
    if by_epoch != (new.unit == "epochs"):
        scheduler["by_epoch"] = new.unit == "epochs"
        begin = round(begin / new.per_epoch) if new.unit == "epochs" else begin * new.per_epoch
        scheduler.pop("convert_to_iter_based", None)
        if new.unit == "epochs":
            scheduler["convert_to_iter_based"] = True  # as smooth as it was
    scheduler["begin"], scheduler["end"] = begin, new.count
    for key in ("T_max", "total_steps", "total_iters"):
        if key in scheduler:
            scheduler[key] = max(1, round(scheduler[key] * factor))
    if "milestones" in scheduler:
        scheduler["milestones"] = [max(1, round(one * factor)) for one in scheduler["milestones"]]
