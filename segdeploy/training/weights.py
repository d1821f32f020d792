"""Which weights of a checkpoint fit a model, for fine-tuning and resuming."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdeploy.base.errors import CheckpointError


@dataclass(frozen=True)
class Fit:
    """What became of a checkpoint's tensors.

    Attributes:
        loaded: how many fit.
        missing: names of the model that the checkpoint lacks.
        reshaped: names with another shape, with (checkpoint's, model's).
        unused: names that the model lacks.
    """

    loaded: int
    missing: tuple[str, ...]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unused: tuple[str, ...]

    @property
    def left(self) -> tuple[str, ...]:
        """Names of the model that keep their initialisation."""
        return (*self.missing, *self.reshaped)

    def summary(self) -> str:
        """One line of counts."""
        wanted = self.loaded + len(self.left)
        parts = [f"{self.loaded} of the model's {wanted} tensors loaded"]
        parts += [f"{len(self.reshaped)} of another shape"] if self.reshaped else []
        parts += [f"{len(self.missing)} not in the checkpoint"] if self.missing else []
        parts += [f"{len(self.unused)} of the checkpoint not used"] if self.unused else []
        return ", ".join(parts)

    def lines(self) -> list[str]:
        """One line for each tensor that did not fit."""
        return [
            *(f"  {name}: {theirs} in the checkpoint, {ours} in the model" for name, (theirs, ours) in self.reshaped.items()),
            *(f"  {name}: not in the checkpoint" for name in self.missing),
            *(f"  {name}: not in the model" for name in self.unused),
        ]


def fit_weights(model: Any, checkpoint: Mapping[str, Any]) -> tuple[Fit, dict[str, Any]]:
    """Match a checkpoint with a model.

    Args:
        model: a ``torch.nn.Module``.
        checkpoint: as MMEngine writes it, or a bare state dict; names may begin with ``module.``.

    Returns:
        What fits and what does not, and the tensors that fit by name.
    """
    given = {name.removeprefix("module."): tensor for name, tensor in checkpoint.get("state_dict", checkpoint).items()}
    own = model.state_dict()
    weights = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
    fit = Fit(
        loaded=len(weights),
        missing=tuple(name for name in own if name not in given),
        reshaped={
            name: (tuple(given[name].shape), tuple(own[name].shape)) for name in own if name in given and name not in weights
        },
        unused=tuple(name for name in given if name not in own),
    )
    return fit, weights


def local_file(source: str) -> Path:
    """A checkpoint on this machine: a path as it is, a URL after it was fetched into PyTorch's cache.

    Raises:
        CheckpointError: the download failed.
    """
    if not source.startswith(("http://", "https://")):
        return Path(source)
    from torch.hub import download_url_to_file, get_dir

    path = Path(get_dir()) / "checkpoints" / source.rpartition("/")[2]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            download_url_to_file(source, str(path), progress=False)
        except OSError as error:
            raise CheckpointError(
                expected=f"a checkpoint at '{source}'", got=str(error), fix="download it by hand and pass its path"
            ) from error
    return path
