import numpy as np
import pytest

from segdeploy.base.errors import ExportError
from segdeploy.export.calibration import measure_ranges
from segdeploy.export.fp16 import LARGEST, overflowing_nodes, sensitive_nodes, to_half
from segdeploy.export.nodes import comes_from, is_top_level, pixel_tensors
from segdeploy.export.restructure import ConvBeforeUpsampling
from segdeploy.export.rewrites.pooling import ExactAdaptiveAvgPool2d

onnx = pytest.importorskip("onnx")

HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
FACTOR = 2.0**20


def types(model):
    """Every tensor's type, as ONNX's own inference finds it when it is told nothing but inputs and initialisers."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True).graph
    found = {
        value.name: value.type.tensor_type.elem_type for value in (*inferred.input, *inferred.output, *inferred.value_info)
    }
    return found | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def evaluate(path, image):
    """ONNX's reference evaluator: numpy in the types of the graph, so that fp16 rounds and overflows after every node."""
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"):
        return ReferenceEvaluator(str(path)).run(["mask", "logits"], {"image": image})


@pytest.fixture(scope="module")
def image():
    """One picture that reaches all of the model."""
    return np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)


def test_the_layers_are_fp16_and_the_contract_is_not(lowered):
    """Convolutions and their weights in fp16; input, outputs, normalisation, pooling, upsampling and argmax as before."""
    path, manifest = lowered("fp16")
    model = onnx.load(path)
    kind = types(model)
    assert (kind["image"], kind["mask"], kind["logits"]) == (onnx.TensorProto.UINT8, onnx.TensorProto.UINT8, FLOAT)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == manifest.quantization.converted > 20
    assert {kind[name] for node in convolutions for name in (*node.input, *node.output)} == {HALF}
    exact = [node for node in model.graph.node if comes_from(node, ExactAdaptiveAvgPool2d) or is_top_level(node)]
    assert {"MatMul", "Range", "ArgMax", "Resize", "Sub"} <= {node.op_type for node in exact}
    assert HALF not in {kind[name] for node in exact if node.op_type != "Shape" for name in (*node.input, *node.output) if name}
    assert not [
        tensor.name for tensor in model.graph.initializer if tensor.data_type == FLOAT and tensor.name.endswith("weight")
    ]
    kept = {layer.name for layer in manifest.quantization.kept}
    assert kept == {"(graph)", *(f"decode_head.psp_modules.{i}.0" for i in range(4))}


def test_a_value_is_cast_once_each_way(lowered, planted_onnx):
    """No value goes down to fp16 and up again between two float32 nodes, and none is cast twice."""
    path, _ = lowered("fp16", planted_onnx(FACTOR))
    casts = [node for node in onnx.load(path).graph.node if node.op_type == "Cast"]
    assert len({(node.input[0], node.attribute[0].i) for node in casts}) == len(casts)
    down = {node.output[0] for node in casts if node.attribute[0].i == HALF}
    assert not [node.name for node in casts if node.input[0] in down]


def test_it_is_the_same_model(lowered, onnx_artifact, image):
    """The logits, by an evaluator that rounds to fp16 after every node, are those of fp32 to some of fp16's steps."""
    path, _ = lowered("fp16")
    _, expected = evaluate(onnx_artifact.model_path, image)
    mask, logits = evaluate(path, image)
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - expected).max() < 2e-2 * np.abs(expected).max()
    assert (mask == evaluate(onnx_artifact.model_path, image)[0]).mean() > 0.97


@pytest.mark.parametrize("size", [(45, 61), (33, 50)])
def test_upsampling_by_matrices_may_be_fp16_at_odd_sizes(lowered, onnx_artifact, tmp_path, size):
    """Its shares are rounded, and its positions are not: the logits are as exact as with these products in float32."""
    path, _ = lowered("fp16")
    model = onnx.load(onnx_artifact.model_path)
    products = {node.name for node in model.graph.node if comes_from(node, ConvBeforeUpsampling) and node.op_type == "MatMul"}
    halves = onnx.load(path)
    kind = types(halves)
    assert {kind[name] for node in halves.graph.node if node.name in products for name in node.input} == {HALF}
    pixels = pixel_tensors(halves)
    positions = [node for node in halves.graph.node if comes_from(node, ConvBeforeUpsampling) and not pixels & {*node.output}]
    assert {"Range", "MatMul"} & {node.op_type for node in positions} == {"Range"}
    assert HALF not in {kind[name] for node in positions for name in (*node.input, *node.output) if name}
    onnx.save(to_half(model, {*sensitive_nodes(model), *products}), tmp_path / "kept.onnx")
    picture = np.random.default_rng(1).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    expected = evaluate(onnx_artifact.model_path, picture)[1]
    error, kept = (np.sqrt(np.square(evaluate(one, picture)[1] - expected).mean()) for one in (path, tmp_path / "kept.onnx"))
    assert 0 < error < 1.25 * kept


