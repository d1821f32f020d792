"""Faults planted in good artifacts: each must fail, and the verdict must say where. docs/parity.md lists them.

And the other way: test_verify.py holds that what differs without being a fault (opset, batch, threads) passes.
"""

import numpy as np
import pytest

from segdeploy.artifact.folder import open_artifact, write_artifact
from segdeploy.parity.inputs import Inputs, pictures_of_folder
from segdeploy.parity.verify import verify

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402  only where onnx is there

from support.planting import attribute, edit, insert_behind, last_resize, nodes  # noqa: E402  likewise

SHAPES = [(1, 64, 96), (2, 75, 51)]


def swapped_means(model):
    edit(model, "mean", lambda mean: mean[:, ::-1])


def wrong_scale(model):
    edit(model, "std", lambda std: std * 1.1)


def swapped_channels(model):
    cast = next(node for node in model.graph.node if node.op_type == "Cast" and "image" in node.input)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "planted_order"))
    insert_behind(model, cast.output[0], "Gather", ["planted_order"], axis=3)


def align_corners_of_the_mask(model):
    attribute(last_resize(model), "coordinate_transformation_mode").s = b"align_corners"


def nearest_mask(model):
    resize = last_resize(model)
    attribute(resize, "mode").s = b"nearest"
    attribute(resize, "coordinate_transformation_mode").s = b"asymmetric"
    attribute(resize, "nearest_mode").s = b"floor"


def align_corners_in_the_head(model):
    resize = next(node for node in nodes(model, "decode_head/") if node.op_type == "Resize")
    attribute(resize, "coordinate_transformation_mode").s = b"align_corners"


def perturbed_head(model):
    edit(
        model, "decode_head.conv_seg.weight", lambda weight: weight + 1e-2 * (np.arange(weight.size).reshape(weight.shape) == 0)
    )


def perturbed_backbone(model):
    edit(model, "backbone.layer3.0.conv2.weight", lambda weight: weight * np.float32(1.01))


def lost_bias(model):
    edit(model, "backbone.layer2.1.conv1.weight_bias", lambda bias: bias * 0)


def lost_activation(model):
    relu = nodes(model, "decode_head.bottleneck.activate/Relu")[0]
    relu.op_type = "Identity"


def swapped_classes(model):
    for name in ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias"):
        edit(model, name, lambda values: values[[1, 0, *range(2, len(values))]])


def a_class_that_never_wins(model):
    edit(model, "decode_head.conv_seg.bias", lambda bias: np.where(np.arange(len(bias)) == 3, np.float32(-1e4), bias))


def not_a_number(model):
    edit(model, "decode_head.conv_seg.bias", lambda bias: np.where(np.arange(len(bias)) == 2, np.float32(np.nan), bias))


def batch_dependent(model):
    """The logits' mean over the batch is added to them: right for one image, twice as large; wrong in company."""
    logits = next(node for node in nodes(model, "decode_head.conv_seg/")).output[0]
    inner = "planted_logits"
    next(node for node in nodes(model, "decode_head.conv_seg/")).output[0] = inner
    for node in model.graph.node:
        for index, given in enumerate(node.input):
            if given == logits:
                node.input[index] = logits
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "planted_axis"))
    at = next(i for i, node in enumerate(model.graph.node) if inner in node.output) + 1
    for node in (
        helper.make_node("Add", [inner, "planted_half"], [logits], name="planted/Add"),
        helper.make_node("Mul", ["planted_off", "planted_scale"], ["planted_half"], name="planted/Mul"),
        helper.make_node("Sub", [inner, "planted_mean"], ["planted_off"], name="planted/Sub"),
        helper.make_node("ReduceMean", [inner, "planted_axis"], ["planted_mean"], name="planted/ReduceMean", keepdims=1),
    ):
        model.graph.node.insert(at, node)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "planted_scale"))


def unstable(model):
    """Noise on the logits, another each time."""
    logits = nodes(model, "decode_head.conv_seg/")[0].output[0]
    nodes(model, "decode_head.conv_seg/")[0].output[0] = "planted_logits"
    at = next(i for i, node in enumerate(model.graph.node) if "planted_logits" in node.output) + 1
    model.graph.node.insert(at, helper.make_node("Add", ["planted_logits", "planted_noise"], [logits], name="planted/Add"))
    noise = helper.make_node("RandomNormalLike", ["planted_logits"], ["planted_noise"], name="planted/Noise", scale=0.5)
    model.graph.node.insert(at, noise)


