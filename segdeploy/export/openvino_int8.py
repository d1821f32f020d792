"""int8 for OpenVINO, made twice: our Q/DQ nodes, and NNCF's post-training quantization. The better of the two is kept.

Both are held against the same labels (``quality.QualityMeter``), by OpenVINO itself.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import onnx

from segdeploy.artifact.manifest import Manifest
from segdeploy.artifact.quantization import Quantization
from segdeploy.base.versions import version_of
from segdeploy.export import nncf
from segdeploy.export.calibration import choose_pictures, network_inputs
from segdeploy.export.openvino_ir import read_ir, write_ir
from segdeploy.export.options import Calibration
from segdeploy.export.precision import convert, labelled
from segdeploy.export.quality import QualityMeter
from segdeploy.export.quantize import never_quantized
from segdeploy.images.decode import read_image

_PRODUCTS = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"})


def write_int8(source: Path, manifest: Manifest, wanted: Calibration, target: Path) -> Manifest:
    """Quantize a float32 ONNX file in both ways and write the better as OpenVINO's IR.

    Args:
        source: the float32 file, in a scratch folder; it becomes the one with Q/DQ nodes.
        manifest: of the artifact to be, an int8 one.
        wanted: the images to do it on, and what it may cost.
        target: the ``.xml``.

    Returns:
        The manifest with ``quantization`` filled in: of what was kept, with the other one's score.

    Raises:
        InputError: there are no images, or one of them cannot be used.
        ExportError: the model does not stand int8, or its graph cannot be quantized.
    """
    floats = Path(shutil.copy(source, source.with_name("float32.onnx")))
    made = convert(source, manifest, wanted)
    assert made.quantization is not None
    pictures = choose_pictures(manifest, wanted)
    ours, theirs = source.with_name("qdq.xml"), source.with_name("nncf.xml")
    write_ir(read_ir(source), ours)
    largest = pictures.max_pixels
    batches = [batch for path in pictures.paths for batch in network_inputs(read_image(path, max_pixels=largest), manifest)]
    quantized = nncf.quantize(read_ir(floats), never_quantized(onnx.load(floats)), batches)
    write_ir(quantized, theirs)

    meter = QualityMeter(manifest, floats, labelled(manifest, wanted), pictures.paths, max_pixels=largest)
    if meter.metric != "mIoU":
        meter.prepare()
    score, other = meter.score(ours, "int8, Q/DQ"), meter.score(theirs, "int8, NNCF")
    best, quantization = ours, made.quantization
    tool, beside = quantization.method, f"NNCF {version_of('nncf')}"
    if other > score:
        best, quantization = theirs, _of_nncf(quantization, quantized, other)
        score, other = other, score
        tool, beside = f"{beside} post-training quantization, mixed preset", "onnxruntime static Q/DQ"
    for suffix in (".xml", ".bin"):
        best.with_suffix(suffix).replace(target.with_suffix(suffix))
    method = f"{tool}; {meter.metric} {score:.2f}, by {beside} {other:.2f}"
    return msgspec.structs.replace(made, quantization=msgspec.structs.replace(quantization, method=method))


def _of_nncf(ours: Quantization, model: Any, score: float) -> Quantization:
    """What the manifest says of NNCF's model, made on the same images as ours."""
    assert ours.quality is not None
    layers = [node for node in model.get_ops() if node.get_type_name() in _PRODUCTS]
    return msgspec.structs.replace(
        ours,
        converted=sum(node.input_value(0).get_node().get_type_name() == "FakeQuantize" for node in layers),
        kept=(),
        quality=msgspec.structs.replace(ours.quality, everything=score, kept_back=score),
    )
