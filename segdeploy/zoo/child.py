"""One config of the zoo, in a process of its own: ``python -m segdeploy.zoo.child FAMILY CONFIG RESULT FORMAT...``."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from segdeploy.artifact.manifest import Bounds
from segdeploy.artifact.verdict import Parity, describe_shape
from segdeploy.base.errors import ConfigError, SegdeployError
from segdeploy.base.files import write_file
from segdeploy.export.export import export_model
from segdeploy.export.shapes import Shapes
from segdeploy.models.build import build_model
from segdeploy.models.checkpoint import Checkpoint
from segdeploy.models.describe import crop_size, describe
from segdeploy.models.random_weights import smallest_size, write_random_checkpoint
from segdeploy.parity.inputs import noise
from segdeploy.parity.verify import verify
from segdeploy.zoo.result import Entry, FormatResult

_IMAGES = 2
_LARGEST_BATCH = 4
_LONGEST_REASON = 160
# What an architecture may ask of its input's sides, beside nothing.
_STEPS = (1, 8, 16, 32)
# What mmseg says where something is missing -> what it is. A name with a package counts only where that is not installed.
_MISSING = (
    ("mmpretrain", "needs mmpretrain", "mmpretrain"),
    ("mmdet", "needs mmdet", "mmdet"),
    # mmseg puts a bare BaseModule where it would take mmdet's head.
    ("BaseModule.__init__() got an unexpected keyword", "needs mmdet", "mmdet"),
    ("install onedl-mmcv for", "needs compiled mmcv ops", "mmcv._ext"),
    ("requirements/optional.txt", "needs the optional packages of mmseg (Stable Diffusion)", "ldm"),
)


@dataclass(frozen=True)
class Sizes:
    """What a model takes.

    Attributes:
        base: the smallest (H, W) that was found.
        step: what the sides of other sizes are multiples of; None where it takes no other.
    """

    base: tuple[int, int]
    step: int | None


def examine(
    family: str, config: str, formats: Sequence[str], scratch: Path, seen: Callable[[Entry], None] = lambda _: None
) -> Entry:
    """Build a config with random weights, export it to every format, and hold each against mmseg.

    Args:
        family: what to call it.
        config: its name.
        formats: to export to.
        scratch: a folder for weights and artifacts.
        seen: is called with what there is after each format.
    """
    try:
        checkpoint = write_random_checkpoint(config, scratch / "random" / "random-weights.pth")
        describe(checkpoint, name="zoo", fmt="eager")
    except SegdeployError as error:
        reason = _missing(str(error))
        if reason:
            return Entry(family=family, config=config, outcome="not available", reason=reason)
        refused = isinstance(error, ConfigError)
        return Entry(family=family, config=config, outcome="not supported" if refused else "failed", reason=error.got)
    model = build_model(checkpoint)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    sizes = find_sizes(model, checkpoint)
    del model
    entry = Entry(family=family, config=config, outcome="exported", parameters=parameters)
    for fmt in formats:
        result = try_format(checkpoint, fmt, sizes, scratch / fmt)
        reasons = [entry.reason] if entry.reason else []
        if result.status == "failed":
            reasons.append(f"{fmt}: {result.reason}")
        entry = msgspec.structs.replace(
            entry,
            outcome="failed" if reasons else "exported",
            reason="; ".join(reasons),
            formats=(*entry.formats, result),
        )
        seen(entry)
    return entry


def find_sizes(model: Any, checkpoint: Checkpoint) -> Sizes:
    """Try what sizes mmseg's own model takes."""
    import torch

    base = smallest_size(model, crop_size(checkpoint.config))
    preprocess = describe(checkpoint, name="zoo", fmt="eager").preprocess

    def takes(height: int, width: int) -> bool:
        try:
            with torch.inference_mode():
                model(torch.zeros(1, 3, *preprocess.network_input(height, width)), mode="tensor")
        except (RuntimeError, AssertionError, ValueError):
            return False
        return True

    for step in _STEPS:
        odd = 27 // step or 1, 45 // step or 1
        if not any(side % step for side in base) and takes(base[0] + odd[0] * step, base[1] + odd[1] * step):
            return Sizes(base, step)
    return Sizes(base, None)


