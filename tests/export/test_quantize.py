import numpy as np
import pytest

from segdeploy.base.errors import ExportError
from segdeploy.export import precision
from segdeploy.export.calibration import measure_ranges
from segdeploy.export.nodes import comes_from, is_top_level
from segdeploy.export.quantize import Quantizer, saturates
from segdeploy.export.rewrites.pooling import ExactAdaptiveAvgPool2d

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def ranges(onnx_artifact, images_folder, tmp_path_factory):
    """What the tiny model's tensors reach on all its pictures."""
    scratch = tmp_path_factory.mktemp("ranges")
    return measure_ranges(onnx_artifact.model_path, sorted(images_folder.iterdir()), onnx_artifact.manifest, scratch)


@pytest.fixture(scope="module")
def quantizers(onnx_artifact, ranges):
    """The tiny model, quantized for each format."""
    return {fmt: Quantizer(onnx_artifact.model_path, ranges, fmt) for fmt in ("onnx", "tensorrt")}


@pytest.fixture(scope="module")
def layers(quantizers):
    """Everything that can be quantized."""
    return quantizers["onnx"].layers


@pytest.fixture
def quantized(quantizers, layers, tmp_path):
    """Quantizes the tiny model but for some modules: (kept modules, format) -> the model."""

    def make(kept=(), fmt="onnx"):
        path = quantizers[fmt].write(tmp_path / "q.onnx", [layer for layer in layers if layer.module not in kept])
        onnx.checker.check_model(str(path), full_check=True)
        return onnx.load(path)

    return make


def parts(model):
    """Nodes by name, what makes each tensor, and initialisers as arrays."""
    from onnx import numpy_helper

    made_by = {name: node for node in model.graph.node for name in node.output}
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {node.name: node for node in model.graph.node}, made_by, arrays


def is_rounded(node, index, made_by):
    return node.input[index] in made_by and made_by[node.input[index]].op_type == "DequantizeLinear"


def test_what_can_be_quantized(onnx_artifact, layers):
    """All convolutions, and what moves their data; not the normalisation, the pooling, the upsampling or the argmax."""
    nodes = {node.name: node for node in onnx.load(onnx_artifact.model_path).graph.node}
    convolutions = {name for name, node in nodes.items() if node.op_type == "Conv"}
    assert convolutions == {layer.node for layer in layers if layer.op == "Conv"}
    assert {layer.op for layer in layers} == {"Conv", "Add"}
    chosen = [nodes[layer.node] for layer in layers]
    assert not [node.name for node in chosen if is_top_level(node) or comes_from(node, ExactAdaptiveAvgPool2d)]
    assert {"backbone.stem.0", "decode_head.bottleneck.conv", "decode_head.conv_seg"} <= {layer.module for layer in layers}
    integers = [
        value.name for value in onnx.load(onnx_artifact.model_path).graph.value_info if value.type.tensor_type.elem_type == 7
    ]
    assert not [node.name for node in chosen if set(node.output) & set(integers)]


def test_a_scale_for_every_channel(quantized, onnx_artifact, layers):
    """Weights are int8 with the channel's own largest value as 127; rounding them back errs by half a step at most."""
    model = quantized()
    nodes, made_by, arrays = parts(model)
    plain, _, before = parts(onnx.load(onnx_artifact.model_path))
    convolutions = [layer for layer in layers if layer.op == "Conv"]
    for layer in convolutions:
        node = nodes[layer.node]
        assert is_rounded(node, 0, made_by)
        back = made_by[node.input[1]]
        values, scale, zero = (arrays[name] for name in back.input)
        original = before[plain[layer.node].input[1]]
        assert values.dtype == np.int8
        assert next(entry.i for entry in back.attribute if entry.name == "axis") == 0
        assert not zero.any()
        peaks = np.abs(original).max((1, 2, 3))
        np.testing.assert_allclose(scale, peaks / 127, rtol=0.01)
        assert len(set(scale)) > 1
        assert (np.abs(values * scale[:, None, None, None] - original).max((1, 2, 3)) <= 0.51 * scale).all()
        assert not node.input[2:] or node.input[2] in before, "the bias stays float32"


def test_activations_have_the_range_that_was_measured(quantized, ranges):
    """onnxruntime's are uint8 from the least to the largest value; TensorRT's int8 about a zero point of 0."""
    for fmt, kind in (("onnx", np.uint8), ("tensorrt", np.int8)):
        _, _, arrays = parts(model := quantized(fmt=fmt))
        forth = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        assert len(forth) > 20
        for node in forth:
            scale, zero = arrays[node.input[1]], arrays[node.input[2]]
            low, high = (value.item() for value in ranges[node.input[0]].range_value)
            assert zero.dtype == kind
            if fmt == "tensorrt":
                assert zero == 0
                np.testing.assert_allclose(scale, max(-low, high) / 127, rtol=0.02)
            else:
                np.testing.assert_allclose(scale, (max(high, 0) - min(low, 0)) / 255, rtol=0.02)


