import pytest
import torch
from torch import nn

from segdeploy.export.rewrites import rewrite
from segdeploy.export.rewrites.swin import ExactShiftedWindows
from segdeploy.models.packages import load_mmseg


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_shifted_windows_are_swins(shift, seeded):
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
