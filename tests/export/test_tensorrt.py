import re

import pytest

from segdeploy.core import tensorrt as core
from segdeploy.core.artifact import open_artifact
from segdeploy.core.checkpoint import load_checkpoint
from segdeploy.core.errors import BackendError, ExportError
from segdeploy.core.tensorrt import Flavour
from segdeploy.export import tensorrt as exporting
from segdeploy.export.export import export_model
from segdeploy.export.options import Options
from segdeploy.export.shapes import Shapes

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx, which compiles engines without a GPU, is not installed")


def test_a_real_engine_is_bound_to_its_target(tensorrt_artifact, onnx_artifact):
    """Compiled without a GPU: the manifest names GPU, version and the ONNX file that it came from."""
    import tensorrt_rtx

    manifest = open_artifact(tensorrt_artifact.folder).manifest
    assert manifest.format == "tensorrt"
    assert [entry.path for entry in manifest.files] == ["model.engine"]
    assert manifest.files[0].bytes > 10_000
    assert (manifest.target.device, manifest.target.compute_capability) == ("cuda", "sm89")
    assert manifest.toolchain.tensorrt == tensorrt_rtx.__version__
    assert manifest.toolchain.tensorrt_flavour == "tensorrt_rtx"
    assert re.fullmatch("[0-9a-f]{64}", manifest.lineage.parent_sha256)
    assert manifest.lineage.checkpoint_sha256 == onnx_artifact.manifest.lineage.checkpoint_sha256
    assert sorted(path.name for path in tensorrt_artifact.folder.iterdir()) == ["manifest.json", "model.engine"]


def test_an_unknown_target_lists_the_known(checkpoint_path, tmp_path):
    """A GPU that TensorRT cannot compile for is refused with those that it can, and nothing is left behind."""
    with pytest.raises(BackendError, match="a target out of .*sm89.*got 'sm999'"):
        export_model(
            load_checkpoint(checkpoint_path),
            "tensorrt",
            tmp_path / "x",
            name="x",
            shapes=Shapes(1, 64, 96),
            options=Options(targets=("sm89", "sm999")),
        )
    assert not list(tmp_path.iterdir())


def test_a_graph_that_does_not_parse(make_manifest, tmp_path):
    """TensorRT's parser says why in one line."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("NoSuchOperator", ["image"], ["mask"], domain="elsewhere")],
        "bad",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("elsewhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "bad.onnx")
    flavour = core.import_tensorrt(prefer_rtx=True)
    with pytest.raises(ExportError, match="a graph that TensorRT can parse") as caught:
        exporting._compile(flavour, tmp_path / "bad.onnx", make_manifest(), ("sm89",), Options())
    assert "NoSuchOperator" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ahead_of_time_needs_rtx(checkpoint_path, tmp_path, monkeypatch):
    """The full TensorRT cannot compile for another GPU: said before any work is done."""
    monkeypatch.setattr(exporting, "import_tensorrt", lambda **_: Flavour("tensorrt", "10.9", None))
    monkeypatch.setattr(exporting, "write_onnx", lambda *_: pytest.fail("work was done"))
    with pytest.raises(BackendError, match="which compiles ahead of time"):
        export_model(
            load_checkpoint(checkpoint_path),
            "tensorrt",
            tmp_path / "x",
            name="x",
            shapes=Shapes(1, 64, 96),
            options=Options(targets=("sm89",)),
        )
    assert not list(tmp_path.iterdir())
