"""The scalars that MMEngine logged during a training, read back as curves."""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.base.errors import InputError
from segdeploy.models.checkpoint import WORK_DIRS

DEFAULT_KEYS = ("loss", "lr", "mIoU")
_LOG = "vis_data/*.json"
_COUNTERS = ("iter", "epoch", "step")


@dataclass(frozen=True)
class Curve:
    """One scalar over the training.

    Attributes:
        iterations: [N], ascending: after how many iterations each value was logged.
        values: [N]; not finite where the training was not.
        validation: measured by a validation, not in a training step.
    """

    iterations: NDArray[np.float64]
    values: NDArray[np.float64]
    validation: bool


@dataclass(frozen=True)
class Run:
    """What one work dir's logs say, those of resumed trainings joined.

    Attributes:
        name: what to call it.
        curves: by the name of the scalar: ``loss``, ``lr``, ``mIoU``, ``decode.loss_ce``, ...
        epoch_length: iterations an epoch; None where the training counted by iteration.
        damaged: lines that were no record, as a killed process leaves them.
    """

    name: str
    curves: Mapping[str, Curve]
    epoch_length: float | None
    damaged: int


@dataclass(frozen=True)
class Summary:
    """A run in figures.

    Attributes:
        name: of the run.
        iterations: how many were logged.
        epochs: likewise; None where the training counted by iteration.
        last_loss: the last training loss that was logged.
        best_miou: in per cent; None where it was not validated.
        best_at: the epoch of it, or the iteration where the training counted so.
    """

    name: str
    iterations: int
    epochs: float | None
    last_loss: float | None
    best_miou: float | None
    best_at: float | None


@dataclass(frozen=True)
class _Record:
    """A line of a log, its step counted in iterations."""

    iteration: float
    validation: bool
    scalars: Mapping[str, float]


