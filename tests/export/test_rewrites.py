import pytest
import torch
from torch import nn
from torch.nn import functional

from segdeploy.export.rewrites import (
    ExactAdaptiveAvgPool2d,
    ExactAdaptivePadding,
    ExactDynamicFilter,
    ExactInterlacedHead,
    ExactKernelUpdate,
    ExactOps,
    ExactPaddedConv,
    ExactShiftedWindows,
    ExactUpsample,
    rewrite,
)
from segdeploy.models.packages import load_mmseg

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


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", SIZES)
def test_pooling_that_is_called_as_a_function(size):
    """APCNet, ResNeSt and STDC call the function: inside ExactOps it is replaced, with torch's values."""
    x = seeded(2, 3, *size)
    expected = [functional.adaptive_avg_pool2d(x, scale) for scale in (1, (2, 3))]
    with ExactOps(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch._C._nn, "adaptive_avg_pool2d", lambda *_: pytest.fail("torch's own was called"))
        found = [functional.adaptive_avg_pool2d(x, scale) for scale in (1, (2, 3))]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_a_view_of_another_memory_order():
    """DANet and DMNet view channels of what lies in memory as NHWC: refused by torch, the same values inside ExactOps."""
    x = seeded(2, 6, 5, 7).to(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        x.view(2, 3, -1)
    with ExactOps():
        assert torch.equal(x.view(2, 3, -1), x.contiguous().view(2, 3, -1))
        assert torch.equal(x.view((12, 35)), x.contiguous().view(12, 35))
        assert torch.equal(x.view(torch.int32), x.contiguous().view(torch.int32))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 4), (16, 33)])
@pytest.mark.parametrize(("factor", "mode", "align"), [(2, "bilinear", False), (4, "bilinear", True), (2, "nearest", None)])
def test_upsampling_is_mmsegs(size, factor, mode, align):
    """mmseg's own Upsample at every size."""
    load_mmseg()
    from mmseg.models.utils import Upsample

    model = nn.Sequential(Upsample(scale_factor=factor, mode=mode, align_corners=align))
    expected = model(seeded(2, 3, *size))
    rewrite(model)
    assert isinstance(model[0], ExactUpsample)
    assert torch.equal(model(seeded(2, 3, *size)), expected)


def test_upsampling_that_is_left():
    """A factor that is no whole number, and a fixed size, are mmseg's own."""
    load_mmseg()
    from mmseg.models.utils import Upsample

    model = nn.Sequential(Upsample(scale_factor=1.5, mode="nearest"), Upsample(size=(4, 4), mode="nearest"))
    rewrite(model)
    assert all(isinstance(module, Upsample) for module in model)


@pytest.mark.parametrize("taps", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(3, 3), (9, 14), (17, 6)])
@pytest.mark.parametrize(("fusion", "norm"), [(True, {"type": "BN"}), (False, None)])
def test_the_dynamic_filter_is_dmnets(taps, size, fusion, norm):
    """mmseg's DCM, which folds the batch into groups, for batches and odd and even filters."""
    load_mmseg()
    from mmseg.models.decode_heads.dm_head import DCM

    torch.manual_seed(0)
    model = nn.Sequential(DCM(taps, fusion, 6, 4, None, norm, {"type": "ReLU"})).eval()
    for count in (1, 3):
        x = seeded(count, 6, *size)
        with torch.no_grad():
            expected = model(x)
            replaced = ExactDynamicFilter(model[0])
            torch.testing.assert_close(replaced(x), expected, atol=1e-5, rtol=1e-5)
    rewrite(model)
    assert isinstance(model[0], ExactDynamicFilter)


def replaced(module, kind, *example):
    """What ``rewrite`` puts in a module's place, traced at one size and batch: it must serve all others."""
    model = nn.Sequential(module).eval()
    rewrite(model)
    assert isinstance(model[0], kind)
    with torch.no_grad():
        return torch.jit.trace(model[0], example, check_trace=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(4, 4, 1), (3, 2, 1), (2, 2, 1), (7, 4, 1), (3, 2, 2)])
