"""From an artifact, or a checkpoint, to a Session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeAlias

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import BackendError
from segdeploy.runtime.session import Session

Device: TypeAlias = Literal["auto", "cpu", "cuda"]

BACKENDS = ("eager", "torchscript", "pt2", "onnx", "tensorrt")


def open_session(artifact: Artifact, device: Device = "auto", threads: int | None = None) -> Session:
    """Load an artifact so that it can run.

    Args:
        artifact: an exported one, or ``eager_artifact(...)`` for a checkpoint.
        device: ``auto`` takes the GPU where the backend can use one; ``cuda`` where there is none is an error, never a
            silent CPU run.
        threads: CPU threads; None for as many as this process may use.

    Raises:
        BackendError: the backend is unknown, not installed, or cannot run here.
        ArtifactError: the artifact is bound to another machine.
    """
    count = threads or usable_cpus()
    match artifact.manifest.format:
        case "eager":
            from segdeploy.runtime.backends.eager import EagerSession

            return EagerSession(artifact, device, count)
        case "torchscript":
            from segdeploy.runtime.backends.torchscript import TorchScriptSession

            return TorchScriptSession(artifact, device, count)
        case "pt2":
            from segdeploy.runtime.backends.pt2 import Pt2Session

            return Pt2Session(artifact, device, count)
        case "onnx":
            from segdeploy.runtime.backends.onnx import OnnxSession

            return OnnxSession(artifact, device, count)
        case "tensorrt":
            from segdeploy.runtime.backends.tensorrt import TensorRTSession

            return TensorRTSession(artifact, device)
    raise unknown_backend(artifact.manifest.format)


def unknown_backend(name: str) -> BackendError:
    """The error for a backend that nobody knows."""
    return BackendError(expected=f"a backend out of {', '.join(BACKENDS)}", got=f"'{name}'", fix="choose one of these")


def usable_cpus() -> int:
    """How many CPUs this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def eager_artifact(checkpoint: Path, config: str | None = None) -> Artifact:
    """A checkpoint as it is, run by PyTorch and mmseg: the reference of everything else.

    Raises:
        CheckpointError: it cannot be loaded.
        ConfigError: its config cannot be used.
    """
    from segdeploy.runtime.backends.eager import describe_checkpoint

    return describe_checkpoint(checkpoint, config)