def try_format(checkpoint: Checkpoint, fmt: str, sizes: Sizes, folder: Path) -> FormatResult:
    """Export with dynamic axes; where that does not pass, with a static size."""
    started = time.monotonic()
    (height, width), step = sizes.base, sizes.step
    why = "the architecture takes one size only"
    if step is not None:
        axes = [Bounds(min=side // 2 if side <= 128 else side, opt=side, max=4 * side, step=step) for side in sizes.base]
        shapes = Shapes(Bounds(min=1, opt=1, max=_LARGEST_BATCH), *axes)
        tried = [(1, height, width), (2, height + (27 // step or 1) * step, width + (45 // step or 1) * step)]
        tried.append((1, height + (96 // step) * step, width + (31 // step or 1) * step))
        result = _attempt(checkpoint, fmt, shapes, tried, folder / "dynamic")
        if isinstance(result, FormatResult):
            return msgspec.structs.replace(result, step=step, seconds=round(time.monotonic() - started, 1))
        why = result
    result = _attempt(checkpoint, fmt, Shapes(1, height, width), [(1, height, width)], folder / "static")
    seconds = round(time.monotonic() - started, 1)
    if isinstance(result, FormatResult):
        return msgspec.structs.replace(result, status="static", reason=why, seconds=seconds)
    return FormatResult(format=fmt, status="failed", reason=result, seconds=seconds)


def _attempt(
    checkpoint: Checkpoint, fmt: str, shapes: Shapes, tried: Sequence[tuple[int, int, int]], folder: Path
) -> FormatResult | str:
    """A result that passed, or why there is none."""
    try:
        artifact = export_model(checkpoint, fmt, folder, name="zoo", shapes=shapes)
    except SegdeployError as error:
        return _short(error.got)
    try:
        parity = verify(artifact, inputs=noise(artifact.manifest, _IMAGES), shapes=tried, device="cpu", record=False)
    except Exception as error:  # noqa: BLE001  onnxruntime's, of a graph that cannot run at some size
        return _short(f"it does not run at every size: {_last_line(error)}")
    if parity.verdict != "passed":
        return _worst(parity)
    at_sizes = tuple(shape for shape in parity.shapes if shape.shape is not None)  # noise has no size of its own
    return FormatResult(format=fmt, status="dynamic", parity=at_sizes, bytes=artifact.manifest.files[0].bytes)


def _worst(parity: Parity) -> str:
    if not parity.shapes:
        return parity.reason
    failed = [shape for shape in parity.shapes if shape.verdict != "passed"]
    if not failed:
        return "; ".join(f"{check.name}: {check.reason}" for check in parity.checks if check.verdict == "failed")
    one = max(failed, key=lambda shape: shape.logits.max_abs)
    return f"parity {one.verdict} at {describe_shape(one.shape)}: {one.reason}"


def _last_line(error: Exception) -> str:
    """Where onnxruntime and TorchScript say what was wrong, after their own traces."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].rpartition("Status Message: ")[2]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON].rsplit(" ", 1)[0] + " ..."


def _missing(message: str) -> str:
    for words, reason, package in _MISSING:
        if words in message and not _installed(package):
            return reason
    return ""


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _refuse_network(*_: object) -> None:
    raise OSError("the zoo runs without a network: initial weights are not fetched")


def main() -> None:
    """Examine one config and write the entry."""
    family, config, result, *formats = sys.argv[1:]
    socket.socket.connect = _refuse_network  # type: ignore[method-assign]
    write = partial(_write, Path(result))
    write(examine(family, config, formats, Path(result).parent, write))


def _write(path: Path, entry: Entry) -> None:
    write_file(path, msgspec.json.encode(entry))


if __name__ == "__main__":
    main()
