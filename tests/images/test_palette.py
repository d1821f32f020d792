import numpy as np
import pytest

from segdeploy.images.palette import completed_palette, distinct_palette


def test_is_vocs_colour_map():
    """The colours are those that PASCAL VOC and mmseg give the same labels."""
    from segdeploy.models.packages import load_mmseg

    load_mmseg()
    from mmseg.utils import voc_palette

    assert [list(colour) for colour in distinct_palette(21)] == voc_palette()


@pytest.mark.parametrize("count", [0, 1, 256, 1000])
def test_all_differ(count):
    """As many colours as labels, each its own."""
    assert len(set(distinct_palette(count))) == len(distinct_palette(count)) == count


def test_a_short_palette_is_filled():
    """What is missing, or is no colour, gets one that no label has; what is given stays; what is too much goes."""
    full = completed_palette(None, 300)
    assert full == (distinct_palette(300), 300)
    given = [[0, 0, 0], (128, 0, 0), np.array([1, 2, 3])]
    palette, made = completed_palette(given, 7)
    assert palette[:3] == ((0, 0, 0), (128, 0, 0), (1, 2, 3))
    assert made == 4
    assert len(set(palette)) == 7
    assert completed_palette(given, 2) == (((0, 0, 0), (128, 0, 0)), 0)
    for wrong in ([1, 2], [1, 2, 256], [-1, 0, 0], "abc", None, 7, [1, 2, float("nan")], [[1], [2], [3]]):
        palette, made = completed_palette([[9, 9, 9], wrong, [8, 8, 8]], 3)
        assert (palette[0], palette[2], made) == ((9, 9, 9), (8, 8, 8), 1)
        assert palette[1] not in {palette[0], palette[2]}
    assert completed_palette(np.full((3, 3), 7), 3) == (((7, 7, 7),) * 3, 0), "two labels of one colour are the author's choice"
    assert completed_palette(5, 2)[1] == 2
