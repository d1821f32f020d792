"""From a checkpoint to an Artifact, in any format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from segdeploy.artifact.folder import Artifact, write_artifact
from segdeploy.artifact.manifest import Engine, Manifest
from segdeploy.base.errors import BackendError, MissingExtraError
from segdeploy.export.options import Options
from segdeploy.export.shapes import Shapes
from segdeploy.models.build import build_model
from segdeploy.models.checkpoint import Checkpoint
from segdeploy.models.describe import crop_size, describe

FORMATS = ("torchscript", "pt2", "onnx", "tensorrt")


# Given the deploy graph, the manifest so far and a folder, writes model.* into it. Returns the manifest with what the
# format adds (toolchain, target, parent).
Exporter: TypeAlias = Callable[[Any, Manifest, Path, Options], Manifest]


def exporter(fmt: str) -> Exporter:
    """The exporter of a format.

    Raises:
        BackendError: nobody knows it, or it needs a compiler that is not here.
        MissingExtraError: its packages are not installed.
    """
    try:
        match fmt:
            case "torchscript":
                from segdeploy.export.torchscript import write_torchscript

                return write_torchscript
            case "pt2":
                from segdeploy.export.pt2 import check_compiler, write_pt2

                check_compiler()
                return write_pt2
            case "onnx":
                from segdeploy.export.onnx import write_onnx

                return write_onnx
            case "tensorrt":
                from segdeploy.export.tensorrt import write_tensorrt

                return write_tensorrt
    except ModuleNotFoundError as error:
        raise MissingExtraError(package=str(error.name), extra="export", purpose=f"exporting to {fmt}") from error
    raise BackendError(expected=f"a format out of {', '.join(FORMATS)}", got=f"'{fmt}'", fix="choose one of these")


def check_precision(fmt: str, precision: str) -> None:
    """Refuse, before any work, a precision that a format cannot be made in here.

    Raises:
        BackendError: the format has only float32.
        MissingExtraError: the packages that convert are not installed.
    """
    if precision == "fp32":
        return
    if fmt in ("torchscript", "pt2"):
        raise BackendError(
            expected=f"fp32 for {fmt}",
            got=precision,
            fix="lower precisions are made in the ONNX graph: use --to onnx or --to tensorrt",
        )
    try:
        import onnxruntime.quantization  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(package=str(error.name), extra="onnx", purpose=f"making {precision} models") from error


def check_build(fmt: str, options: Options) -> None:
    """Refuse, before any work, what TensorRT cannot build here.

    Raises:
        BackendError: it is not installed or too old, or does not compile for the target or in the way that was asked for.
        InputError: the timing cache cannot be written.
    """
    if fmt == "tensorrt":
        from segdeploy.export.tensorrt import plan_build

        plan_build(options)


def export_model(
    checkpoint: Checkpoint,
    fmt: str,
    folder: Path,
    *,
    name: str,
    shapes: Shapes,
    options: Options | None = None,
    command: str | None = None,
) -> Artifact:
    """Export a model and write it as an artifact, atomically.

    Args:
        checkpoint: weights and config.
        fmt: out of ``FORMATS``.
        folder: the artifact's folder; an older artifact there is replaced.
        name: what the artifact is called.
        shapes: the input shapes it takes.
        options: what the format may need.
        command: the command line that makes it again, for the manifest.

    Raises:
        BackendError: the format is unknown or cannot be made here.
        ExportError: the model cannot be exported so.
        CheckpointError: weights and config do not fit.
        ConfigError: the config asks for something that is not supported.
        InputError: the folder cannot be written, or a shape lies below the network's stride.
    """
    write = exporter(fmt)
    options = options or Options()
    check_precision(fmt, options.precision)
    check_build(fmt, options)
    manifest = describe(
        checkpoint,
        name=name,
        fmt=fmt,  # type: ignore[arg-type]  # exporter() has checked it
        precision=options.precision,
        batch=shapes.batch,
        height=shapes.height,
        width=shapes.width,
    )
    if fmt == "tensorrt":
        engine = Engine(profiles=shapes.profiles, typing=options.typing, workspace_bytes=options.workspace_bytes)
        manifest = msgspec.structs.replace(manifest, engine=engine)
    manifest = msgspec.structs.replace(manifest, lineage=msgspec.structs.replace(manifest.lineage, command=command))
    from segdeploy.export.graph import DeployGraph
    from segdeploy.export.stride import check_smallest_side

    graph = DeployGraph(build_model(checkpoint), manifest).eval()
    check_smallest_side(graph, manifest, crop_size(checkpoint.config))
    return write_artifact(folder, lambda target: write(graph, manifest, target, options))
