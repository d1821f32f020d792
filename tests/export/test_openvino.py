import json

import pytest

from segdeploy.artifact.rebuild import export_command
from segdeploy.base.errors import BackendError, MissingExtraError
from segdeploy.export import openvino
from segdeploy.export.exporter import check_export
from segdeploy.export.openvino_ir import read_ir, write_ir
from segdeploy.export.options import Options

pytest.importorskip("openvino", reason="openvino is not installed")


def test_what_is_recorded(openvino_artifact):
    """Both files are in the manifest, the one that describes the network first; precision, parent and version are told."""
    manifest = openvino_artifact.manifest
    assert [entry.path for entry in manifest.files] == ["model.xml", "model.bin"]
    assert manifest.inference_precision == "f32"
    assert manifest.toolchain.openvino
    assert manifest.lineage.parent_sha256
    assert manifest.target is None


def test_the_same_bytes_twice(onnx_artifact, tmp_path):
    """Also within one process, whose counter OpenVINO names its nodes by."""
    for name in ("a", "b"):
        write_ir(read_ir(onnx_artifact.model_path), tmp_path / f"{name}.xml")
    for suffix in (".xml", ".bin"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_the_same_bytes_as_an_export(openvino_artifact, export_tiny, tmp_path):
    """A second export is the same file."""
    again = export_tiny("openvino", tmp_path / "again")
    assert [file.sha256 for file in again.manifest.files] == [file.sha256 for file in openvino_artifact.manifest.files]


def test_nodes_are_named_by_modules(openvino_artifact):
    """What ONNX called a node it is still called."""
    text = openvino_artifact.model_path.read_text()
    assert 'name="decode_head.conv_seg/Conv' in text
    assert json.dumps(openvino_artifact.manifest.lineage.checkpoint_sha256) in text


def test_half_the_bytes(onnx_artifact, tmp_path):
    """fp16 is a precision of storage."""
    write_ir(read_ir(onnx_artifact.model_path), tmp_path / "whole.xml")
    write_ir(read_ir(onnx_artifact.model_path), tmp_path / "half.xml", half=True)
    ratio = (tmp_path / "half.bin").stat().st_size / (tmp_path / "whole.bin").stat().st_size
    assert 0.45 < ratio < 0.6


def test_bf16_is_refused_before_any_work(monkeypatch):
    """A processor that would emulate it, and a format that has not got it: one line each."""
    from segdeploy.runtime.backends import openvino as backend

    monkeypatch.setattr(backend, "cpu_flags", frozenset)
    with pytest.raises(BackendError, match="bfloat16 instructions"):
        check_export("openvino", Options(precision="bf16"))
    with pytest.raises(BackendError, match="for onnx; got bf16; use --to openvino"):
        check_export("onnx", Options(precision="bf16"))


def test_without_openvino(monkeypatch):
    """The extra that brings it is named before any work."""
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"segdeploy\[openvino\]"):
        check_export("openvino", Options())


def test_the_command_for_another_format_asks_for_what_it_has(onnx_artifact):
    """bf16 is OpenVINO's alone: the command that makes an ONNX file of the same model leaves it out."""
    import msgspec

    lineage = msgspec.structs.replace(
        onnx_artifact.manifest.lineage, command="segdeploy export x.pth --to openvino --precision bf16"
    )
    manifest = msgspec.structs.replace(onnx_artifact.manifest, format="openvino", precision="bf16", lineage=lineage)
    assert export_command(manifest, "onnx") == "segdeploy export x.pth --to onnx"
    assert export_command(manifest, "openvino") == "segdeploy export x.pth --precision bf16 --to openvino"


@pytest.mark.parametrize(("precision", "told"), [("fp32", "f32"), ("fp16", "f32"), ("bf16", "bf16"), ("int8", "f32")])
def test_what_each_precision_tells_the_runtime(onnx_artifact, monkeypatch, tmp_path, precision, told):
    """fp16 is computed in float32; only bf16 lowers the arithmetic; int8 is made of the float32 graph, in both ways."""
    import msgspec

    from segdeploy.export import openvino_int8

    asked, quantized = [], []

    def write_int8(source, manifest, calibration, target):
        quantized.append((manifest.precision, calibration))
        write_ir(read_ir(source), target)
        return manifest

    def write_onnx(graph, manifest, folder, options):
        asked.append(manifest.precision)
        (folder / "model.onnx").write_bytes(onnx_artifact.model_path.read_bytes())
        return manifest

    monkeypatch.setattr(openvino, "write_onnx", write_onnx)
    manifest = msgspec.structs.replace(onnx_artifact.manifest, format="openvino", precision=precision)
    monkeypatch.setattr(openvino_int8, "write_int8", write_int8)
    options = Options(precision=precision)
    made = openvino.write_openvino(None, manifest, tmp_path, options)
    assert asked == ["fp32"]
    assert quantized == ([("int8", options.calibration)] if precision == "int8" else [])
    assert (made.precision, made.inference_precision) == (precision, told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]


def test_bf16_is_exported_plain_unless_told():
    """Its rounding of single taps fails where float32's does not."""
    from segdeploy.export.options import Options

    assert [Options(precision=one).restructures for one in ("fp32", "fp16", "bf16", "int8")] == [True, True, False, True]
    assert Options(precision="bf16", restructure=True).restructures
    assert not Options(restructure=False).restructures