# fault -> the stage, the module, and words of the detail
FAULTS = {
    swapped_means: ("preprocessing", "", "normalisation"),
    wrong_scale: ("preprocessing", "", "normalisation"),
    swapped_channels: ("preprocessing", "", "the channels are swapped"),
    align_corners_of_the_mask: ("postprocessing", "", "align_corners=True instead of False"),
    nearest_mask: ("postprocessing", "", "nearest"),
    align_corners_in_the_head: ("graph", "decode_head", "Resize"),
    perturbed_head: ("graph", "decode_head.conv_seg", "its input being right"),
    perturbed_backbone: ("graph", "backbone.layer3.0.conv2", "its input being right"),
    lost_bias: ("graph", "backbone.layer2.1.conv1", "its input being right"),
    lost_activation: ("graph", "decode_head", "every layer before is right"),
    swapped_classes: ("graph", "decode_head.conv_seg", "the classes background, red are in one another's place"),
    a_class_that_never_wins: ("graph", "decode_head.conv_seg", "its input being right"),
    not_a_number: ("graph", "decode_head.conv_seg", "not finite"),
    batch_dependent: ("runtime", "", "alone and in a batch"),
    unstable: ("runtime", "", "the same picture twice"),
}


@pytest.fixture
def pictures(images_folder):
    """Three of them do."""
    return pictures_of_folder(images_folder, 3)


@pytest.fixture
def with_fault(onnx_artifact, tmp_path):
    """The good artifact with a fault planted in its graph, its hashes right."""

    def plant(fault):
        def write(folder):
            model = onnx.load(onnx_artifact.model_path)
            fault(model)
            onnx.save(model, folder / "model.onnx")
            return onnx_artifact.manifest

        return write_artifact(tmp_path / "faulty", write)

    return plant


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_the_graph(with_fault, pictures, tmp_path, fault):
    """It fails, in the manifest on disk too, at the right place; the worst image is drawn."""
    artifact = with_fault(fault)
    parity = verify(artifact, inputs=pictures, shapes=SHAPES, pictures=tmp_path / "drawn")
    assert parity.verdict == "failed"
    stage, module, words = FAULTS[fault]
    found = parity.divergence
    assert (found.stage, found.module) == (stage, module), found.detail
    assert words in found.detail
    assert open_artifact(artifact.folder).manifest.parity == (parity,)
    assert (tmp_path / "drawn" / "worst.png").is_file()


def test_a_fault_shows_on_noise_too(with_fault):
    """Without pictures a perturbed layer is found all the same."""
    artifact = with_fault(perturbed_backbone)
    parity = verify(artifact, inputs=None, shapes=SHAPES)
    assert parity.verdict == "failed"


def test_inexact_pooling_at_other_sizes(tmp_path, checkpoint_path, monkeypatch):
    """Pooling with equal bins is right where they divide the map and wrong elsewhere; TorchScript has no modules to name."""
    import torch

    from segdeploy.export.export import export_model
    from segdeploy.export.rewrites import pooling
    from segdeploy.export.shapes import choose_shapes
    from segdeploy.models.checkpoint import load_checkpoint
    from segdeploy.parity.inputs import noise

    def equal_bins(size, cells, like):
        length = torch.div(torch.as_tensor(size), cells, rounding_mode="floor").clamp(min=1)
        at, cell = torch.arange(size)[None, :], torch.arange(cells)[:, None]
        return torch.logical_and(at >= cell * length, at < (cell + 1) * length).to(like.dtype) / length

    monkeypatch.setattr(pooling, "_bins", equal_bins)
    shapes = choose_shapes((192, 192), largest="512x512")
    artifact = export_model(load_checkpoint(checkpoint_path), "torchscript", tmp_path / "equal", name="x", shapes=shapes)
    even = noise(artifact.manifest, 2)
    parity = verify(artifact, inputs=even)
    assert parity.verdict == "failed"
    verdicts = {shape.shape: shape.verdict for shape in parity.shapes}
    assert verdicts.pop((1, 192, 192)) == verdicts.pop((16, 192, 192)) == "passed"
    assert "passed" not in verdicts.values()
    assert parity.divergence.stage == "graph"
    assert "decode_head.psp_modules" in parity.divergence.detail
    assert "every layer before is right" in parity.divergence.detail


