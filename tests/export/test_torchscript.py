import numpy as np
import pytest
import torch

from segdeploy.base.errors import ExportError
from segdeploy.export.options import Options
from segdeploy.export.rewrites import Demands
from segdeploy.export.torchscript import write_torchscript

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")


def test_runs_without_segdeploy(torchscript_artifact, eager):
    """The archive alone, loaded by torch.jit, takes uint8 RGB and gives mask and logits."""
    module = torch.jit.load(str(torchscript_artifact.model_path))
    image = np.random.default_rng(0).integers(0, 256, (2, 70, 50, 3), dtype=np.uint8)
    with torch.no_grad():
        mask, logits = module(torch.tensor(image))
    expected = eager.run(image, logits=True)
    assert mask.dtype == torch.uint8
    np.testing.assert_allclose(logits.numpy(), expected.logits, atol=1e-4)
    assert (mask.numpy() != expected.mask).sum() <= 1


def test_is_frozen(torchscript_artifact):
    """Weights are constants of the graph: no parameter is left that a training could change."""
    module = torch.jit.load(str(torchscript_artifact.model_path))
    assert not list(module.parameters())
    assert not list(module.buffers())


def test_a_model_that_cannot_be_traced(make_manifest, tmp_path):
    """What torch.jit refuses is an ExportError of one line."""

    class Broken(torch.nn.Module):
        demands = Demands()

        def forward(self, image):
            raise RuntimeError("no such thing\nmore")

    with pytest.raises(ExportError, match="got no such thing; export to onnx instead"):
        write_torchscript(Broken(), make_manifest(), tmp_path, Options())