@pytest.mark.parametrize("mode", ["corner", "same"])
def test_the_padding_of_patches_is_mmsegs(kernel, stride, dilation, mode):
    """Traced at one size, at every other: what is missing differs, nothing at all included."""
    load_mmseg()
    from mmseg.models.utils.embed import AdaptivePadding

    theirs = AdaptivePadding(kernel, stride, dilation, mode)
    ours = replaced(theirs, ExactAdaptivePadding, seeded(1, 2, 9, 14))
    for size in [(1, 1), (4, 8), (7, 6), (13, 12), (16, 5)]:
        x = seeded(3, 2, *size)
        assert torch.equal(ours(x), theirs(x)), size


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (4, 3, 2), (1, 1, 1)])
def test_the_padded_convolution_is_mmcvs(kernel, stride, dilation):
    """MobileNetV3's first: traced at one size, at every other."""
    load_mmseg()
    from mmcv.cnn.bricks import Conv2dAdaptivePadding

    theirs = Conv2dAdaptivePadding(2, 3, kernel, stride, dilation=dilation)
    ours = replaced(theirs, ExactPaddedConv, seeded(1, 2, 9, 14))
    for size in [(7, 7), (10, 8), (16, 13)]:
        x = seeded(3, 2, *size)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_shifted_windows_are_swins(shift):
    """Traced at one size, at every other: one window and many, with padding and without, in batches."""
    load_mmseg()
    from mmseg.models.backbones.swin import ShiftWindowMSA

    torch.manual_seed(0)
    theirs = ShiftWindowMSA(8, 2, 7, shift).eval()
    nn.init.normal_(theirs.w_msa.relative_position_bias_table)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.windows = theirs

        def forward(self, x):
            return self.windows(x.flatten(2).transpose(1, 2), x.shape[2:])

    model = Block().eval()
    rewrite(model)
    assert isinstance(model.windows, ExactShiftedWindows)
    with torch.no_grad():
        traced = torch.jit.trace(model, seeded(2, 8, 15, 23), check_trace=False)
    for count, *size in [(1, 7, 7), (3, 14, 21), (2, 5, 9), (1, 30, 16)]:
        x = seeded(count, 8, *size)
        with torch.no_grad():
            expected = theirs(x.flatten(2).transpose(1, 2), tuple(size))
            torch.testing.assert_close(traced(x), expected, atol=1e-5, rtol=1e-5, msg=str(size))


@pytest.mark.filterwarnings("ignore")
def test_interlaced_attention_is_isanets():
    """Traced at one size, at every other: smaller than a group, padded on one side or both or not at all, in batches."""
    load_mmseg()
    from mmseg.models.decode_heads import ISAHead

    torch.manual_seed(0)
    theirs = ISAHead(isa_channels=4, down_factor=(4, 3), in_channels=6, channels=8, num_classes=5, norm_cfg={"type": "BN"})
    theirs.eval()
    ours = replaced(theirs, ExactInterlacedHead, [seeded(2, 6, 9, 13)])
    for count, *size in [(1, 8, 9), (3, 3, 2), (2, 10, 12), (1, 12, 31)]:
        x = seeded(count, 6, *size)
        with torch.no_grad():
            torch.testing.assert_close(ours([x]), theirs([x]), atol=1e-5, rtol=1e-5, msg=str(size))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("transform", [None, {"conv_cfg": {"type": "Conv2d"}, "act_cfg": None}])
@pytest.mark.parametrize("ffn", [True, False])
def test_the_kernel_update_is_knets(transform, ffn):
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


def test_mmsegs_resize_is_as_it_was():
    """Its warning is off inside ExactOps only, after an error too."""
    load_mmseg()
    from mmseg.models.utils import resize

    before = resize.__defaults__
    with pytest.raises(ZeroDivisionError), ExactOps():
        assert resize.__defaults__[-1] is False
        1 / 0  # noqa: B018
    assert resize.__defaults__ == before
    assert before[-1] is True
