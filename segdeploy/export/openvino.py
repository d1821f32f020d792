"""OpenVINO: the ONNX graph as its intermediate representation, model.xml and model.bin.

fp16 is a precision of storage here: half the bytes, arithmetic in float32. bf16 is one of arithmetic: the weights stay
float32, and the runtime is told to compute in bfloat16, which it does where the processor can. int8 is in the graph.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from segdeploy.artifact.manifest import Manifest
from segdeploy.base.capability import Capability, needs
from segdeploy.base.errors import ExportError
from segdeploy.base.files import sha256_file
from segdeploy.base.machine import Gpu
from segdeploy.base.versions import version_of
from segdeploy.export.exporter import Exporter, check_quantizer
from segdeploy.export.onnx import write_onnx
from segdeploy.export.options import Options
from segdeploy.runtime.backends.openvino import check_bf16, import_openvino

if TYPE_CHECKING:
    from segdeploy.export.graph import DeployGraph

MODEL_NAME = "model.xml"


def write_openvino(graph: DeployGraph, manifest: Manifest, folder: Path, options: Options) -> Manifest:
    """Write ``model.xml`` and ``model.bin``; the same model gets the same bytes.

    Raises:
        ExportError: the graph cannot be exported to ONNX, or OpenVINO cannot read it.
        InputError: int8 without images to make it on.
    """
    precision = manifest.precision
    in_graph = precision if precision == "int8" else "fp32"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx-") as scratch:
        made = write_onnx(graph, msgspec.structs.replace(manifest, precision=in_graph), Path(scratch), options)
        source = Path(scratch) / "model.onnx"
        write_ir(read_ir(source), folder / MODEL_NAME, half=precision == "fp16")
        parent = sha256_file(source)
    return msgspec.structs.replace(
        made,
        precision=precision,
        inference_precision="bf16" if precision == "bf16" else "f32",
        lineage=msgspec.structs.replace(made.lineage, parent_sha256=parent),
        toolchain=msgspec.structs.replace(made.toolchain, openvino=version_of("openvino")),
    )


def read_ir(source: Path) -> Any:
    """An ONNX file as an ``openvino.Model``.

    Raises:
        ExportError: OpenVINO cannot read it.
    """
    openvino = import_openvino("exporting to openvino")
    try:
        return openvino.Core().read_model(str(source))
    except RuntimeError as error:
        raise ExportError(
            expected=f"a graph that OpenVINO {version_of('openvino')} can read",
            got=str(error).strip().splitlines()[-1],
            fix="report the model; onnx still works",
        ) from error


def write_ir(model: Any, path: Path, *, half: bool = False) -> None:
    """Write an ``openvino.Model``.

    Args:
        model: renamed in place.
        path: of the ``.xml``; the weights lie beside it as ``.bin``.
        half: keep weights as float16.
    """
    openvino = import_openvino("exporting to openvino")
    _number_nodes(model)
    openvino.save_model(model, str(path), compress_to_fp16=half)


def _number_nodes(model: Any) -> None:
    """Nodes without a name of ONNX's are called by a counter of the process: number them within the model."""
    for index, node in enumerate(model.get_ordered_ops()):
        kind, _, number = node.get_friendly_name().rpartition("_")
        if number.isdecimal() and kind == node.get_type_name():
            node.set_friendly_name(f"{kind}_{index}")


def _check(options: Options) -> None:
    import_openvino("exporting to openvino")
    if options.precision == "bf16":
        check_bf16()
    if options.precision == "int8":
        check_quantizer(options)


def _examine(gpu: Gpu | None) -> Capability:
    del gpu  # not used
    made = needs("export OpenVINO", ("torch", "mmseg", "onnx", "onnxscript"), ("openvino",), "export")
    return needs(made.purpose, ("openvino",), ("openvino",), "openvino") if made.works else made


EXPORTER = Exporter(
    name="openvino",
    title="OpenVINO",
    modules=("torch", "mmseg", "onnx", "onnxscript"),
    packages=("openvino",),
    precisions=("fp32", "fp16", "bf16", "int8"),
    write=write_openvino,
    check=_check,
    examine=_examine,
)
