import json
import logging

import msgspec
import numpy as np
import pytest
import torch

from segdeploy.base.errors import ExportError

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def model(onnx_artifact):
    return onnx.load(onnx_artifact.model_path)


def shape(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_is_valid_onnx(onnx_artifact):
    """ONNX's own checker and shape inference accept the file; it is all there is."""
    onnx.checker.check_model(str(onnx_artifact.model_path), full_check=True)
    assert sorted(path.name for path in onnx_artifact.folder.iterdir()) == ["manifest.json", "model.onnx"]


def test_the_contract(model):
    """One input and two outputs, named, typed and dynamic as the design says."""
    (image,), (mask, logits) = model.graph.input, model.graph.output
    kinds = onnx.TensorProto
    assert (image.name, image.type.tensor_type.elem_type) == ("image", kinds.UINT8)
    assert (mask.name, mask.type.tensor_type.elem_type) == ("mask", kinds.UINT8)
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", kinds.FLOAT)
    assert shape(image) == ["N", "H", "W", 3]
    assert shape(mask) == ["N", "H", "W"]
    assert shape(logits)[:2] == ["N", 5]
    assert all(isinstance(axis, str) for axis in shape(logits)[2:])


def test_a_cast_comes_first(model):
    """The first and only thing that touches the uint8 input is a cast: TensorRT takes it no other way."""
    users = [node for node in model.graph.node if "image" in node.input and node.op_type != "Shape"]
    assert [node.op_type for node in users] == ["Cast"]


def test_nothing_of_training_is_left(model):
    """No auxiliary head, no dropout, and batch norm folded or in inference mode."""
    names = [initializer.name for initializer in model.graph.initializer]
    assert names
    assert not [name for name in names if "auxiliary" in name]
    assert not [node for node in model.graph.node if node.op_type == "Dropout"]
    assert {attribute.i for node in model.graph.node for attribute in node.attribute if attribute.name == "training_mode"} <= {
        0
    }


def test_the_facts_are_in_the_file(model, onnx_artifact):
    """Other tools see what the file is: classes, the checkpoint's hash, the preprocessing."""
    facts = {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith("segdeploy.")}
    manifest = onnx_artifact.manifest
    assert facts["segdeploy.name"] == "tiny"
    assert json.loads(facts["segdeploy.classes"]) == list(manifest.classes)
    assert facts["segdeploy.checkpoint_sha256"] == manifest.lineage.checkpoint_sha256
    assert json.loads(facts["segdeploy.preprocess"]) == json.loads(msgspec.json.encode(manifest.preprocess))
    assert manifest.toolchain.onnx == onnx.__version__


@pytest.mark.parametrize("opset", [17, 24, 0])
def test_an_opset_that_is_not_supported(checkpoint_path, tmp_path, opset):
    """Refused with the range, and nothing is left behind."""
    from segdeploy.export.export import export_model
    from segdeploy.export.options import Options
    from segdeploy.export.shapes import Shapes
    from segdeploy.models.checkpoint import load_checkpoint

    with pytest.raises(ExportError, match="an opset of 18 to 23"):
        export_model(
            load_checkpoint(checkpoint_path),
            "onnx",
            tmp_path / "x",
            name="x",
            shapes=Shapes(1, 64, 96),
            options=Options(opset=opset),
        )
    assert not list(tmp_path.iterdir())


def test_a_static_export(static_onnx):
    """A fixed size is fixed in the file, in the newest opset too, and the exporter's loggers are as they were."""
    loaded = onnx.load(static_onnx.model_path)
    assert shape(loaded.graph.input[0]) == [1, 64, 96, 3]
    assert shape(loaded.graph.output[0]) == [1, 64, 96]
    assert max(entry.version for entry in loaded.opset_import if entry.domain == "") == 20
    onnx.checker.check_model(loaded, full_check=True)
    assert logging.getLogger("torch.onnx").level != logging.ERROR


def test_onnxs_own_evaluator_agrees(static_onnx, eager):
    """The file alone, computed by ONNX's reference evaluator and by none of segdeploy's code, gives the model's outputs."""
    from onnx.reference import ReferenceEvaluator

    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    mask, logits = ReferenceEvaluator(str(static_onnx.model_path)).run(["mask", "logits"], {"image": image})
    expected = eager.run(image, logits=True)
    np.testing.assert_allclose(logits, expected.logits, atol=1e-4)
    assert (mask != expected.mask).sum() <= 2


def test_an_axis_that_came_out_fixed(checkpoint_path, tmp_path, one_thread):
    """torch.onnx takes up what torch.export suggests, and fixes an axis: no artifact, where a dynamic one was asked for."""
    from segdeploy.artifact.manifest import Bounds
    from segdeploy.export.graph import DeployGraph
    from segdeploy.export.onnx import write_onnx
    from segdeploy.export.options import Options
    from segdeploy.models.build import build_model
    from segdeploy.models.checkpoint import load_checkpoint
    from segdeploy.models.describe import describe

    checkpoint = load_checkpoint(checkpoint_path)
    manifest = describe(checkpoint, name="x", fmt="onnx", batch=1, height=64, width=Bounds(min=32, opt=64, max=256))

    class Fixed(DeployGraph):
        def forward(self, image):
            small = image.float().permute(0, 3, 1, 2) / int(image.shape[2])
            return small.argmax(1).to(torch.uint8), small

    with pytest.raises(ExportError, match=r"a dynamic W; got .*fixed it at 130") as raised:
        write_onnx(Fixed(build_model(checkpoint), manifest).eval(), manifest, tmp_path, Options())
    assert "--shape" in raised.value.fix
    assert list(tmp_path.iterdir()) == []
