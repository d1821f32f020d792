import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional

from segdeploy.export.rewrites import ExactOps
from segdeploy.models.packages import load_mmseg


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (5, 5), (13, 17), (31, 47)])
def test_pooling_that_is_called_as_a_function(size, seeded):
    """APCNet, ResNeSt and STDC call the function: inside ExactOps it is replaced, with torch's values."""
    x = seeded(2, 3, *size)
    expected = [functional.adaptive_avg_pool2d(x, scale) for scale in (1, (2, 3))]
    with ExactOps(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch._C._nn, "adaptive_avg_pool2d", lambda *_: pytest.fail("torch's own was called"))
        found = [functional.adaptive_avg_pool2d(x, scale) for scale in (1, (2, 3))]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_a_view_of_another_memory_order(seeded):
    """DANet and DMNet view channels of what lies in memory as NHWC: refused by torch, the same values inside ExactOps."""
    x = seeded(2, 6, 5, 7).to(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        x.view(2, 3, -1)
    with ExactOps():
        assert torch.equal(x.view(2, 3, -1), x.contiguous().view(2, 3, -1))
        assert torch.equal(x.view((12, 35)), x.contiguous().view(12, 35))
        assert torch.equal(x.view(torch.int32), x.contiguous().view(torch.int32))


@pytest.fixture
def warns():
    """Whether mmseg's resize, in this thread, warns of sizes that align badly."""
    load_mmseg()
    from mmseg.models.utils import resize

    def ask():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            resize(torch.zeros(1, 1, 4, 4), (6, 6), mode="bilinear", align_corners=True)
        return bool(caught)

    return ask


def test_mmsegs_resize_is_as_it_was(warns):
    """It does not warn inside ExactOps, nested too, and does so again behind it, after an error too."""
    assert warns()
    with pytest.raises(ZeroDivisionError), ExactOps():
        with ExactOps():
            assert not warns()
        assert not warns()
        1 / 0  # noqa: B018
    assert warns()


def test_threads_do_not_share_it(warns):
    """What one thread has entered is nothing to another, in whatever order they enter and leave."""
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        first, second = ExactOps(), ExactOps()
        one.submit(first.__enter__).result()
        assert other.submit(warns).result()
        other.submit(second.__enter__).result()
        one.submit(first.__exit__, None, None, None).result()
        assert one.submit(warns).result()
        assert not other.submit(warns).result()
        other.submit(second.__exit__, None, None, None).result()
        assert other.submit(warns).result()
    assert warns()
