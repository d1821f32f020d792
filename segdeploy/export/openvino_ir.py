"""OpenVINO's intermediate representation: read from an ONNX file, written as model.xml and model.bin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segdeploy.base.errors import ExportError
from segdeploy.base.versions import version_of
from segdeploy.runtime.backends.openvino import import_openvino


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