@pytest.mark.parametrize("kept", [("decode_head.conv_seg",), ("backbone.layer1.0.conv1", "backbone.layer2.0.downsample.0")])
def test_a_kept_layer_has_no_q_or_dq(quantized, layers, kept):
    """It reads unrounded values, also where another layer reads the rounded ones, and its weights are the original floats."""
    nodes, made_by, arrays = parts(quantized(kept))
    for layer in layers:
        node = nodes[layer.node]
        if layer.module in kept:
            assert not is_rounded(node, 0, made_by)
            assert not is_rounded(node, 1, made_by)
            assert arrays[node.input[1]].dtype == np.float32
        else:
            assert is_rounded(node, 0, made_by)


@pytest.mark.parametrize("fmt", ["onnx", "openvino", "tensorrt"])
def test_a_sum_leaves_one_product_to_fusion(onnx_artifact, ranges, tmp_path, fmt):
    """onnxruntime reads both inputs of a residual sum rounded, the others the skip alone, and the convolution as it is."""
    quantizer = Quantizer(onnx_artifact.model_path, ranges, fmt)
    plain, sources, _ = parts(onnx.load(onnx_artifact.model_path))
    nodes, made_by, _ = parts(onnx.load(quantizer.write(tmp_path / "q.onnx", quantizer.layers)))
    sums = [layer.node for layer in quantizer.layers if layer.op == "Add"]
    residual = {name for name in sums if "Conv" in {sources[one].op_type for one in plain[name].input}}
    assert {name.startswith("backbone.") for name in residual} == {True}
    assert residual < set(sums)
    for name in sums:
        rounded = [is_rounded(nodes[name], index, made_by) for index in range(2)]
        if fmt == "onnx" or name not in residual:
            assert rounded == [True, True]
        else:
            assert sorted(rounded) == [False, True]
            left = nodes[name].input[rounded.index(False)]
            assert left == plain[name].input[rounded.index(False)]
            assert made_by[left].op_type == "Conv"


def test_masks_agree(quantized, layers, onnx_artifact, labelled_root, tmp_path):
    """For either format the masks are those of the float32 model but for a few pixels; with all layers kept they are equal."""
    from segdeploy.export.quality import QualityMeter
    from segdeploy.images.dataset import find_samples

    pictures = [sample.image for sample in find_samples(labelled_root, "val")]
    meter = QualityMeter(onnx_artifact.manifest, onnx_artifact.model_path, [], pictures)
    meter.prepare()
    for fmt in ("onnx", "tensorrt"):
        quantized(fmt=fmt)
        assert 95 < meter.score(tmp_path / "q.onnx", fmt) < 100
    quantized({layer.module for layer in layers})
    assert meter.score(tmp_path / "q.onnx", "all kept") == 100


def test_a_graph_that_cannot_be_quantized(onnx_artifact, ranges):
    """One line, as an ExportError."""
    from onnxruntime.quantization.calibrate import TensorsData

    with pytest.raises(ExportError, match="a graph that onnxruntime can quantize"):
        Quantizer(onnx_artifact.model_path, TensorsData(ranges.calibration_method, {}), "onnx")


@pytest.mark.parametrize(
    ("fmt", "flags", "expected"),
    [
        ("onnx", {"avx2"}, True),
        ("onnx", {"avx2", "avx512f", "avx512bw"}, True),
        ("onnx", {"avx2", "avx512f", "avx512_vnni"}, False),
        ("onnx", {"avx2", "avx_vnni"}, False),
        ("onnx", {"asimd", "asimddp"}, False),
        ("onnx", set(), False),
        ("tensorrt", {"avx2"}, False),
    ],
)
def test_where_products_saturate(fmt, flags, expected):
    """On x86 without VNNI, and not for TensorRT; where nobody tells of the processor, nothing is given up."""
    assert saturates(fmt, flags) == expected


def test_seven_bits_where_products_saturate(lowered, monkeypatch):
    """Of such a processor weights are within 64, whose products fit in pairs, and the manifest says so; else within 127."""
    for flags, most, words in (({"avx2"}, 64, "int8 of 7 bits"), ({"avx2", "avx512_vnni"}, 127, "need VNNI")):
        monkeypatch.setattr(precision, "cpu_flags", lambda flags=flags: frozenset(flags))
        path, manifest = lowered("int8", limit=2, max_drop=100.0)
        _, _, arrays = parts(onnx.load(path))
        weights = [values for values in arrays.values() if values.dtype == np.int8 and values.ndim == 4]
        assert max(np.abs(values.astype(int)).max() for values in weights) == most
        assert words in manifest.quantization.method