def test_a_perturbed_torchscript_layer(tmp_path, checkpoint_path, pictures):
    """TorchScript's layers are found by their order."""
    import torch

    from segdeploy.export.export import export_model
    from segdeploy.export.shapes import choose_shapes
    from segdeploy.models.checkpoint import load_checkpoint

    content = torch.load(checkpoint_path, weights_only=True)
    content["state_dict"]["backbone.layer2.0.conv1.weight"] *= 1.01
    torch.save(content, tmp_path / "other.pth")
    shapes = choose_shapes((64, 96), largest="256x256")
    other = export_model(load_checkpoint(tmp_path / "other.pth"), "torchscript", tmp_path / "other", name="x", shapes=shapes)
    good = export_model(load_checkpoint(checkpoint_path), "torchscript", tmp_path / "good", name="x", shapes=shapes)

    def write(folder):
        (folder / "model.pt").write_bytes(other.model_path.read_bytes())
        return good.manifest

    parity = verify(write_artifact(tmp_path / "mixed", write), inputs=pictures, shapes=SHAPES)
    assert parity.verdict == "failed"
    assert (parity.divergence.stage, parity.divergence.module) == ("graph", "backbone.layer2.0.conv1")


def test_fp16_that_overflows(planted_onnx, onnx_artifact, pictures, tmp_path):
    """A layer that leaves fp16's range is named. The exporter keeps such a layer in float32; here it was not asked."""
    import msgspec

    from segdeploy.export.fp16 import sensitive_nodes, to_half

    model = onnx.load(planted_onnx(1e5))
    model = onnx.shape_inference.infer_shapes(model)
    half = to_half(model, sensitive_nodes(model))

    def write(folder):
        onnx.save(half, folder / "model.onnx")
        return msgspec.structs.replace(onnx_artifact.manifest, precision="fp16")

    parity = verify(write_artifact(tmp_path / "half", write), inputs=pictures, shapes=SHAPES)
    assert parity.verdict == "failed"
    assert (parity.divergence.stage, parity.divergence.module) == ("precision", "decode_head.fpn_bottleneck.conv")
    assert "not finite" in parity.divergence.detail


def test_int8_with_a_broken_scale(lowered, pictures, tmp_path):
    """One activation's scale is a thousand times too large, so that all of it rounds to zero."""
    path, manifest = lowered("int8", max_drop=50.0)
    model = onnx.load(path)
    layer = next(node for node in model.graph.node if node.name == "backbone.layer3.0.conv1/Conv")
    dequantize = next(node for node in model.graph.node if layer.input[0] in node.output)
    assert dequantize.op_type == "DequantizeLinear"
    scale = next(one for one in model.graph.initializer if one.name == dequantize.input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1000), scale.name))

    def write(folder):
        onnx.save(model, folder / "model.onnx")
        return manifest

    parity = verify(write_artifact(tmp_path / "broken", write), inputs=pictures, shapes=SHAPES)
    assert parity.verdict == "failed"
    found = parity.divergence
    assert (found.stage, found.module) == ("precision", "backbone.layer3.0.conv1"), found
    assert "its scale does not fit" in found.detail


def quantizer(model, layer, place=0):
    """The DequantizeLinear in front of a layer's input (0) or weight (1)."""
    node = next(node for node in model.graph.node if node.name == f"{layer}/Conv")
    found = next(one for one in model.graph.node if node.input[place] in one.output)
    assert found.op_type == "DequantizeLinear"
    return found


def one_scale_for_all_channels(model):
    """A layer's weights keep the integers of their own channels, and lose the scales."""
    dequantize = quantizer(model, "backbone.layer3.0.conv1", 1)
    edit(model, dequantize.input[1], lambda scale: np.full_like(scale, scale.max() * 4))


