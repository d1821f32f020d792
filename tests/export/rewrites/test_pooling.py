import pytest
import torch
from torch import nn

from segdeploy.export.rewrites import rewrite
from segdeploy.export.rewrites.pooling import ExactAdaptiveAvgPool2d

# Even, odd, prime, of one pixel, smaller than the scale, and a real feature map's.
SIZES = [(1, 1), (1, 7), (2, 3), (4, 6), (5, 5), (6, 6), (7, 4), (12, 16), (13, 17), (31, 47), (64, 128), (3, 100)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [1, 2, 3, 6])
def test_is_torchs_pooling(size, scale):
    """UPerNet's four scales at every size, smaller than the scale too: torch's own adaptive pooling."""
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ExactAdaptiveAvgPool2d(scale)(x), nn.AdaptiveAvgPool2d(scale)(x), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scale", [(2, 3), (None, 4), (5, None), [1, 6], (7, 7)])
def test_other_output_sizes(scale):
    """Rectangles, lists, and an axis that keeps its size."""
    x = torch.randn(1, 2, 11, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ExactAdaptiveAvgPool2d(scale)(x), nn.AdaptiveAvgPool2d(scale)(x), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 6, 7, 511, 1023, 8191])
def test_large_sizes_are_exact(size):
    """The bins' borders are integers, exact at sizes where a float division would round."""
    x = torch.randn(1, 1, size, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for scale in (3, 6, 7):
        ours = ExactAdaptiveAvgPool2d((scale, 1))(x)
        torch.testing.assert_close(ours, nn.AdaptiveAvgPool2d((scale, 1))(x), atol=1e-12, rtol=1e-12)


def test_every_pooling_of_a_model_is_replaced():
    """However deep it lies and however often it is shared; everything else stays."""
    shared = nn.AdaptiveAvgPool2d(2)
    model = nn.Sequential(
        shared, nn.Sequential(nn.Conv2d(1, 1, 1), nn.ModuleList([nn.AdaptiveAvgPool2d(3)])), nn.Sequential(shared)
    )
    rewrite(model)
    assert not [module for module in model.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    assert sum(isinstance(module, ExactAdaptiveAvgPool2d) for module in model.modules()) == 3
    assert isinstance(model[1][0], nn.Conv2d)
