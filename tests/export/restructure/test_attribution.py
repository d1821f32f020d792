"""A convolution before upsampling is one layer to a verdict's search for the first that differs."""

import numpy as np
import pytest

from segdeploy.parity.eager_probe import eager_layers
from segdeploy.parity.layers import compare_layers
from segdeploy.runtime.backends.onnx_layers import onnx_layers
from segdeploy.runtime.backends.torchscript_layers import torchscript_layers

onnx = pytest.importorskip("onnx")
MODULES = ("decode_head.bottleneck.conv", "decode_head.fpn_bottleneck.conv")


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (1, 70, 90, 3), dtype=np.uint8)


@pytest.mark.parametrize("fmt", ["onnx", "torchscript"])
def test_every_layer_agrees(fmt, request, eager, image):
    """As many layers as mmseg's model has, each with the output of its counterpart."""
    artifact = request.getfixturevalue(f"{fmt}_artifact")
    assert artifact.manifest.restructured == MODULES
    reference = eager_layers(eager, image)
    found = {"onnx": onnx_layers, "torchscript": torchscript_layers}[fmt](artifact, image)
    assert len(found) == len(reference)
    assert sum(run.given is None for run in found) == len(MODULES)
    assert compare_layers(reference, found, "fp32") is None


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("weight", ["weight", "far_0_0", "far_0_2"])
def test_a_fault_inside_is_named(module, weight, onnx_artifact, copied, eager, image):
    """Whichever of its weights is wrong, it is this module and no layer behind it."""
    from onnx import numpy_helper

    artifact = copied(onnx_artifact)
    model = onnx.load(artifact.model_path)
    (tensor,) = [one for one in model.graph.initializer if one.name == f"{module}.{weight}"]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))
    onnx.save(model, artifact.model_path)
    found = compare_layers(eager_layers(eager, image), onnx_layers(artifact, image), "fp32")
    assert (found.stage, found.module) == ("graph", module)
