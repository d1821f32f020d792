"""From a checkpoint to an Artifact, in any format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from segdeploy.core.artifact import Artifact, write_artifact
from segdeploy.core.checkpoint import Checkpoint
from segdeploy.core.errors import BackendError, MissingExtraError
from segdeploy.core.manifest import Manifest
from segdeploy.core.model import build_model, describe
from segdeploy.export.shapes import Shapes, bounds

FORMATS = ("torchscript", "onnx", "tensorrt")


@dataclass(frozen=True)
class Options:
    """What a format may need beyond the shapes.

    Attributes:
        opset: of ONNX.
        targets: GPU architectures to compile an engine for ahead of time (``sm89``); empty for the GPU of this machine.
        workspace_bytes: how much scratch memory TensorRT's tactics may use; None for its own default.
    """

    opset: int = 18
    targets: tuple[str, ...] = ()
    workspace_bytes: int | None = None


# Given the deploy graph, the manifest so far and a folder, writes model.* into it. Returns the manifest with what the
# format adds (toolchain, target, parent).
Exporter: TypeAlias = Callable[[Any, Manifest, Path, Options], Manifest]


def exporter(fmt: str) -> Exporter:
    """The exporter of a format.

    Raises:
        BackendError: nobody knows it.
        MissingExtraError: its packages are not installed.
    """
    try:
        match fmt:
            case "torchscript":
                from segdeploy.export.torchscript import write_torchscript

                return write_torchscript
            case "onnx":
                from segdeploy.export.onnx import write_onnx

                return write_onnx
            case "tensorrt":
                from segdeploy.export.tensorrt import write_tensorrt

                return write_tensorrt
    except ModuleNotFoundError as error:
        raise MissingExtraError(package=str(error.name), extra="export", purpose=f"exporting to {fmt}") from error
    raise BackendError(expected=f"a format out of {', '.join(FORMATS)}", got=f"'{fmt}'", fix="choose one of these")


def export_model(
    checkpoint: Checkpoint,
    fmt: str,
    folder: Path,
    *,
    name: str,
    shapes: Shapes,
    options: Options | None = None,
) -> Artifact:
    """Export a model and write it as an artifact, atomically.

    Args:
        checkpoint: weights and config.
        fmt: ``torchscript``, ``onnx`` or ``tensorrt``.
        folder: the artifact's folder; an older artifact there is replaced.
        name: what the artifact is called.
        shapes: the input shapes it takes.
        options: what the format may need.

    Raises:
        BackendError: the format is unknown or cannot be made here.
        ExportError: the model cannot be exported so.
        CheckpointError: weights and config do not fit.
        ConfigError: the config asks for something that is not supported.
        InputError: the folder cannot be written.
    """
    write = exporter(fmt)
    manifest = describe(
        checkpoint,
        name=name,
        fmt=fmt,  # type: ignore[arg-type]  # exporter() has checked it
        batch=shapes.batch,
        height=shapes.height,
        width=shapes.width,
    )
    from segdeploy.export.graph import DeployGraph

    graph = DeployGraph(build_model(checkpoint), manifest).eval()
    return write_artifact(folder, lambda target: write(graph, manifest, target, options or Options()))


def example_shape(shapes: tuple[Any, ...]) -> tuple[int, int, int]:
    """A shape for tracing. Dynamic axes take sizes unlike one another and unlike any special case (1, multiples of 32)."""

    def inside(axis: Any, wish: int) -> int:
        low, _, high = bounds(axis)
        return min(max(wish, low), high)

    batch, height, width = shapes[:3]
    return inside(batch, 2), inside(height, 90), inside(width, 130)
