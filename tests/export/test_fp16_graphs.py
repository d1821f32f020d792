"""The conversion to fp16 on graphs made by hand, where every cast can be counted."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402  only where onnx is there

from segdeploy.artifact.quantization import KeptLayer  # noqa: E402  likewise
from segdeploy.base.errors import ExportError  # noqa: E402  likewise
from segdeploy.export.fp16 import kept_layers, overflowing_nodes, sensitive_nodes, to_half  # noqa: E402  likewise

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


def chain(*nodes, tensors=(), outputs=("logits",)):
    """A model of nodes, the first of which reads ``x``, float32 [2]."""
    graph = helper.make_graph(list(nodes), "g", [info("x", FLOAT, [2])], [info(name, FLOAT) for name in outputs], list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


class Ranges(dict):
    """As ``measure_ranges`` gives them: (least, largest) by tensor."""

    def __init__(self, **ranges):
        super().__init__({name: type("Range", (), {"range_value": np.array(value)}) for name, value in ranges.items()})


@pytest.fixture
def reaching():
    """A layer that makes b of x and w, one that reads it, and one that reads nothing of either."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["b"], name="m.first/Mul"),
        helper.make_node("Relu", ["b"], ["c"], name="m.second/Relu"),
        helper.make_node("Relu", ["c"], ["logits"], name="m.third/Relu"),
    ]

    def find(already=(), w=1.0, **ranges):
        tensors = [
            numpy_helper.from_array(np.float32(w), "w"),
            numpy_helper.from_array(np.zeros(0, np.float32), "nothing"),
            numpy_helper.from_array(np.array([10**9]), "counts"),
        ]
        return overflowing_nodes(chain(*nodes, tensors=tensors), Ranges(x=(0, 1), c=(0, 1), **ranges), already)

    return find


def test_what_comes_near_the_largest(reaching):
    """Half of it is the bound, from either side; who makes the value and who reads it, each with its reason."""
    assert reaching(b=(-32752, 32752)) == {}
    near = {
        "m.first/Mul": "reaches 3.28e+04, near fp16's largest, 65504",
        "m.second/Relu": "reads 3.28e+04, near fp16's largest, 65504",
    }
    assert reaching(b=(0, 32753)) == reaching(b=(-32753, 0)) == near
    beyond = "reads 6.55e+04, beyond fp16's largest, 65504"
    assert reaching(b=(0, 65505)) == {"m.first/Mul": beyond.replace("reads", "reaches"), "m.second/Relu": beyond}
    assert "near" in reaching(b=(0, 65504))["m.second/Relu"]
    assert set(reaching({"m.first/Mul"}, b=(0, 65505))) == {"m.second/Relu"}


def test_a_weight_counts_as_what_is_read(reaching):
    """By its largest value, whatever its sign; integers are no weights."""
    assert reaching(b=(0, 1), w=-40000) == {"m.first/Mul": "reads 4e+04, near fp16's largest, 65504"}


def test_values_that_are_no_numbers(reaching):
    """Said of the layer that makes them, kept or not: the checkpoint is at fault."""
    for already in ((), {"m.first/Mul"}):
        with pytest.raises(ExportError) as caught:
            reaching(already, b=(0, np.inf))
        error = caught.value
        assert (error.expected, error.got) == ("finite values in the float32 model", "inf from Mul 'm.first'")
        assert error.fix == "the checkpoint is damaged or diverged: train it again"


def test_kept_layers_are_told_once():
    """A line a module and reason, its operations once each; index arithmetic is none; without a module it is the graph's."""
    names = ["m.a/Mul", "m.a/Mul_1", "m.a/Add", "m.b/Mul", "m.c/Shape", "graph/Relu"]
    nodes = [helper.make_node(name.rpartition("/")[2].partition("_")[0], ["x"], [name], name=name) for name in names]
    reasons = {"m.a/Mul": "p", "m.a/Mul_1": "p", "m.a/Add": "p", "m.b/Mul": "q", "m.c/Shape": ""}
    assert kept_layers(chain(*nodes), reasons) == (
        KeptLayer(name="m.a", op="Mul, Add", reason="p"),
        KeptLayer(name="m.b", op="Mul", reason="q"),
    )
    (told,) = kept_layers(chain(helper.make_node("Mul", ["x"], ["y"], name="Mul")), {"Mul": "r"})
    assert told.name == "(graph)"


@pytest.mark.parametrize(
    ("value", "kept"), [(1e-12, True), (-1e-9, True), (0.0, False), (1.0, False), ([1e-12, 1e-12], False), ([1e-12], True)]
)
def test_an_epsilon_in_a_node(value, kept):
    """A constant may stand in a node as well: of one number, that is not 0, and is in fp16."""
    tensor = numpy_helper.from_array(np.array(value, np.float32), "t")
    nodes = [
        helper.make_node("Constant", [], ["eps"], name="constant", value=tensor),
        helper.make_node("Add", ["x", "eps"], ["sum"], name="add"),
        helper.make_node("Div", ["x", "sum"], ["logits"], name="div"),
    ]
    found = sensitive_nodes(chain(*nodes))
    assert found.pop("constant") == ""
    told = {"add": "an epsilon that is 0 in fp16", "div": "may read no more than an epsilon that is 0 in fp16"}
    assert found == (told if kept else {})


def test_an_output_that_is_read_again():
    """The model's own output is float32; who reads it further on reads what it was made of, and no attribute is lost."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["logits"], name="mul"),
        helper.make_node("Unsqueeze", ["logits", "axes"], ["row"], name="row"),
        helper.make_node("Concat", ["row", "row"], ["more"], name="more", axis=1),
        helper.make_node("Softmax", ["more"], ["soft"], name="soft", axis=1),
        helper.make_node("Cast", ["soft"], ["counts"], name="counts", to=INT64),
    ]
    model = chain(*nodes, tensors=[numpy_helper.from_array(np.array([0]), "axes")], outputs=("logits", "soft"))
    model.graph.output.append(info("counts", INT64))
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    half = to_half(model, sensitive_nodes(model))
    onnx.checker.check_model(half, full_check=True)
    nodes = by_name(half)
    casts = {
        node.name: (node.input[0], node.output[0], node.attribute[0].i) for node in half.graph.node if node.op_type == "Cast"
    }
    assert casts == {
        "x_fp16_cast": ("x", "x_fp16", HALF),
        "logits_cast": ("logits_fp16", "logits", FLOAT),
        "more_fp32_cast": ("more", "more_fp32", FLOAT),
        "soft_fp16_cast": ("soft", "soft_fp16", HALF),
        "counts": ("soft_fp16", "counts", INT64),
    }
    assert nodes["row"].input[0] == "logits_fp16"
    assert (nodes["more"].attribute[0].i, nodes["soft"].attribute[0].i) == (1, 1)


def test_branches_are_refused_by_name():
    """The first of them, and what to do."""
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "b", [], [info("y", FLOAT, [1])])
    node = helper.make_node("If", ["c"], ["z"], name="choice", then_branch=branch, else_branch=branch)
    with pytest.raises(ExportError) as caught:
        to_half(chain(node, helper.make_node("If", ["c"], ["v"], name="other", then_branch=branch, else_branch=branch)), [])
    told = "expected a graph without branches and loops; got If 'choice'; export this model with --precision fp32"
    assert str(caught.value) == told
