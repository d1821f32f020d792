import re

import msgspec
import pytest

from segdeploy.artifact.folder import open_artifact
from segdeploy.base.errors import BackendError, ExportError, InputError, MissingExtraError
from segdeploy.export.export import export_model
from segdeploy.export.exporter import check_export, find_exporter
from segdeploy.export.options import Calibration, Options
from segdeploy.export.precision import convert
from segdeploy.export.shapes import choose_shapes
from segdeploy.models.checkpoint import load_checkpoint

onnx = pytest.importorskip("onnx")


@pytest.fixture
def export(checkpoint_path, exported_before, tmp_path):
    """Exports the tiny checkpoint in a precision: (format, precision, what Calibration takes) -> Artifact."""

    def run(fmt, precision, **wanted):
        shapes = choose_shapes((64, 96), limits=find_exporter(fmt).limits, largest="256x256")
        options = Options(targets=("sm89",), precision=precision, calibration=Calibration(**wanted))
        folder = tmp_path / "exports" / f"{fmt}-{precision}"
        return export_model(load_checkpoint(checkpoint_path), fmt, folder, name="tiny", shapes=shapes, options=options)

    return run


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_artifact_says_how_it_was_made(export, precision, onnx_artifact):
    """Precision, pictures and cost are in the manifest, and nothing but model and manifest in the folder."""
    artifact = export("onnx", precision)
    manifest = open_artifact(artifact.folder).manifest
    assert manifest.label == f"onnx-{precision}"
    made = manifest.quantization
    assert (made.images, re.fullmatch("[0-9a-f]{64}", made.images_sha256) is not None) == (6, True)
    assert made.images_source.startswith("val of ")
    assert (made.quality is None) == (precision == "fp16")
    assert sorted(path.name for path in artifact.folder.iterdir()) == ["manifest.json", "model.onnx"]
    assert manifest.files[0].bytes < onnx_artifact.manifest.files[0].bytes
    onnx.checker.check_model(str(artifact.model_path), full_check=True)


def test_fp32_is_as_it_was(export, onnx_artifact):
    """The same bytes, and nothing of precision in the manifest."""
    artifact = export("onnx", "fp32")
    assert artifact.model_path.read_bytes() == onnx_artifact.model_path.read_bytes()
    assert artifact.manifest.quantization is None


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_real_engine(export, precision, tensorrt_artifact, lowered):
    """TensorRT compiles the converted graph for sm89, and its own parser sees fp16 convolutions or int8 values in it."""
    import tensorrt_rtx as trt

    artifact = export("tensorrt", precision)
    assert artifact.manifest.label == f"tensorrt-{precision}"
    assert artifact.manifest.files[0].path == "model.engine"
    assert artifact.manifest.files[0].bytes > 10_000
    assert artifact.manifest.lineage.parent_sha256 != tensorrt_artifact.manifest.lineage.parent_sha256
    path, _ = lowered(precision, fmt="tensorrt")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(strongly) if strongly is not None else 0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path))
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    convolutions = [layer for layer in layers if layer.type == trt.LayerType.CONVOLUTION]
    if precision == "fp16":
        assert {layer.get_output(0).dtype for layer in convolutions} == {trt.DataType.HALF}
    else:
        fed_by = {layer.get_output(0).name: layer for layer in layers}
        assert all(fed_by[layer.get_input(0).name].type == trt.LayerType.DEQUANTIZE for layer in convolutions)
        quantized = [layer.get_output(0).dtype for layer in layers if layer.type == trt.LayerType.QUANTIZE]
        assert set(quantized) == {trt.DataType.INT8}
        assert len(quantized) > 20


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_no_pictures(export, precision, tmp_path):
    """One line, and neither an artifact nor a temporary folder is left."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="images in"):
        export("onnx", precision, images=tmp_path / "empty")
    assert not list((tmp_path / "exports").iterdir())


def test_an_interrupted_search_leaves_nothing(export, tmp_path, monkeypatch):
    """Ctrl-C in the middle: neither an artifact nor a temporary folder is left."""
    from segdeploy.export import quality

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(quality, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export("onnx", "int8")
    assert not list((tmp_path / "exports").iterdir())


def test_labels_that_were_asked_for_are_needed(export, tmp_path, images_folder):
    """--data without a val split is an error: mask agreement stands in only where nobody named a data set."""
    with pytest.raises(InputError, match="a split 'val'"):
        export("onnx", "int8", images=images_folder, data=tmp_path)


def test_weights_in_a_file_of_their_own(onnx_artifact, images_folder, tmp_path):
    """A model too large for one file is refused, not converted by half."""
    (tmp_path / "model.onnx").write_bytes(onnx_artifact.model_path.read_bytes())
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    manifest = msgspec.structs.replace(onnx_artifact.manifest, precision="int8")
    with pytest.raises(ExportError, match=r"less than 1.9 GB"):
        convert(tmp_path / "model.onnx", manifest, Calibration(images=images_folder))


def test_where_a_precision_cannot_be_made(monkeypatch):
    """TorchScript has only fp32; without onnxruntime it is said what to install. fp32 needs neither."""
    import sys

    with pytest.raises(BackendError, match="fp32 for torchscript; got fp16; .* --to onnx or --to openvino or --to tensorrt"):
        check_export("torchscript", Options(precision="fp16"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(MissingExtraError, match=r"making int8 models.*segdeploy\[onnx\]"):
        check_export("onnx", Options(precision="int8"))
    check_export("onnx", Options())
