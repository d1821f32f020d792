import pytest
import torch
from torch.nn import functional

from segdeploy.export.capture import quiet
from segdeploy.export.fp16 import sensitive_nodes
from segdeploy.export.nodes import comes_from, float_tensors, is_top_level, module_of, pixel_tensors, pooling_products
from segdeploy.export.onnx_names import name_nodes
from segdeploy.export.quantize import quantizable_layers
from segdeploy.export.restructure import ConvBeforeUpsampling
from segdeploy.export.rewrites import ExactOps
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


class Calls(torch.nn.Module):
    """Pools by a function, as STDC and ResNeSt do, and has a product with weights."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)

    def forward(self, x):
        with ExactOps():
            pooled = functional.adaptive_avg_pool2d(x, (2, 3))
        return self.linear(pooled) @ pooled.transpose(2, 3)


@pytest.mark.parametrize("dynamic", [True, False])
def test_pooling_that_is_called_as_a_function(dynamic):
    """Its two products are found, with the sizes known or not, and no other: neither a layer's nor one of two activations."""
    shapes = ({0: "N", 2: "H", 3: "W"},) if dynamic else None
    with quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
        program = torch.onnx.export(
            Calls().eval(), (torch.randn(2, 4, 9, 7),), dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    name_nodes(program.model)
    model = program.model_proto
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert len(products) == 4
    assert pooling_products(model) == {node.name for node in products[:2]}
    assert set(pooling_products(model)) <= set(sensitive_nodes(model))
    assert not {layer.node for layer in quantizable_layers(model)} & pooling_products(model)


def test_pooling_and_upsampling_of_the_tiny_model(model):
    """The products of its pooling modules; those that upsample behind a convolution are none."""
    found = {module_of(node) for node in model.graph.node if node.name in pooling_products(model)}
    assert found == {f"decode_head.psp_modules.{index}.0" for index in range(4)}
