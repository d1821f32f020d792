"""From an artifact, or a checkpoint, to a Session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from segdeploy.artifact.folder import Artifact
from segdeploy.base.machine import compute_threads
from segdeploy.runtime.backend import find_backend
from segdeploy.runtime.session import Session

Device: TypeAlias = Literal["auto", "cpu", "cuda"]


def open_session(artifact: Artifact, device: Device = "auto", threads: int | None = None) -> Session:
    """Load an artifact so that it can run.

    Args:
        artifact: an exported one, or ``eager_artifact(...)`` for a checkpoint.
        device: ``auto`` takes the GPU where the backend can use one; ``cuda`` where there is none is an error, never a
            silent CPU run.
        threads: CPU threads; None for one on each physical core that this process may use.

    Raises:
        BackendError: the backend is unknown, not installed, or cannot run here.
        ArtifactError: the artifact is bound to another machine.
    """
    return find_backend(artifact.manifest.format).open(artifact, device, threads or compute_threads())


def eager_artifact(checkpoint: Path, config: str | None = None, say: Callable[[str], None] | None = None) -> Artifact:
    """A checkpoint as it is, run by PyTorch and mmseg: the reference of everything else.

    Args:
        checkpoint: a .pth file.
        config: an mmseg config that the caller trusts, in place of the one inside.
        say: called with a line on what of the checkpoint was filled in or left out.

    Raises:
        CheckpointError: it cannot be loaded.
        ConfigError: its config cannot be used.
    """
    from segdeploy.runtime.backends.eager import describe_checkpoint

    return describe_checkpoint(checkpoint, config, say)
