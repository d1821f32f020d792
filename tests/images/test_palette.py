import pytest

from segdeploy.images.palette import distinct_palette


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
