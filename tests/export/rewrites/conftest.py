"""What the tests of the rewrites share."""

import pytest
import torch
from torch import nn

from segdeploy.export.rewrites import rewrite


def _seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def seeded():
    """Makes a tensor of a shape, always the same."""
    return _seeded


@pytest.fixture
def replaced():
    """What ``rewrite`` puts in a module's place, traced at one size and batch: it must serve all others."""

    def make(module, kind, *example):
        model = nn.Sequential(module).eval()
        rewrite(model)
        assert isinstance(model[0], kind)
        with torch.no_grad():
            return torch.jit.trace(model[0], example, check_trace=False)

    return make
