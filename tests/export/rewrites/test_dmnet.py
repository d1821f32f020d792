import pytest
import torch
from torch import nn

from segdeploy.export.rewrites import rewrite
from segdeploy.export.rewrites.dmnet import ExactDynamicFilter
from segdeploy.models.packages import load_mmseg


@pytest.mark.parametrize("taps", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(3, 3), (9, 14), (17, 6)])
@pytest.mark.parametrize(("fusion", "norm"), [(True, {"type": "BN"}), (False, None)])
def test_the_dynamic_filter_is_dmnets(taps, size, fusion, norm, seeded, replaced):
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
