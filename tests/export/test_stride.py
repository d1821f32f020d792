import pytest

from segdeploy.artifact.manifest import Bounds, Pad
from segdeploy.base.errors import InputError
from segdeploy.export.graph import DeployGraph
from segdeploy.export.stride import check_smallest_side, network_stride
from segdeploy.models.build import build_model
from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.models.describe import describe


@pytest.fixture(scope="module")
def graph(checkpoint_path):
    checkpoint = load_checkpoint(checkpoint_path)
    return DeployGraph(build_model(checkpoint), describe(checkpoint, name="x", fmt="onnx")).eval()


def test_the_stride(graph):
    """A ResNet's is 32, whatever size it is asked at; a backbone that cannot be asked has none."""
    assert network_stride(graph, (64, 96)) == network_stride(graph, (512, 512)) == 32
    assert network_stride(object(), (64, 96)) is None


@pytest.mark.parametrize("low", [1, 16, 31])
def test_below_it(graph, make_manifest, low):
    """Static or dynamic, either side: the stride and the shape are named."""
    import msgspec

    sides = ((low, 64), (64, low), (Bounds(min=low, opt=64, max=128), Bounds(min=64, opt=64, max=128)))
    for height, width in sides:
        manifest = make_manifest()
        manifest = msgspec.structs.replace(manifest, input=msgspec.structs.replace(manifest.input, shape=(1, height, width, 3)))
        with pytest.raises(InputError, match=f"at least 32, the network's stride; got .*{low}.*--min-shape"):
            check_smallest_side(graph, manifest, (64, 96))
        padding = msgspec.structs.replace(manifest.preprocess, pad=Pad(divisor=32))
        check_smallest_side(graph, msgspec.structs.replace(manifest, preprocess=padding), (64, 96))
