import pytest
import torch

from segdeploy.export.rewrites.isanet import ExactInterlacedHead
from segdeploy.models.packages import load_mmseg


@pytest.mark.filterwarnings("ignore")
def test_interlaced_attention_is_isanets(seeded, replaced):
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
