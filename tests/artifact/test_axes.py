"""What sizes an axis takes."""

from __future__ import annotations

import pytest

from segdeploy.artifact.axes import bounds, nearest
from segdeploy.artifact.manifest import Bounds

AXIS = Bounds(min=32, opt=64, max=256, step=32)


def test_bounds():
    """Of a fixed axis all three are the one size."""
    assert bounds(7) == (7, 7, 7)
    assert bounds(AXIS) == (32, 64, 256)


@pytest.mark.parametrize(("wish", "size"), [(1, 32), (32, 32), (47, 32), (49, 64), (100, 96), (256, 256), (999, 256)])
def test_nearest(wish, size):
    """The nearest multiple within the bounds."""
    assert nearest(AXIS, wish) == size


def test_nearest_without_multiples_or_choice():
    """Any size within the bounds; of a fixed axis the one there is."""
    assert nearest(Bounds(min=3, opt=5, max=9), 7) == 7
    assert nearest(11, 7) == 11
