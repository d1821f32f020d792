import pytest
import torch
from torch import nn
from torch.nn import functional

from segdeploy.core.mmseg import load_mmseg
from segdeploy.export.rewrites import ExactAdaptiveAvgPool2d, ExactDynamicFilter, ExactOps, ExactUpsample, rewrite

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
