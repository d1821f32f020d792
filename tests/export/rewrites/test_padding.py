import pytest
import torch

from segdeploy.export.rewrites.padding import ExactAdaptivePadding
from segdeploy.models.packages import load_mmseg


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(4, 4, 1), (3, 2, 1), (2, 2, 1), (7, 4, 1), (3, 2, 2)])
@pytest.mark.parametrize("mode", ["corner", "same"])
def test_the_padding_of_patches_is_mmsegs(kernel, stride, dilation, mode, seeded, replaced):
    """Traced at one size, at every other: what is missing differs, nothing at all included."""
    load_mmseg()
    from mmseg.models.utils.embed import AdaptivePadding

    theirs = AdaptivePadding(kernel, stride, dilation, mode)
    ours = replaced(theirs, ExactAdaptivePadding, seeded(1, 2, 9, 14))
    for size in [(1, 1), (4, 8), (7, 6), (13, 12), (16, 5)]:
        x = seeded(3, 2, *size)
        assert torch.equal(ours(x), theirs(x)), size