def test_int8_weights_of_one_scale(lowered, pictures, tmp_path):
    """It is blamed on the precision, at the layer that is quantized wrongly."""
    path, manifest = lowered("int8", max_drop=50.0)
    model = onnx.load(path)
    one_scale_for_all_channels(model)

    def write(folder):
        onnx.save(model, folder / "model.onnx")
        return manifest

    parity = verify(write_artifact(tmp_path / "broken", write), inputs=pictures, shapes=SHAPES)
    assert parity.verdict == "failed"
    assert (parity.divergence.stage, parity.divergence.module) == ("precision", "backbone.layer3.0.conv1"), parity.divergence


def test_fp16_that_underflows(planted_onnx, onnx_artifact, pictures, tmp_path):
    """A channel so small that fp16 has only denormal numbers for it, enlarged again by the next layer."""
    import msgspec

    from segdeploy.export.fp16 import sensitive_nodes, to_half

    model = onnx.load(planted_onnx(2e-6))
    model = onnx.shape_inference.infer_shapes(model)
    edit(model, "decode_head.conv_seg.weight", lambda weight: np.clip(weight, -60000, 60000))
    half = to_half(model, sensitive_nodes(model))

    def write(folder):
        onnx.save(half, folder / "model.onnx")
        return msgspec.structs.replace(onnx_artifact.manifest, precision="fp16")

    parity = verify(write_artifact(tmp_path / "half", write), inputs=pictures, shapes=SHAPES)
    assert parity.verdict == "failed"
    assert (parity.divergence.stage, parity.divergence.module) == ("precision", "decode_head.fpn_bottleneck.conv"), (
        parity.divergence
    )


def test_an_honest_int8_that_is_not_good_enough(lowered, pictures, tmp_path):
    """Nothing is broken in it, and more was asked for than int8 gives: its rounding is at fault, never the resize."""
    import msgspec

    from segdeploy.parity.tolerance import TOLERANCES

    path, manifest = lowered("int8", max_drop=50.0)

    def write(folder):
        (folder / "model.onnx").write_bytes(path.read_bytes())
        return manifest

    strict = msgspec.structs.replace(TOLERANCES["int8"], mask_agreement=0.9999)
    parity = verify(write_artifact(tmp_path / "honest", write), inputs=pictures, shapes=SHAPES, tolerance=strict)
    assert parity.verdict == "failed"
    assert not any(shape.logits.max_abs > 0.5 * shape.logits.scale for shape in parity.shapes)  # as far as logits go it passes
    assert parity.divergence.stage == "precision", parity.divergence
    assert parity.divergence.layers


def test_good_lower_precisions_pass(lowered, pictures, tmp_path):
    """fp16 and int8 as the exporter makes them are within their own tolerances."""
    for precision in ("fp16", "int8"):
        path, manifest = lowered(precision, max_drop=50.0)

        def write(folder, path=path, manifest=manifest):
            (folder / "model.onnx").write_bytes(path.read_bytes())
            return manifest

        parity = verify(write_artifact(tmp_path / precision / "good", write), inputs=pictures, shapes=SHAPES)
        assert parity.verdict == "passed", parity.checks


def test_an_empty_question_is_no_verdict(onnx_artifact):
    """No picture: nothing was compared, and nothing passed."""
    with pytest.raises((ValueError, ZeroDivisionError, IndexError)):
        verify(onnx_artifact, inputs=Inputs("nothing", ()), record=False)


# Faults that have a test of their own, as the table in docs/parity.md lists them.
ALONE = {
    test_int8_weights_of_one_scale: ("precision", "backbone.layer3.0.conv1", "the layer that adds most"),
    test_fp16_that_underflows: ("precision", "decode_head.fpn_bottleneck.conv", "the layer that adds most"),
    test_inexact_pooling_at_other_sizes: ("graph", "decode_head.psp_modules", "every layer before is right"),
    test_a_perturbed_torchscript_layer: ("graph", "backbone.layer2.0.conv1", "its input being right"),
    test_fp16_that_overflows: ("precision", "decode_head.fpn_bottleneck.conv", "not finite"),
    test_int8_with_a_broken_scale: ("precision", "backbone.layer3.0.conv1", "its scale does not fit"),
    test_an_honest_int8_that_is_not_good_enough: ("precision", "", "the layers that add most"),
}
