import pytest
import torch
from torch.nn import functional

from segdeploy.export.restructure.banded import banded

# From one pixel to one, up, down, by odd factors, and as large as feature maps become.
SIZES = [(1, 1), (1, 7), (2, 3), (3, 13), (5, 5), (6, 33), (9, 4), (16, 128), (47, 94), (61, 333), (128, 1024), (2, 1)]


@pytest.mark.parametrize(("size", "target"), SIZES)
@pytest.mark.parametrize("align_corners", [False, True])
def test_one_tap_is_torchs_upsampling(size, target, align_corners):
    """At every size, to a last digit of float32's of the position: torch's compiled code rounds it once less."""
    x = torch.randn(1, 3, size, 1, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(x, (target, 1), mode="bilinear", align_corners=align_corners)
    found = torch.matmul(banded(size, target, 1, x, align_corners=align_corners), x)
    torch.testing.assert_close(found, expected, atol=1e-6 + 2e-7 * size, rtol=0)


@pytest.mark.parametrize(("size", "target"), SIZES)
@pytest.mark.parametrize("taps", [3, 5])
def test_taps_are_shifted_and_padded_with_zeros(size, target, taps):
    """Tap t sees the upsampled axis moved by t - taps // 2, and zeros beyond either end."""
    x = torch.randn(1, 1, size, 1, generator=torch.Generator().manual_seed(0))
    upsampled = functional.pad(functional.interpolate(x, (target, 1), mode="bilinear")[0, 0, :, 0], (taps // 2,) * 2)
    matrix = banded(size, target, taps, x, align_corners=False).reshape(target, taps, size)
    for tap in range(taps):
        torch.testing.assert_close(
            matrix[:, tap] @ x[0, 0, :, 0], upsampled[tap : tap + target], atol=1e-6 + 2e-7 * size, rtol=0
        )


def test_it_has_the_type_of_what_it_multiplies():
    """Computed in float32, where positions are exact, and then rounded."""
    like = torch.zeros(1, dtype=torch.float16)
    made = banded(500, 4000, 1, like, align_corners=False)
    assert made.dtype == torch.float16
    assert torch.equal(made, banded(500, 4000, 1, like.float(), align_corners=False).half())
