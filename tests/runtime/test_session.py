import numpy as np
import pytest

from segdeploy.base.errors import InputError
from segdeploy.runtime.session import checked_images


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (4, 64, 64, 3), (2, 33, 17, 3)])
def test_images_within_the_bounds(make_manifest, shape):
    """Anything from the smallest to the largest passes unchanged, made contiguous."""
    images = np.random.default_rng(0).integers(0, 256, shape[:1] + shape[1:3][::-1] + (3,), dtype=np.uint8).swapaxes(1, 2)
    checked = checked_images(images, make_manifest())
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, images)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((0, 16, 16, 3), "N within 1..4 .*N = 0"),
        ((5, 16, 16, 3), "N within 1..4 .*N = 5"),
        ((1, 7, 16, 3), "H within 8..64 .*H = 7"),
        ((1, 16, 65, 3), "W within 8..64 .*W = 65"),
        ((1, 16, 16, 4), "C = 3; got C = 4"),
        ((1, 3, 16, 16), "H within"),
        ((16, 16, 3), "uint8 images"),
    ],
)
def test_images_outside_the_bounds(make_manifest, shape, words):
    """The axis, its range and what came are named."""
    with pytest.raises(InputError, match=words):
        checked_images(np.zeros(shape, np.uint8), make_manifest())


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_other_dtypes(make_manifest, dtype):
    """Normalised floats are refused: normalising twice would be silent."""
    with pytest.raises(InputError, match="normalisation is inside the graph"):
        checked_images(np.zeros((1, 16, 16, 3), dtype), make_manifest())
