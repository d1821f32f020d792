import pytest
import torch
from torch import nn

from segdeploy.export.rewrites import rewrite
from segdeploy.export.rewrites.upsample import ExactUpsample
from segdeploy.models.packages import load_mmseg


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 4), (16, 33)])
@pytest.mark.parametrize(("factor", "mode", "align"), [(2, "bilinear", False), (4, "bilinear", True), (2, "nearest", None)])
def test_upsampling_is_mmsegs(size, factor, mode, align, seeded):
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
