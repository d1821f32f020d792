"""OpenVINO: the ONNX graph as its intermediate representation, model.xml and model.bin.

fp16 is a precision of storage here: half the bytes, arithmetic in float32. bf16 is one of arithmetic: the weights stay
float32, and the runtime is told to compute in bfloat16, which it does where the processor can. int8 is in the graph
(``openvino_int8``).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from segdeploy.artifact.manifest import Manifest
from segdeploy.base.capability import Capability, needs
from segdeploy.base.files import sha256_file
from segdeploy.base.machine import Gpu
from segdeploy.base.versions import version_of
from segdeploy.export.exporter import Exporter, check_quantizer
from segdeploy.export.nncf import import_nncf
from segdeploy.export.onnx import write_onnx
from segdeploy.export.openvino_ir import read_ir, write_ir
from segdeploy.export.options import Options
from segdeploy.runtime.backends.openvino import check_bf16, import_openvino

if TYPE_CHECKING:
    from segdeploy.export.graph import DeployGraph

MODEL_NAME = "model.xml"


def write_openvino(graph: DeployGraph, manifest: Manifest, folder: Path, options: Options) -> Manifest:
    """Write ``model.xml`` and ``model.bin``; the same model gets the same bytes.

    Raises:
        ExportError: the graph cannot be exported to ONNX, OpenVINO cannot read it, or it does not stand int8.
        InputError: int8 without images to make it on.
    """
    precision = manifest.precision
    with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx-") as scratch:
        made = write_onnx(graph, msgspec.structs.replace(manifest, precision="fp32"), Path(scratch), options)
        source = Path(scratch) / "model.onnx"
        parent = sha256_file(source)
        if precision == "int8":
            from segdeploy.export.openvino_int8 import write_int8

            made = write_int8(source, msgspec.structs.replace(made, precision="int8"), options.calibration, folder / MODEL_NAME)
        else:
            write_ir(read_ir(source), folder / MODEL_NAME, half=precision == "fp16")
    return msgspec.structs.replace(
        made,
        precision=precision,
        inference_precision="bf16" if precision == "bf16" else "f32",
        lineage=msgspec.structs.replace(made.lineage, parent_sha256=parent),
        toolchain=msgspec.structs.replace(made.toolchain, openvino=version_of("openvino")),
    )


def _check(options: Options) -> None:
    import_openvino("exporting to openvino")
    if options.precision == "bf16":
        check_bf16()
    if options.precision == "int8":
        check_quantizer(options)
        import_nncf()


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
