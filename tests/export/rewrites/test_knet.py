import pytest
import torch
from torch import nn

from segdeploy.export.rewrites import rewrite
from segdeploy.export.rewrites.knet import ExactKernelUpdate
from segdeploy.models.packages import load_mmseg


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("transform", [None, {"conv_cfg": {"type": "Conv2d"}, "act_cfg": None}])
@pytest.mark.parametrize("ffn", [True, False])
def test_the_kernel_update_is_knets(transform, ffn, seeded, replaced):
    """Traced at one size and batch, at every other; masks of the features' size and of another."""
    load_mmseg()
    from mmseg.models.decode_heads.knet_head import KernelUpdateHead

    torch.manual_seed(0)
    updator = {"type": "KernelUpdator", "in_channels": 8, "feat_channels": 8, "out_channels": 8}
    theirs = KernelUpdateHead(
        5, 2, 2, 1, 16, 8, 8, with_ffn=ffn, feat_transform_cfg=transform,
        kernel_updator_cfg={**updator, "act_cfg": {"type": "ReLU"}, "norm_cfg": {"type": "LN"}},
    ).eval()  # fmt: skip
    ours = replaced(theirs, ExactKernelUpdate, seeded(2, 8, 6, 9), seeded(2, 5, 8, 1, 1), seeded(2, 5, 6, 9))
    for count, size, masks in [(1, (6, 9), (6, 9)), (3, (4, 5), (8, 10)), (2, (11, 3), (11, 3))]:
        inputs = seeded(count, 8, *size), seeded(count, 5, 8, 1, 1), seeded(count, 5, *masks)
        with torch.no_grad():
            for found, expected in zip(ours(*inputs), theirs(*inputs), strict=True):
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_what_is_left():
    """K-Net's kernels of 3x3, and patches with gaps between them, are mmseg's own."""
    load_mmseg()
    from mmseg.models.decode_heads.knet_head import KernelUpdateHead
    from mmseg.models.utils.embed import AdaptivePadding

    updator = {"type": "KernelUpdator", "in_channels": 8, "feat_channels": 8, "out_channels": 8}
    kernels = KernelUpdateHead(5, 2, 2, 1, 16, 8, 8, conv_kernel_size=3, kernel_updator_cfg=updator)
    model = nn.Sequential(kernels, AdaptivePadding(2, 3))
    rewrite(model)
    assert isinstance(model[0], KernelUpdateHead)
    assert isinstance(model[1], AdaptivePadding)
