"""The conversion to fp16 on graphs made by hand, where every cast can be counted."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402  only where onnx is there

from segdeploy.export.fp16 import sensitive_nodes, to_half  # noqa: E402  likewise

HALF, FLOAT, UINT8, INT64 = (getattr(onnx.TensorProto, name) for name in ("FLOAT16", "FLOAT", "UINT8", "INT64"))


def info(name, kind, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.fixture
def half():
    """A convolution whose result is enlarged, and whose size is read, in fp16."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], name="cast", to=FLOAT),
        helper.make_node("Conv", ["pixels", "weight"], ["conv"], name="conv"),
        helper.make_node("Resize", ["conv", "", "scales"], ["logits"], name="resize", mode="linear"),
        helper.make_node("Shape", ["conv"], ["shape"], name="shape"),
        helper.make_node("Size", ["conv"], ["size"], name="size"),
    ]
    outputs = [info("logits", FLOAT), info("shape", INT64), info("size", INT64)]
    tensors = [
        numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1) / 4, "weight"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
    ]
    graph = helper.make_graph(nodes, "g", [info("image", UINT8, [1, 3, 4, 5])], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    model.graph.value_info.append(info("weight", FLOAT, [2, 3, 1, 1]))  # as some exporters write
    return to_half(model, sensitive_nodes(model))


def by_name(model):
    return {node.name: node for node in model.graph.node}


def test_it_is_whole_and_computes_the_same(half):
    """Valid, of the same outputs, and their values to fp16's rounding."""
    from onnx.reference import ReferenceEvaluator

    onnx.checker.check_model(half, full_check=True)
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 5), dtype=np.uint8)
    logits, shape, size = ReferenceEvaluator(half).run(None, {"image": image})
    small = np.einsum("oc,nchw->nohw", np.arange(6).reshape(2, 3) / 4, image.astype(float))
    assert logits.dtype == np.float32
    assert (logits.shape, shape.tolist(), int(size)) == ((1, 2, 8, 10), [1, 2, 4, 5], 40)
    np.testing.assert_allclose(
        logits[0, :, [0, 0, -1, -1], [0, -1, 0, -1]].T, small[0, :, [0, 0, -1, -1], [0, -1, 0, -1]].T, rtol=2e-3
    )


def test_a_size_is_read_without_a_cast(half):
    """What reads no value takes the fp16 tensor as it is: one cast in, which was there, and one out."""
    nodes = by_name(half)
    assert nodes["shape"].input[0] == nodes["size"].input[0] == nodes["conv"].output[0]
    assert [node.op_type for node in half.graph.node].count("Cast") == 2
    assert nodes["cast"].attribute[0].i == HALF


def test_scales_stay_float32(half):
    """By the standard, whatever the tensor that is resized is."""
    resize = by_name(half)["resize"]
    kind = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert resize.input[2] == "scales"
    assert kind == {"scales": FLOAT, "weight_fp16": HALF}


def test_what_is_left_is_described_and_nothing_else(half):
    """Every tensor between nodes has its type; of a weight that went, none is left."""
    described = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    made = {name for node in half.graph.node for name in node.output} - {value.name for value in half.graph.output}
    assert made <= described.keys()
    assert "weight" not in described
    assert {described[name] for name in made} == {HALF}
