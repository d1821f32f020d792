"""TorchScript: the deploy graph traced and frozen."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.artifact.manifest import Manifest
from segdeploy.base.errors import ExportError
from segdeploy.export.exporter import Exporter
from segdeploy.export.options import Options

if TYPE_CHECKING:
    from segdeploy.export.graph import DeployGraph


def write_torchscript(graph: DeployGraph, manifest: Manifest, folder: Path, options: Options) -> Manifest:  # noqa: ARG001
    """Write ``model.pt``.

    Raises:
        ExportError: the model cannot be traced, or has custom operators.
    """
    import torch

    from segdeploy.export.capture import example_input, refuse_custom_ops

    try:
        # Tracing warns of torch.jit's deprecation and of every Python number; what counts is held by the parity check.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(graph, (example_input(graph, manifest),), check_trace=False)
            refuse_custom_ops((node.kind() for node in traced.inlined_graph.nodes()), "torchscript")
            torch.jit.freeze(traced).save(str(folder / "model.pt"))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(
            expected="a model that torch.jit can trace",
            got=str(error).strip().splitlines()[0],
            fix="export to onnx instead",
        ) from error
    return manifest


EXPORTER = Exporter(
    name="torchscript",
    title="TorchScript",
    modules=("torch", "mmseg"),
    packages=("torch",),
    precisions=("fp32",),
    write=write_torchscript,
)
