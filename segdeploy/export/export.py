"""From a checkpoint to an Artifact, in any format."""

from __future__ import annotations

from pathlib import Path

import msgspec

from segdeploy.artifact.folder import Artifact, write_artifact
from segdeploy.export.exporter import check_export
from segdeploy.export.fit import choose_fit
from segdeploy.export.options import Options
from segdeploy.export.shapes import Shapes
from segdeploy.models.build import build_model
from segdeploy.models.checkpoint import Checkpoint
from segdeploy.models.describe import crop_size, describe


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
        fmt: its name.
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
        InputError: the folder cannot be written, a shape lies below the network's stride, or the
            model's slide crop does not fit into the shapes.
    """
    options = options or Options()
    exporter = check_export(fmt, options)
    manifest = describe(
        checkpoint,
        name=name,
        fmt=exporter.name,
        precision=options.precision,
        batch=shapes.batch,
        height=shapes.height,
        width=shapes.width,
    )
    manifest = exporter.plan(manifest, shapes, options)
    manifest = msgspec.structs.replace(manifest, lineage=msgspec.structs.replace(manifest.lineage, command=command))
    manifest = msgspec.structs.replace(manifest, fit=choose_fit(manifest, options.fit))
    from segdeploy.export.graph import DeployGraph
    from segdeploy.export.stride import check_smallest_side

    graph = DeployGraph(build_model(checkpoint), manifest, restructured=options.restructures).eval()
    manifest = msgspec.structs.replace(manifest, restructured=graph.restructured)
    check_smallest_side(graph, manifest, crop_size(checkpoint.config))
    return write_artifact(folder, lambda place: exporter.write(graph, manifest, place, options))
