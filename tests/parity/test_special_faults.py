"""Faults in a graph that only special inputs, precisions or heads show. docs/parity.md lists all."""

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.folder import write_artifact
from segdeploy.images.label_png import encode_png
from segdeploy.parity.inputs import Inputs, Picture, noise, pictures_of_folder
from segdeploy.parity.verify import verify

onnx = pytest.importorskip("onnx")
from onnx import helper  # noqa: E402  only where onnx is there

from support.models import WAYS_TO_PREDICT  # noqa: E402  likewise
from support.planting import constant, insert_before_logits  # noqa: E402  likewise

SHAPES = [(1, 64, 96)]


@pytest.fixture
def faulty(onnx_artifact, tmp_path):
    """The artifact with a graph of its own: (graph, what changes in the manifest)."""

    def make(model, **changes):
        def write(folder):
            onnx.save(model, folder / "model.onnx")
            return msgspec.structs.replace(onnx_artifact.manifest, **changes)

        return write_artifact(tmp_path / "faulty", write)

    return make


def black_pictures_alone(model):
    """Divided by its own brightest pixel and multiplied by it again: 0 / 0 where nothing is bright."""
    cast = next(node for node in model.graph.node if node.op_type == "Cast" and "image" in node.input)
    axes, at = constant(model, "planted_axes", np.array([1, 2, 3])), list(model.graph.node).index(cast) + 1
    for node in (
        helper.make_node("Div", ["planted_most", "planted_most"], ["planted_one"], name="planted/Div"),
        helper.make_node("ReduceMax", [cast.output[0], axes], ["planted_most"], name="planted/ReduceMax"),
    ):
        model.graph.node.insert(at, node)
    insert_before_logits(model, ("Mul", ["planted_one"], {}))


def test_black_pictures_alone(faulty, onnx_artifact, images_folder):
    """Every other picture is right; of a black one nothing is a number."""
    model = onnx.load(onnx_artifact.model_path)
    black_pictures_alone(model)
    artifact = faulty(model)
    pictures = pictures_of_folder(images_folder, 1).pictures
    assert verify(artifact, inputs=Inputs("one", pictures), shapes=SHAPES, record=False).verdict == "passed"
    pixels = np.zeros((64, 96, 3), np.uint8)
    black = Picture("black", lambda: pixels, lambda: encode_png(pixels))
    parity = verify(artifact, inputs=Inputs("two", (*pictures, black)), shapes=SHAPES, record=False)
    assert parity.verdict == "failed"
    stage, module, words = ALONE[test_black_pictures_alone]
    assert (parity.divergence.stage, parity.divergence.module) == (stage, module), parity.divergence
    assert words in parity.divergence.detail


def test_int8_with_another_zero_point(faulty, onnx_artifact, images_folder, tmp_path):
    """An activation is brought back about another zero than it was rounded about: off by a quarter of its range."""
    from segdeploy.export.calibration import measure_ranges
    from segdeploy.export.quantize import Quantizer

    paths = sorted(images_folder.iterdir())
    source = onnx_artifact.model_path
    quantizer = Quantizer(source, measure_ranges(source, paths[:3], onnx_artifact.manifest, tmp_path), "onnx")
    model = onnx.load(quantizer.write(tmp_path / "q.onnx", quantizer.layers))
    pictures = pictures_of_folder(images_folder, 1)
    good = verify(faulty(model, precision="int8"), inputs=pictures, shapes=SHAPES, record=False)
    assert good.verdict == "passed", good.checks
    layer = next(node for node in model.graph.node if node.name == "backbone.layer3.0.conv1/Conv")
    back = next(node for node in model.graph.node if layer.input[0] in node.output)
    assert back.op_type == "DequantizeLinear"
    back.input[2] = constant(model, "planted_zero", np.uint8(64))
    parity = verify(faulty(model, precision="int8"), inputs=pictures, shapes=SHAPES, record=False)
    assert parity.verdict == "failed"
    stage, module, words = ALONE[test_int8_with_another_zero_point]
    assert (parity.divergence.stage, parity.divergence.module) == (stage, module), parity.divergence
    assert words in parity.divergence.detail


def test_a_binary_head_with_another_threshold(random_variant, tmp_path, monkeypatch):
    """The exporter takes a sigmoid's half for the cutoff of a head whose threshold is another."""
    from segdeploy.artifact.manifest import Postprocess
    from segdeploy.export.export import export_model
    from segdeploy.export.shapes import Shapes
    from segdeploy.models.checkpoint import load_checkpoint

    changes = WAYS_TO_PREDICT["binary"]
    path, _ = random_variant("binary", **changes, test_dataloader__dataset=changes["val_dataloader__dataset"])
    with monkeypatch.context() as patch:
        patch.setattr(Postprocess, "cutoff", property(lambda _: 0.0))
        artifact = export_model(load_checkpoint(path), "torchscript", tmp_path / "half", name="x", shapes=Shapes(1, 64, 96))
    assert artifact.manifest.postprocess.cutoff == pytest.approx(np.log(0.6 / 0.4))
    parity = verify(artifact, inputs=noise(artifact.manifest, 2), record=False)
    assert parity.verdict == "failed"
    stage, module, words = ALONE[test_a_binary_head_with_another_threshold]
    assert (parity.divergence.stage, parity.divergence.module) == (stage, module), parity.divergence
    assert words in parity.divergence.detail


ALONE = {
    test_black_pictures_alone: ("graph", "decode_head", "not finite"),
    test_int8_with_another_zero_point: ("precision", "backbone.layer3.0.conv1", "its scale does not fit"),
    test_a_binary_head_with_another_threshold: ("postprocessing", "", "in the graph"),
}
