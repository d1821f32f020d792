"""More faults planted in a good graph, by kind of mistake; test_faults.py has the first of them. docs/parity.md lists all."""

import numpy as np
import pytest

from segdeploy.artifact.folder import write_artifact
from segdeploy.parity.inputs import pictures_of_folder
from segdeploy.parity.verify import verify

onnx = pytest.importorskip("onnx")
from support.planting import (  # noqa: E402  only where onnx is there
    attribute,
    constant,
    edit,
    insert_before_logits,
    insert_behind,
    last_resize,
    nodes,
)

SHAPES = [(1, 64, 96), (2, 75, 51)]
FIRST = "backbone.layer1.0.conv1"


def wrong_epsilon(model):
    """Batch normalisation folded with an epsilon of 0.1 where a variance was about 1."""
    factor = np.float32(np.sqrt((1 + 1e-5) / (1 + 1e-1)))
    edit(model, f"{FIRST}.weight", lambda weight: weight * factor)


def one_channel_of_std(model):
    edit(model, "std", lambda std: std * np.array([1, 1.01, 1], np.float32).reshape(std.shape))


def integers_as_fractions(model):
    """The picture divided by 255, as torchvision does it, for a network that wants 0 to 255."""
    cast = next(node for node in model.graph.node if node.op_type == "Cast" and "image" in node.input)
    insert_behind(model, cast.output[0], "Div", [constant(model, "planted_255", np.float32(255))])


def padding_off_by_one(model):
    attribute(nodes(model, f"{FIRST}/Conv")[0], "pads").ints[:] = [0, 0, 2, 2]


def dilated(model):
    conv = nodes(model, f"{FIRST}/Conv")[0]
    attribute(conv, "pads").ints[:] = [2, 2, 2, 2]
    attribute(conv, "dilations").ints[:] = [2, 2]


def transposed_kernel(model):
    edit(model, f"{FIRST}.weight", lambda weight: weight.swapaxes(2, 3))


def exchanged_layers(model):
    """Two layers of one shape, each with the other's weights."""
    tensors = {one.name: one for one in model.graph.initializer}
    one, other = tensors["backbone.layer1.0.conv2.weight"], tensors["backbone.layer1.1.conv2.weight"]
    one.raw_data, other.raw_data = other.raw_data, one.raw_data


def dropped_residual(model):
    add = next(node for node in nodes(model, "backbone.layer2") if node.op_type == "Add")
    add.op_type = "Identity"
    del add.input[1]


def leaky_activation(model):
    relu = nodes(model, "decode_head.bottleneck.activate/Relu")[0]
    relu.op_type = "LeakyRelu"


def pooling_off_by_one(model):
    pool = next(node for node in model.graph.node if node.op_type == "MaxPool")
    attribute(pool, "pads").ints[:] = [0, 0, 2, 2]


def cubic_in_the_head(model):
    resize = next(node for node in nodes(model, "decode_head/") if node.op_type == "Resize")
    attribute(resize, "mode").s = b"cubic"


def half_a_pixel_in_the_head(model):
    resize = next(node for node in nodes(model, "decode_head/") if node.op_type == "Resize")
    attribute(resize, "coordinate_transformation_mode").s = b"asymmetric"


def rotated_classes(model):
    for name in ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias"):
        edit(model, name, lambda values: np.roll(values, 1, axis=0))


def clipped_logits(model):
    limits = [constant(model, f"planted_{index}", np.float32(value)) for index, value in enumerate((-2, 2))]
    insert_before_logits(model, ("Clip", limits, {}))


def logits_through_half(model):
    """Cast to fp16 and back in a graph that is said to be fp32."""
    insert_before_logits(model, ("Cast", (), {"to": onnx.TensorProto.FLOAT16}), ("Cast", (), {"to": onnx.TensorProto.FLOAT}))


def cubic_mask(model):
    attribute(last_resize(model), "mode").s = b"cubic"


def half_a_pixel_in_the_mask(model):
    attribute(last_resize(model), "coordinate_transformation_mode").s = b"asymmetric"


def a_class_preferred_behind_the_logits(model):
    bias = np.array([0, 1.5, 0, 0, 0], np.float32).reshape(1, 5, 1, 1)
    insert_behind(model, last_resize(model).output[0], "Add", [constant(model, "planted_bias", bias)])


def classes_reversed_behind_the_logits(model):
    """ArgMax over the classes in reverse, without turning the labels back."""
    order = constant(model, "planted_order", np.array([4, 3, 2, 1, 0]))
    insert_behind(model, last_resize(model).output[0], "Gather", [order], axis=1)


# fault -> the stage, the module, and words of the detail
FAULTS = {
    wrong_epsilon: ("graph", FIRST, "its input being right"),
    one_channel_of_std: ("preprocessing", "", "normalisation"),
    integers_as_fractions: ("preprocessing", "", "normalisation"),
    padding_off_by_one: ("graph", FIRST, "its input being right"),
    dilated: ("graph", FIRST, "its input being right"),
    transposed_kernel: ("graph", FIRST, "its input being right"),
    exchanged_layers: ("graph", "backbone.layer1.0.conv2", "its input being right"),
    dropped_residual: ("graph", "backbone.layer2", "every layer before is right"),
    leaky_activation: ("graph", "decode_head", "LeakyRelu"),
    pooling_off_by_one: ("graph", "backbone", "MaxPool"),
    cubic_in_the_head: ("graph", "decode_head", "Resize"),
    half_a_pixel_in_the_head: ("graph", "decode_head", "Resize"),
    rotated_classes: ("graph", "decode_head.conv_seg", "in one another's place"),
    clipped_logits: ("graph", "decode_head", "Clip"),
    logits_through_half: ("graph", "decode_head", "Cast"),
    cubic_mask: ("postprocessing", "", "in the graph"),
    half_a_pixel_in_the_mask: ("postprocessing", "", "in the graph"),
    a_class_preferred_behind_the_logits: ("postprocessing", "", "in the graph"),
    classes_reversed_behind_the_logits: ("postprocessing", "", "in the graph"),
}


@pytest.fixture(scope="module")
def pictures(images_folder):
    """Two of them do."""
    return pictures_of_folder(images_folder, 2)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_the_graph(onnx_artifact, pictures, tmp_path, fault):
    """It fails, and the verdict is sure where."""

    def write(folder):
        model = onnx.load(onnx_artifact.model_path)
        fault(model)
        onnx.save(model, folder / "model.onnx")
        return onnx_artifact.manifest

    parity = verify(write_artifact(tmp_path / "faulty", write), inputs=pictures, shapes=SHAPES, record=False)
    assert parity.verdict == "failed"
    stage, module, words = FAULTS[fault]
    found = parity.divergence
    assert found.stage == stage, found
    assert found.module == module or (module and found.module.startswith(f"{module}.")), found
    assert words in found.detail
    assert found.sure