def newest_run(root: Path = WORK_DIRS) -> Path:
    """The work dir under ``root`` that was logged to last.

    Raises:
        InputError: there is none.
    """
    logs = sorted(root.glob(f"**/{_LOG}"), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise InputError(
            expected=f"a training run under '{root}'",
            got="none",
            fix="name its work dir, or train with: segdeploy train upernet_r18_synthetic",
        )
    return logs[-1].parents[2]  # work dir / time stamp / vis_data / scalars.json


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read several runs; they are called by their folders, or by their paths where folders have the same name.

    Raises:
        InputError: see ``read_run``.
    """
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read the logs of a work dir.

    A resumed training has logs in several folders, each with the time of its start as name. Where the steps of two overlap,
    those of the later one hold.

    Args:
        folder: a work dir, or one of the time stamped folders in it.
        name: what to call it; the folder's name by default.

    Raises:
        InputError: there are no logs in it, or no records in them.
    """
    read = [_read_lines(path) for path in _logs(folder)]
    damaged = sum(bad for _, bad in read)
    length = _epoch_length(line for lines, _ in read for line in lines)
    joined = _join(_records(lines, length) for lines, _ in read)
    if not joined:
        raise InputError(
            expected=f"logged scalars in '{folder}'",
            got=f"none, and {damaged} damaged lines",
            fix="wait until the training has logged something",
        )
    return Run(name or folder.resolve().name, _curves(joined), length, damaged)


def best(curve: Curve) -> int | None:
    """The index of the highest value; None where no value is finite."""
    return int(np.nanargmax(curve.values)) if np.isfinite(curve.values).any() else None


def choose_keys(runs: Sequence[Run], asked: Sequence[str]) -> tuple[list[str], list[str]]:
    """The scalars to draw, and what there is to say about them.

    Args:
        runs: at least one.
        asked: names of scalars; none for loss, lr and mIoU as far as they were logged.

    Returns:
        Keys that at least one run logged, and notes on runs that lack one or have damaged lines.

    Raises:
        InputError: no run logged a key that was asked for; names what is close, or what there is.
    """
    known = sorted({key for run in runs for key in run.curves})
    keys = list(dict.fromkeys(asked)) or [key for key in DEFAULT_KEYS if key in known] or known[:1]
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            raise InputError(
                expected=f"a scalar that {' or '.join(run.name for run in runs)} logged",
                got=f"'{key}'",
                fix=f"did you mean {' or '.join(close)}?" if close else f"choose out of {', '.join(known)}",
            )
    lines = "{} line of its logs is damaged and left out", "{} lines of its logs are damaged and left out"
    notes = [f"{run.name}: {lines[run.damaged > 1].format(run.damaged)}" for run in runs if run.damaged]
    wanted = keys if asked else DEFAULT_KEYS
    notes += [f"{run.name}: no {key} was logged" for run in runs for key in wanted if key not in run.curves]
    return keys, notes


def summarise(run: Run) -> Summary:
    """A run in figures."""
    last = max(curve.iterations[-1] for curve in run.curves.values())
    loss, miou = run.curves.get("loss"), run.curves.get("mIoU")
    top = None if miou is None else best(miou)
    unit = run.epoch_length or 1.0
    return Summary(
        name=run.name,
        iterations=round(last),
        epochs=round(float(last / unit), 2) if run.epoch_length else None,
        last_loss=float(loss.values[-1]) if loss is not None else None,
        best_miou=float(miou.values[top]) if miou is not None and top is not None else None,
        best_at=round(float(miou.iterations[top] / unit), 2) if miou is not None and top is not None else None,
    )


def _logs(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(expected=f"the folder of a training run at '{folder}'", got="no such folder", fix="check the path")
    for pattern in (f"*/{_LOG}", _LOG, "*.json"):
        # MMEngine writes everything twice, into scalars.json and into one named after the start.
        folders = {path.parent for path in folder.glob(pattern) if path.parent.name == "vis_data"}
        logs = [
            scalars if (scalars := one / "scalars.json").is_file() else max(one.glob("*.json"))
            for one in sorted(folders, key=lambda one: one.parent.name)
        ]
        if logs:
            return logs
    inner = sorted({path.parents[2].name for path in folder.glob(f"*/*/{_LOG}")})
    raise InputError(
        expected=f"logs of MMEngine in '{folder}' (TIME/vis_data/scalars.json)",
        got="none",
        fix=f"name a run in it: {', '.join(inner[:5])}" if inner else "name the work dir of a training",
    )


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    lines, damaged = [], 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        # What is left of a line can be JSON of another kind.
        if isinstance(line, dict) and "step" in line and all(_is_count(line[key]) for key in _COUNTERS if key in line):
            lines.append(line)
        else:
            damaged += 1
    return lines, damaged


def _epoch_length(lines: Iterable[Mapping[str, Any]]) -> float | None:
    """Iterations an epoch: each epoch logs first after the same number of its own iterations, also those of a resumed run."""
    first: dict[float, float] = {}
    last = 0.0
    for line in lines:
        if "iter" in line and "epoch" in line:
            first.setdefault(line["epoch"], line["iter"])
            last = max(last, line["iter"] / max(line["epoch"], 1))
    if not first:
        return None
    epochs = sorted(first)
    steps = [(first[b] - first[a]) / (b - a) for a, b in itertools.pairwise(epochs)]
    return float(np.median(steps)) if steps else last


def _records(lines: Iterable[Mapping[str, Any]], epoch_length: float | None) -> list[_Record]:
    records = []
    iteration = 0.0
    for line in lines:
        scalars = {key: float(value) for key, value in line.items() if key not in _COUNTERS and _is_number(value)}
        validation = "iter" not in line
        if validation and not line["step"]:
            continue  # of a validation without a training
        if not validation:
            iteration = at = float(line["iter"])
        else:
            # A validation logs only its step: epochs (which are fewer than the iterations before it) or iterations.
            by_epoch = epoch_length is not None and line["step"] < iteration
            at = line["step"] * epoch_length if by_epoch and epoch_length else float(line["step"])
        records.append(_Record(at, validation, scalars))
    return records


def _is_count(value: object) -> bool:
    return _is_number(value) and math.isfinite(value) and value >= 0  # type: ignore[operator, arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _join(sessions: Iterable[list[_Record]]) -> list[_Record]:
    joined: list[_Record] = []
    for session in sessions:
        if not session:
            continue
        start, end = min(one.iteration for one in session), max(one.iteration for one in session)
        joined = [one for one in joined if not start <= one.iteration <= end] + session
    return sorted(joined, key=lambda one: one.iteration)


def _curves(records: Sequence[_Record]) -> dict[str, Curve]:
    """Training's and validation's own scalars; of what both log (the time) the training's."""
    curves: dict[str, Curve] = {}
    for validation in (False, True):
        chosen = [one for one in records if one.validation == validation]
        for key in dict.fromkeys(key for one in chosen for key in one.scalars):
            points = np.array([(one.iteration, one.scalars[key]) for one in chosen if key in one.scalars], np.float64)
            curves.setdefault(key, Curve(points[:, 0], points[:, 1], validation))
    return curves
