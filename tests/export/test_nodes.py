import pytest

from segdeploy.export.nodes import comes_from, float_tensors, is_top_level, module_of, pixel_tensors
from segdeploy.export.restructure import ConvBeforeUpsampling
from segdeploy.export.rewrites.pooling import ExactAdaptiveAvgPool2d

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def model(onnx_artifact):
    return onnx.load(onnx_artifact.model_path)


def test_every_layer_is_named_as_in_the_checkpoint(model, mmseg_model):
    """The modules of convolutions and pools are those of mmseg's own model, and all of its convolutions are found."""
    theirs = {name: type(module).__name__ for name, module in mmseg_model.named_modules() if "auxiliary" not in name}
    convolutions = [module_of(node) for node in model.graph.node if node.op_type == "Conv"]
    assert set(convolutions) == {name for name, kind in theirs.items() if kind == "Conv2d"}
    before_upsampling = {module_of(node) for node in model.graph.node if comes_from(node, ConvBeforeUpsampling)}
    assert before_upsampling == {"decode_head.bottleneck.conv", "decode_head.fpn_bottleneck.conv"}
    assert {name for name in convolutions if convolutions.count(name) > 1} == before_upsampling
    pools = {module_of(node) for node in model.graph.node if comes_from(node, ExactAdaptiveAvgPool2d)}
    assert pools == {name for name, kind in theirs.items() if kind == "AdaptiveAvgPool2d"}


def test_the_deploy_graphs_own_nodes(model):
    """Normalisation before the backbone, upsampling and argmax behind the head."""
    own = [
        node.op_type for node in model.graph.node if is_top_level(node) and node.op_type not in {"Shape", "Squeeze", "Concat"}
    ]
    assert own == ["Cast", "Transpose", "Sub", "Div", "Resize", "ArgMax", "Cast"]


def test_pixels_and_positions(model):
    """Everything from the image to the outputs depends on pixels; shapes, positions and pooling matrices do not."""
    pixels = pixel_tensors(model)
    floats = float_tensors(model)
    assert {"image", "mask", "logits"} <= pixels
    for node in model.graph.node:
        if node.op_type in {"Conv", "Relu", "ArgMax"}:
            assert set(node.output) <= pixels
        if node.op_type in {"Shape", "Range", "Floor", "Less"}:
            assert pixels.isdisjoint(node.output)
        if node.op_type == "MatMul":
            assert len(pixels.intersection(node.input)) == 1
            assert set(node.input) <= floats
