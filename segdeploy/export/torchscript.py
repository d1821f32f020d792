"""TorchScript: the deploy graph traced and frozen."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from segdeploy.artifact.manifest import Manifest
from segdeploy.base.errors import ExportError
from segdeploy.export.capture import example_input, refuse_custom_ops
from segdeploy.export.graph import DeployGraph
from segdeploy.export.options import Options


def write_torchscript(graph: DeployGraph, manifest: Manifest, folder: Path, options: Options) -> Manifest:  # noqa: ARG001
    """Write ``model.pt``.

    Raises:
        ExportError: the model cannot be traced, or has custom operators.
    """
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
