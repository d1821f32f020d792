"""Reading a checkpoint without running any code from it."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdeploy.base.errors import CheckpointError, ConfigError, MissingExtraError
from segdeploy.models.config_text import parse_config_text
from segdeploy.models.configs import load_config
from segdeploy.models.registry import checked_config

# Where trainings leave their checkpoints, unless told otherwise.
WORK_DIRS = Path("work_dirs")
# In the meta of a checkpoint that nobody trained; its value is the seed.
RANDOM_WEIGHTS_KEY = "segdeploy_random_weights"


@dataclass(frozen=True)
class Checkpoint:
    """Weights and the config that they belong to.

    Attributes:
        path: where it lies; None for random weights.
        sha256: of the file; None for random weights.
        state_dict: name -> tensor on the CPU; None for random weights.
        config: the mmseg config as plain data.
        config_sha256: of the config's text.
        config_trusted: the user passed the config, so that it may name any code; False for the one stored in the checkpoint,
            which names what mmseg registered and nothing else (see ``segdeploy.models.registry``).
        dataset_meta: classes and palette as the training recorded them; may be empty.
        random_weights: nobody trained it; see ``segdeploy.models.random_weights``.
        size_bytes: of the file; None for random weights.
    """

    path: Path | None
    sha256: str | None
    state_dict: Mapping[str, Any] | None
    config: Mapping[str, Any]
    config_sha256: str
    config_trusted: bool
    dataset_meta: Mapping[str, Any]
    random_weights: bool = False
    size_bytes: int | None = None

    @property
    def source(self) -> str:
        """What to call it in a message."""
        return f"'{self.path}'" if self.path else "the config"


def load_checkpoint(path: Path, config: str | None = None) -> Checkpoint:
    """Load a checkpoint as MMEngine writes it.

    Args:
        path: a .pth file.
        config: an mmseg config that the caller trusts (see ``find_config``; it is Python, executed as mmseg would);
            None to take the one stored in the checkpoint, which is parsed as literals, never executed, and may name only what
            mmseg registered.

    Raises:
        CheckpointError: missing, truncated, not a checkpoint, holding objects other than plain data, or without a config.
        ConfigError: the config cannot be read, or names what could run code.
        MissingExtraError: PyTorch or mmseg is not installed.
    """
    return load_whole(path, config)[0]


def load_whole(path: Path, config: str | None = None) -> tuple[Checkpoint, Mapping[str, Any]]:
    """A checkpoint as ``load_checkpoint`` gives it, and all that is in the file: of the same bytes.

    Raises:
        SegdeployError: as ``load_checkpoint``.
    """
    content, sha256, size = _load_hashed(path)
    state_dict = content.get("state_dict", content)
    tensors = isinstance(state_dict, Mapping) and state_dict and all(hasattr(v, "shape") for v in state_dict.values())
    if not tensors:
        raise CheckpointError(
            expected=f"a 'state_dict' of tensors in '{path}'",
            got=f"the keys {', '.join(map(repr, list(content)[:5])) or 'none'}",
            fix="pass a checkpoint that mmseg or segdeploy train wrote",
        )
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    if config is not None:
        values, text = _config_from_file(config)
        values = _with_model(values, f"'{config}'")
    elif isinstance(meta.get("cfg"), str):
        text = meta["cfg"]
        values = _with_model(parse_config_text(text, f"'{path}'"), f"'{path}'")
        values = checked_config(values, f"'{path}'")
    else:
        # mmseg 0.x kept its config under another name, and in a form that mmseg 1 cannot build from.
        raise CheckpointError(
            expected=f"a config of mmseg 1 inside '{path}' (meta.cfg)",
            got="one of mmseg 0.x" if isinstance(meta.get("config"), str) else "none",
            fix="pass the one it was trained with, or mmseg 1's of the same name: --config FILE",
        )
    checkpoint = Checkpoint(
        path=path,
        sha256=sha256,
        state_dict=state_dict,
        config=values,
        config_sha256=hashlib.sha256(text.encode()).hexdigest(),
        config_trusted=config is not None,
        dataset_meta=_dataset_meta(meta),
        random_weights=RANDOM_WEIGHTS_KEY in meta,
        size_bytes=size,
    )
    return checkpoint, content


def bare_checkpoint(config: str) -> Checkpoint:
    """A config without weights: the model keeps whatever torch begins with; see ``random_weights`` for a model to export.

    Raises:
        ConfigError: the config cannot be read.
    """
    values, text = _config_from_file(config)
    digest = hashlib.sha256(text.encode()).hexdigest()
    values = _with_model(values, f"'{config}'")
    return Checkpoint(None, None, None, values, digest, config_trusted=True, dataset_meta={}, random_weights=True)


def load_plain(path: Path) -> Mapping[str, Any]:
    """Load what ``torch.save`` wrote, as tensors and plain data: an object that could run code when loaded is refused.

    Returns:
        The dict in the file, tensors on the CPU.

    Raises:
        CheckpointError: missing, truncated, or holding something else.
        MissingExtraError: PyTorch is not installed.
    """
    return _load_hashed(path)[0]


def _load_hashed(path: Path) -> tuple[Mapping[str, Any], str, int]:
    """What is in a file, and SHA-256 and number of the very bytes that were loaded: the file may be replaced meanwhile."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="torch", extra="train", purpose="reading a PyTorch checkpoint") from error
    fix = "copy or download it again, or pass another checkpoint"
    if not path.is_file():
        raise CheckpointError(expected=f"a checkpoint file at '{path}'", got="no such file", fix="check the path")
    data = b""
    try:
        data = path.read_bytes()
        with torch.serialization.safe_globals(_plain_types()):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text says how to switch the protection off; a user should hear what was found instead.
        raise CheckpointError(
            expected=f"a PyTorch checkpoint of tensors and plain data at '{path}'",
            got=_offender(str(error)) or "something else",
            fix="pass a file that mmseg or segdeploy train wrote, or save its state_dict alone and pass --config",
        ) from error
    except Exception as error:  # numpy and torch raise what they like on damaged or forged contents
        raise CheckpointError(
            expected=f"a complete PyTorch checkpoint at '{path}'",
            got=f"{len(data)} bytes that cannot be read: {(str(error) or type(error).__name__).splitlines()[0][:90]}",
            fix=fix,
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(expected=f"a dict in '{path}'", got=f"a {type(content).__name__}", fix=fix)
    return content, hashlib.sha256(data).hexdigest(), len(data)


def _plain_types() -> list[Any]:
    """Types beside tensors that MMEngine's own checkpoints hold: numpy scalars and its history buffers, plain data all.

    numpy 1 and numpy 2 name the same two functions by different modules: each reads the other's files.
    """
    import numpy as np

    multiarray = (getattr(np, "_core", None) or np.core).multiarray
    types: list[Any] = [np.ndarray, np.dtype]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        types += [(multiarray._reconstruct, f"{module}._reconstruct"), (multiarray.scalar, f"{module}.scalar")]  # noqa: SLF001
    types += [type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "bool", "U1")]
    try:
        from mmengine.logging.history_buffer import HistoryBuffer
    except ModuleNotFoundError:
        return types

    def history_method(owner: object, name: str) -> Any:
        """What stands in for getattr while loading.

        A history buffer's pickle names its own methods through getattr. MMEngine allows getattr itself, which reaches
        ``__globals__`` and thereby every module: here it gives these methods, and nothing else.
        """
        if owner is not HistoryBuffer or name.startswith("_"):
            raise pickle.UnpicklingError(f"Unsupported: GLOBAL builtins.getattr of {name}")
        return vars(HistoryBuffer)[name]

    return [*types, HistoryBuffer, (history_method, "builtins.getattr")]


def _offender(message: str) -> str:
    import re

    found = re.search(r"GLOBAL ([\w.]+)", message)
    return f"an object of '{found.group(1)}', which could run code when loaded" if found else ""


def _config_from_file(config: str) -> tuple[dict[str, Any], str]:
    loaded = load_config(config)
    return loaded.to_dict(), loaded.pretty_text


def _dataset_meta(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """Classes and palette as mmseg 1 records them, or as mmseg 0.x did."""
    found = meta.get("dataset_meta")
    if isinstance(found, Mapping):
        return found
    return {new: meta[old] for old, new in (("CLASSES", "classes"), ("PALETTE", "palette")) if meta.get(old) is not None}


def _with_model(values: dict[str, Any], source: str) -> dict[str, Any]:
    model = values.get("model")
    if not isinstance(model, Mapping) or "type" not in model:
        raise ConfigError(
            expected=f"a 'model' with a 'type' in the config of {source}",
            got=f"the keys {', '.join(list(values)[:6]) or 'none'}",
            fix="pass the config it was trained with: --config FILE",
        )
    return values
