"""NNCF's post-training quantization of an OpenVINO model. Imported as ``nncf``, NNCF would report its use to its makers."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.base.errors import ExportError, MissingExtraError
from segdeploy.base.versions import version_of

# NNCF decides while it is imported. The first is its own switch; the second that of the package that it sends through, which
# would keep an identifier in the user's home.
_SILENT = {"NNCF_CI": "1", "CI": "true"}


def import_nncf() -> Any:
    """Import NNCF with its telemetry off; the environment is as before when it is done.

    Raises:
        MissingExtraError: it is not installed.
    """
    before = {name: os.environ.get(name) for name in _SILENT}
    os.environ.update(_SILENT)
    try:
        import nncf
    except ModuleNotFoundError as error:
        raise MissingExtraError(package=str(error.name), extra="openvino", purpose="making int8 models for openvino") from error
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


def quantize(model: Any, never: set[str], batches: Sequence[NDArray[np.uint8]]) -> Any:
    """Quantize a float32 ``openvino.Model``.

    Args:
        model: made from an ONNX file.
        never: the names of the ONNX nodes that stay float32.
        batches: uint8 [N, H, W, 3], to measure ranges on.

    Raises:
        ExportError: NNCF cannot.
    """
    nncf = import_nncf()
    # A convolution with a bias is two nodes to OpenVINO, of which the first is called so.
    names = {node.get_friendly_name() for node in model.get_ops()}
    ignored = sorted(name for name in names if name.removesuffix("/WithoutBiases") in never)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
            return nncf.quantize(
                model,
                nncf.Dataset(batches),
                preset=nncf.QuantizationPreset.MIXED,  # weights symmetric, activations from their least to their largest value
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(batches),
                ignored_scope=nncf.IgnoredScope(names=ignored),
            )
    except (RuntimeError, ValueError, nncf.InternalError, nncf.ValidationError, nncf.UnsupportedModelError) as error:
        raise ExportError(
            expected=f"a model that NNCF {version_of('nncf')} can quantize",
            got=str(error).strip().splitlines()[-1],
            fix="report the model; --to onnx --precision int8 does without NNCF",
        ) from error