def test_a_planted_overflow_is_named_and_kept(lowered, planted_onnx, image):
    """The layer that makes the value and the one that reads it stay in float32; without that the logits are not finite."""
    source = planted_onnx(FACTOR)
    _, expected = evaluate(source, image)
    naive = onnx.load(source)
    onnx.save(to_half(naive, sensitive_nodes(naive)), source.with_name("naive.onnx"))
    assert not np.isfinite(evaluate(source.with_name("naive.onnx"), image)[1]).all()
    path, manifest = lowered("fp16", source)
    found = {layer.name: layer.reason for layer in manifest.quantization.kept if "65504" in layer.reason}
    assert set(found) == {"decode_head.fpn_bottleneck.conv", "decode_head.fpn_bottleneck.activate", "decode_head.conv_seg"}
    assert "reaches" in found["decode_head.fpn_bottleneck.conv"]
    assert "reads" in found["decode_head.conv_seg"]
    _, logits = evaluate(path, image)
    assert np.abs(logits - expected).max() < 2e-2 * np.abs(expected).max()


def test_no_keep_names_the_layer(lowered, planted_onnx):
    """With --no-keep: one line with the first layer, and the source as it was."""
    with pytest.raises(ExportError, match=r"up to 65504\); got Conv, .* 'decode_head.fpn_bottleneck.conv' reaches .* \d+ more"):
        lowered("fp16", planted_onnx(FACTOR), keep=False)


def test_a_weight_outside_the_range(onnx_artifact, images_folder, tmp_path):
    """A weight that fp16 cannot hold keeps its layer too; one that is not finite is refused."""
    from onnx import numpy_helper

    model = onnx.load(onnx_artifact.model_path)
    ranges = measure_ranges(onnx_artifact.model_path, sorted(images_folder.iterdir())[:1], onnx_artifact.manifest, tmp_path)
    assert overflowing_nodes(model, ranges, sensitive_nodes(model)) == {}
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "decode_head.conv_seg.weight")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] = -2 * LARGEST
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    (reason,) = overflowing_nodes(model, ranges, sensitive_nodes(model)).values()
    assert reason == "reads 1.31e+05, beyond fp16's largest, 65504"


def test_a_graph_with_branches_is_refused():
    """They are said to be so, by name."""
    from onnx import helper

    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "b", [], [helper.make_tensor_value_info("y", FLOAT, [1])]
    )
    node = helper.make_node("If", ["c"], ["z"], name="choice", then_branch=branch, else_branch=branch)
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    with pytest.raises(ExportError, match="If 'choice'"):
        to_half(model, [])


# What torch.autocast runs in float32 on CUDA for its range or its long sums (torch.amp's documentation), as ONNX calls it.
WIDE = {
    "Softmax": {"axis": -1},
    "LogSoftmax": {"axis": -1},
    "Exp": {},
    "Log": {},
    "Sqrt": {},
    "Reciprocal": {},
    "ReduceMean": {},
    "ReduceSum": {},
    "ReduceSumSquare": {},
    "ReduceL1": {},
    "ReduceL2": {},
    "ReduceLogSumExp": {},
}


@pytest.mark.parametrize("op", WIDE)
def test_what_needs_range_stays_in_float32(op):
    """A softmax, a power, a long sum: computed in float32, between neighbours in fp16."""
    from onnx import helper

    nodes = [
        helper.make_node("Cast", ["image"], ["float"], name="cast", to=FLOAT),
        helper.make_node("Relu", ["float"], ["before"], name="before"),
        helper.make_node(op, ["before"], ["wide"], name="wide", **WIDE[op]),
        helper.make_node("Relu", ["wide"], ["logits"], name="after"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, [1, 4, 6, 3])],
        [helper.make_tensor_value_info("logits", FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    kept = sensitive_nodes(model)
    assert {name for name, reason in kept.items() if reason} == {"wide"}
    half = to_half(model, kept)
    kind = types(half)
    node = {one.name: one for one in half.graph.node}
    assert (kind[node["wide"].input[0]], kind[node["wide"].output[0]]) == (FLOAT, FLOAT)
    assert (kind[node["before"].input[0]], kind[node["after"].input[0]]) == (HALF, HALF)


@pytest.mark.parametrize("eps", [1e-12, 1e-5])
def test_an_epsilon_that_is_zero_in_fp16(eps, tmp_path):
    """What adds it, hands it on and divides by it stays in float32: of a black picture 0 / 0 would be no number."""
    from onnx import helper, numpy_helper

    def constant(name, value):
        return numpy_helper.from_array(np.array(value, np.float32), name)

    nodes = [
        helper.make_node("Mul", ["x", "weight"], ["scaled"], name="scale"),
        helper.make_node("Abs", ["scaled"], ["size"], name="size"),
        helper.make_node("Add", ["size", "eps"], ["sum"], name="floor"),
        helper.make_node("Unsqueeze", ["sum", "axes"], ["wide"], name="unsqueeze"),
        helper.make_node("Div", ["scaled", "wide"], ["y"], name="divide"),
        helper.make_node("Mul", ["y", "weight"], ["z"], name="behind"),
    ]
    x, z = (helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in (("x", [1, 3]), ("z", [1, 1, 3])))
    weights = [constant("weight", [1.0, 2.0, 1e-9]), constant("eps", eps), numpy_helper.from_array(np.array([0]), "axes")]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [z], weights), opset_imports=[helper.make_opsetid("", 18)])
    model = onnx.shape_inference.infer_shapes(model)
    kept = sensitive_nodes(model)
    assert set(kept) == ({"floor", "unsqueeze", "divide"} if eps == 1e-12 else set())
    onnx.save(to_half(model, kept), tmp_path / "half.onnx")
    from onnx.reference import ReferenceEvaluator

    (found,) = ReferenceEvaluator(str(tmp_path / "half.onnx")).run(None, {"x": np.zeros((1, 3), np.float32)})
    assert np.isfinite(found).all()
