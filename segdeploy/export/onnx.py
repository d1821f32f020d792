"""ONNX: the deploy graph through torch.export, with the manifest's facts in the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from segdeploy.artifact.manifest import Bounds, Manifest
from segdeploy.base.errors import ExportError
from segdeploy.base.versions import version_of
from segdeploy.export.exporter import Exporter, check_quantizer
from segdeploy.export.options import Options

if TYPE_CHECKING:
    from segdeploy.export.graph import DeployGraph

_OPSETS = range(18, 24)
# protobuf's own limit of one message; a larger model keeps its weights beside it.
_LARGEST_FILE_BYTES = 1_900_000_000


def write_onnx(graph: DeployGraph, manifest: Manifest, folder: Path, options: Options) -> Manifest:
    """Write ``model.onnx`` in the manifest's precision, checked by ONNX's own checker and shape inference.

    Raises:
        ExportError: the opset is not supported, the model cannot be exported, or it does not stand the precision.
        InputError: a precision below fp32 without images to make it on.
    """
    if options.opset not in _OPSETS:
        raise ExportError(
            expected=f"an opset of {_OPSETS.start} to {_OPSETS.stop - 1}",
            got=str(options.opset),
            fix="leave --opset out for the default",
        )
    path = folder / "model.onnx"
    _export_fp32(graph, manifest, path, options.opset)
    toolchain = msgspec.structs.replace(manifest.toolchain, onnx=version_of("onnx"), onnxruntime=version_of("onnxruntime"))
    manifest = msgspec.structs.replace(manifest, toolchain=toolchain)
    if manifest.precision == "fp32":
        return manifest
    from segdeploy.export.precision import convert

    return convert(path, manifest, options.calibration)


def _export_fp32(graph: DeployGraph, manifest: Manifest, path: Path, opset: int) -> None:
    import onnx
    import torch

    from segdeploy.export.capture import dynamic_axes, example_input, export_error, quiet
    from segdeploy.export.onnx_names import name_nodes

    weights_bytes = sum(t.numel() * t.element_size() for t in graph.state_dict().values())
    try:
        with quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
            program = torch.onnx.export(
                graph,
                (example_input(graph, manifest),),
                dynamo=True,
                dynamic_shapes={"image": dynamic_axes(graph, manifest)},
                input_names=["image"],
                output_names=["mask", "logits"],
                opset_version=opset,
                verbose=False,
            )
            assert program is not None
            _check_axes(program.model.graph.inputs[0].shape, manifest)
            name_nodes(program.model)
            program.model.metadata_props.update(_facts(manifest))
            program.save(str(path), external_data=weights_bytes > _LARGEST_FILE_BYTES)
        onnx.checker.check_model(str(path), full_check=True)
    except ExportError:
        raise
    except Exception as error:  # torch.export raises some twenty unrelated types
        raise export_error(error, f"a model that torch.onnx can export at opset {opset}", "onnx") from error


def _check_axes(shape: Sequence[Any], manifest: Manifest) -> None:
    """torch.onnx takes up what torch.export suggests, and a dynamic axis may come out fixed at the example's size."""
    for letter, axis, size in zip("NHW", manifest.input.shape[:3], shape, strict=False):
        if isinstance(axis, Bounds) and isinstance(size, int):
            raise ExportError(
                expected=f"a dynamic {letter}",
                got=f"a graph in which torch.export fixed it at {size}: the model makes a number of it in Python",
                fix="export a static shape: --shape HxW, --batch N",
            )


def _facts(manifest: Manifest) -> dict[str, str]:
    """What other tools show of the file: Netron, onnxruntime's get_modelmeta()."""
    facts = {
        "segdeploy.name": manifest.name,
        "segdeploy.version": manifest.toolchain.segdeploy,
        "segdeploy.classes": json.dumps(manifest.classes),
        "segdeploy.checkpoint_sha256": manifest.lineage.checkpoint_sha256 or "random weights",
        "segdeploy.preprocess": msgspec.json.encode(manifest.preprocess).decode(),
    }
    command = manifest.lineage.command
    return facts if command is None else {**facts, "segdeploy.command": command}


EXPORTER = Exporter(
    name="onnx",
    title="ONNX",
    modules=("torch", "mmseg", "onnx", "onnxscript"),
    packages=("onnx", "onnxscript"),
    precisions=("fp32", "fp16", "int8"),
    write=write_onnx,
    check=check_quantizer,
)
