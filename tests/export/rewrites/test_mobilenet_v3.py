import pytest
import torch

from segdeploy.export.rewrites.mobilenet_v3 import ExactPaddedConv
from segdeploy.models.packages import load_mmseg


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (4, 3, 2), (1, 1, 1)])
def test_the_padded_convolution_is_mmcvs(kernel, stride, dilation, seeded, replaced):
    """MobileNetV3's first: traced at one size, at every other."""
    load_mmseg()
    from mmcv.cnn.bricks import Conv2dAdaptivePadding

    theirs = Conv2dAdaptivePadding(2, 3, kernel, stride, dilation=dilation)
    ours = replaced(theirs, ExactPaddedConv, seeded(1, 2, 9, 14))
    for size in [(7, 7), (10, 8), (16, 13)]:
        x = seeded(3, 2, *size)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-6)
