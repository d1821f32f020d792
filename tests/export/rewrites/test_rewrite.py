import pytest
import torch
from torch import nn

from segdeploy.export.rewrites import Demands, rewrite
from segdeploy.models.packages import load_mmseg


def convolution():
    from mmcv.cnn.bricks import Conv2dAdaptivePadding

    return Conv2dAdaptivePadding(2, 3, 3, 2)


def windows():
    from mmseg.models.backbones.swin import ShiftWindowMSA

    return ShiftWindowMSA(8, 2, 7, 3)


def interlaced():
    from mmseg.models.decode_heads import ISAHead

    return ISAHead(isa_channels=4, down_factor=(4, 3), in_channels=6, channels=8, num_classes=5, norm_cfg={"type": "BN"})


def dynamic_filter():
    from mmseg.models.decode_heads.dm_head import DCM

    return DCM(3, True, 6, 4, None, {"type": "BN"}, {"type": "ReLU"})


def kernel_update():
    from mmseg.models.decode_heads.knet_head import KernelUpdateHead

    updator = {"type": "KernelUpdator", "in_channels": 8, "feat_channels": 8, "out_channels": 8}
    return KernelUpdateHead(5, 2, 2, 1, 16, 8, 8, kernel_updator_cfg=updator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [convolution, windows, interlaced, dynamic_filter, kernel_update])
def test_paths_are_mmsegs(make):
    """Modules and weights of a replacement have the paths that they had, and a checkpoint loads into it."""
    load_mmseg()
    model = nn.Sequential(make())
    modules, state = [name for name, _ in model.named_modules()], model.state_dict()
    rewrite(model)
    assert type(model[0]).__module__.startswith("segdeploy.export.rewrites.")
    assert [name for name, _ in model.named_modules()] == modules
    assert list(model.state_dict()) == list(state)
    for name, values in state.items():
        if values.dtype.is_floating_point:
            assert model.state_dict()[name].data_ptr() == values.data_ptr()
    model.load_state_dict({name: torch.full_like(values, 2) for name, values in state.items()})
    assert all((values == 2).all() for values in model.state_dict().values())


def test_demands():
    """Of several parts, each asks for its own: the largest size counts, and one condition is enough."""
    load_mmseg()
    from mmseg.models.utils import DAPPM

    pyramid = DAPPM(4, 4, 4, 5)
    assert rewrite(nn.Sequential(nn.Conv2d(1, 1, 1))) == Demands(beyond=0, named_axes=True)
    assert rewrite(nn.Sequential(pyramid)) == Demands(beyond=512, named_axes=True)
    assert rewrite(nn.Sequential(windows())) == Demands(beyond=224, named_axes=False)
    assert rewrite(nn.Sequential(windows(), pyramid)) == Demands(beyond=512, named_axes=False)
