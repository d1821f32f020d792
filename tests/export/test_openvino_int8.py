import os
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from segdeploy.base.errors import ExportError, MissingExtraError
from segdeploy.export import nncf, openvino_int8
from segdeploy.export.exporter import check_export
from segdeploy.export.openvino_ir import read_ir
from segdeploy.export.options import Calibration, Options

onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino", reason="openvino is not installed")
pytest.importorskip("nncf", reason="nncf is not installed")


@pytest.fixture
def int8(onnx_artifact, tmp_path):
    """Quantizes the tiny model in both ways: () -> (the file that is kept, its manifest)."""

    def make(**wanted):
        (tmp_path / "scratch").mkdir()
        source = tmp_path / "scratch" / "model.onnx"
        source.write_bytes(onnx_artifact.model_path.read_bytes())
        manifest = msgspec.structs.replace(onnx_artifact.manifest, precision="int8", format="openvino")
        made = openvino_int8.write_int8(source, manifest, Calibration(**wanted), tmp_path / "model.xml")
        return tmp_path / "model.xml", made

    return make


def quantized_layers(path):
    """The names of the products whose activations are rounded."""
    found = set()
    for node in read_ir(path).get_ops():
        if node.get_type_name() in {"Convolution", "GroupConvolution", "MatMul"}:
            source = node.input_value(0).get_node()
            if source.get_type_name() in {"FakeQuantize", "Convert", "Multiply", "Subtract"}:
                found.add(node.get_friendly_name().removesuffix("/WithoutBiases"))
    return found


@pytest.mark.parametrize("best", ["Q/DQ", "NNCF"])
def test_the_better_of_two_is_kept(int8, monkeypatch, best):
    """By their scores; the manifest names it, with both scores, and describes what is in the file."""
    seen = {}

    def score(meter, model, label):
        del meter
        seen[label.rpartition(" ")[2]] = model.read_bytes() if model.suffix == ".xml" else b""
        return 91.0 if label.endswith(best) else 90.0

    monkeypatch.setattr(openvino_int8.QualityMeter, "score", score)
    path, manifest = int8(max_drop=20)
    made = manifest.quantization
    assert path.read_bytes() == seen[best]
    assert path.with_suffix(".bin").stat().st_size > 1000
    assert made.method.startswith("NNCF" if best == "NNCF" else "onnxruntime static Q/DQ")
    assert "91.00" in made.method
    assert "90.00" in made.method
    assert made.images == 6
    assert made.quality.kept_back == (91 if best == "NNCF" else 90)


def test_both_predict_what_float32_does(onnx_artifact, int8, images_folder, monkeypatch):
    """Judged by OpenVINO on real pictures without labels, each agrees with the float32 masks; the better one is not a copy."""
    scores = {}
    plain = openvino_int8.QualityMeter.score

    def score(meter, model, label):
        scores[label] = plain(meter, model, label)
        return scores[label]

    monkeypatch.setattr(openvino_int8.QualityMeter, "score", score)
    monkeypatch.setattr(openvino_int8, "labelled", lambda *_: [])
    _, manifest = int8(images=images_folder, max_drop=20)
    ours, theirs = scores["int8, Q/DQ"], scores["int8, NNCF"]
    assert 90 < ours < 100
    assert 90 < theirs < 100
    assert ours != theirs
    assert f"mask agreement {max(ours, theirs):.2f}, by " in manifest.quantization.method


def test_what_stays_in_float32_stays_so_in_nncf(onnx_artifact, images_folder, tmp_path):
    """The pooling's products, and the matrices that upsample, are not rounded; the convolutions are."""
    from segdeploy.export.openvino_ir import write_ir
    from segdeploy.export.quantize import never_quantized

    graph = onnx.load(onnx_artifact.model_path)
    never = never_quantized(graph)
    batches = [np.random.default_rng(seed).integers(0, 256, (1, 64, 96, 3), np.uint8) for seed in range(2)]
    write_ir(nncf.quantize(read_ir(onnx_artifact.model_path), never, batches), tmp_path / "model.xml")
    rounded = quantized_layers(tmp_path / "model.xml")
    convolutions = {node.name for node in graph.graph.node if node.op_type == "Conv"}
    products = {node.name for node in graph.graph.node if node.op_type == "MatMul"}
    assert products & never
    assert not rounded & never
    assert len(rounded & convolutions) > 0.9 * len(convolutions)


def test_what_nncf_does_not_take_is_one_line(onnx_artifact):
    """Pictures of a shape that the graph does not have, say."""
    wrong = [np.zeros((1, 64, 96, 5), np.uint8)]
    with pytest.raises(ExportError, match="that NNCF .* can quantize"):
        nncf.quantize(read_ir(onnx_artifact.model_path), set(), wrong)


def test_nncf_reports_to_nobody(tmp_path):
    """Telemetry is off when it is imported, nothing is written into the user's home, and the environment is as before."""
    code = (
        "import os; before = dict(os.environ)\n"
        "from segdeploy.export.nncf import import_nncf\n"
        "import_nncf()\n"
        "from nncf.telemetry import decorator\n"
        "from nncf.telemetry.wrapper import NNCFTelemetry\n"
        "assert not isinstance(decorator.telemetry, NNCFTelemetry)\n"
        "assert dict(os.environ) == before\n"
    )
    plain = {name: value for name, value in os.environ.items() if name not in {"CI", "NNCF_CI", "PYTEST_CURRENT_TEST"}}
    subprocess.run([sys.executable, "-c", code], env={**plain, "HOME": str(tmp_path)}, check=True, timeout=120)
    assert not list(tmp_path.rglob("*intel*"))


def test_without_nncf(monkeypatch):
    """int8 alone needs it; the extra that brings it is named before any work."""
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtraError, match=r"segdeploy\[openvino\]"):
        check_export("openvino", Options(precision="int8"))
    check_export("openvino", Options())
