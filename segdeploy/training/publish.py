"""A checkpoint to give away: the weights and what is needed to use them, in a file that is named by its hash."""

from __future__ import annotations

import copy
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segdeploy.base.errors import CheckpointError
from segdeploy.base.files import write_file
from segdeploy.models.build import build_model
from segdeploy.models.checkpoint import load_whole
from segdeploy.models.configs import load_config
from segdeploy.models.describe import default_name

PUBLISHED = Path("published")
# What a user of the weights may want to know; the rest of MMEngine's meta is about hooks and the machine.
_META = ("cfg", "dataset_meta", "epoch", "iter", "seed", "time", "experiment_name", "mmengine_version", "mmseg_version")
_EMA_PREFIX = "module."
# torch.hub and mmengine find the hash of a file in its name this way, and check it after a download.
_HASHED_NAME = re.compile(r"-[0-9a-f]{8}$")


@dataclass(frozen=True)
class Published:
    """What was written.

    Attributes:
        path: the file, named by the first 8 hex digits of its SHA-256.
        bytes_before: size of the checkpoint.
        bytes_after: size of the file.
        dropped: the parts of the checkpoint that were left out.
        averaged: whether the weights are averaged ones (EMA); None where the training did not average.
    """

    path: Path
    bytes_before: int
    bytes_after: int
    dropped: tuple[str, ...]
    averaged: bool | None


def publish(
    checkpoint: Path, out: Path = PUBLISHED, *, name: str | None = None, config: str | None = None, ema: bool | None = None
) -> Published:
    """Write the weights, the config and the classes of a checkpoint; the same checkpoint gives the same bytes.

    Args:
        checkpoint: a .pth file as MMEngine writes it. It is not changed.
        out: the folder to write into.
        name: what the file is called before the hash; by default that of the run or the file.
        config: an mmseg config that the caller trusts, to go into the file in place of the one stored in the checkpoint.
        ema: of a training with ``EMAHook``, True for the averaged weights (which it validates and which are the default),
            False for those of the last step.

    Raises:
        CheckpointError: it cannot be read, does not fit its config, or has no averaged weights where they are asked for.
        ConfigError: the config cannot be read or built.
        InputError: the folder cannot be written.
    """
    loaded, content = load_whole(checkpoint, config)
    assert loaded.size_bytes is not None
    weights = _choose_weights(content, loaded.state_dict, ema, checkpoint)
    build_model(replace(loaded, state_dict=weights))  # what does not fit is of no use to who gets it
    known = content.get("meta") or {}
    meta = {key: known[key] for key in _META if key in known}
    if config is not None:
        meta["cfg"] = load_config(config).pretty_text
    data = _to_bytes({"meta": meta, "state_dict": _compact(weights)})
    stem = name or _HASHED_NAME.sub("", default_name(loaded))
    path = out / f"{stem}-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    write_file(path, data)
    return Published(
        path=path,
        bytes_before=loaded.size_bytes,
        bytes_after=len(data),
        dropped=tuple(key for key in content if key not in {"meta", "state_dict"}) if "state_dict" in content else (),
        averaged=None if "ema_state_dict" not in content else ema is not False,
    )


def _choose_weights(content: Mapping[str, Any], saved: Any, ema: bool | None, source: Path) -> Any:
    """MMEngine's EMAHook swaps the two when it saves: ``state_dict`` has the averages, ``ema_state_dict`` the last step."""
    if ema is None or (ema and "ema_state_dict" in content):
        return saved
    if "ema_state_dict" not in content:
        raise CheckpointError(
            expected=f"a training with averaged weights (EMAHook) in '{source}'",
            got="no ema_state_dict",
            fix="leave --ema and --no-ema out",
        )
    last = {key.removeprefix(_EMA_PREFIX): tensor for key, tensor in content["ema_state_dict"].items() if key != "steps"}
    if last.keys() != saved.keys():
        raise CheckpointError(
            expected=f"the same names in ema_state_dict and state_dict of '{source}'",
            got=f"{len(last.keys() ^ saved.keys())} that differ",
            fix="leave --no-ema out",
        )
    chosen = copy.copy(saved)
    chosen.update({key: last[key] for key in saved})
    return chosen


def _compact(weights: Any) -> Any:
    """A tensor that is a part of a larger one would be written with all of it."""
    for name, tensor in list(weights.items()):
        if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size():
            weights[name] = tensor.clone()
    return weights


def _to_bytes(content: Mapping[str, Any]) -> bytes:
    import torch

    stream = io.BytesIO()  # not a path: torch writes a path's name into the file
    torch.save(content, stream)
    return stream.getvalue()
