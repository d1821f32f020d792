import pytest

from segdeploy.core.errors import InputError
from segdeploy.core.manifest import Bounds
from segdeploy.export.shapes import Shapes, bounds, choose_shapes, example_shape, parse_size


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ((1, 1, 16), (32, 192, 2048), (32, 256, 2048))),
        ({"static": "100x200"}, ((1, 1, 16), 100, 200)),
        ({"static": "100X200", "batch": "3"}, (3, 100, 200)),
        ({"batch": "1:4:8"}, ((1, 4, 8), (32, 192, 2048), (32, 256, 2048))),
        ({"batch": "2:2:2"}, (2, (32, 192, 2048), (32, 256, 2048))),
        ({"smallest": "64x64", "best": "64x80", "largest": "64x96"}, ((1, 1, 16), 64, (64, 80, 96))),
        ({"best": "3000x100"}, ((1, 1, 16), (32, 3000, 3000), (32, 100, 2048))),
    ],
)
def test_what_was_asked_for(options, expected):
    """Each option does what it says, and the training crop is what is optimised for by default."""
    chosen = choose_shapes((192, 256), tensorrt=False, **options)
    made = [axis if isinstance(axis, int) else Bounds(min=axis[0], opt=axis[1], max=axis[2]) for axis in expected]
    assert chosen == Shapes(*made)


def test_tensorrts_range_is_narrower():
    """TensorRT reserves memory for the largest shape: its defaults are smaller, and never below the crop."""
    assert bounds(choose_shapes((192, 256), tensorrt=True).height) == (32, 192, 1024)
    assert bounds(choose_shapes((192, 256), tensorrt=True).batch) == (1, 1, 4)
    assert bounds(choose_shapes((192, 1500), tensorrt=True).width) == (32, 1500, 1500)


@pytest.mark.parametrize(
    "options",
    [
        {"static": "512"},
        {"static": "512x"},
        {"static": "x512"},
        {"static": "0x512"},
        {"static": "-1x512"},
        {"static": "512x512x3"},
        {"static": "5 12x512"},
        {"static": "²x512"},
        {"static": "100x100", "largest": "200x200"},
        {"batch": "0"},
        {"batch": "1:2"},
        {"batch": "a:b:c"},
        {"batch": "3:2:1"},
        {"batch": "-1"},
        {"batch": ""},
        {"smallest": "300x300"},
        {"largest": "100x100"},
        {"smallest": "64x64", "best": "32x32"},
    ],
)
def test_what_makes_no_sense(options):
    """A text of another form, nothing at all, and bounds out of order are InputErrors."""
    with pytest.raises(InputError) as caught:
        choose_shapes((192, 256), tensorrt=False, **options)
    assert "--" in str(caught.value)


def test_parse_size():
    """Height first."""
    assert parse_size("12x34", "--shape") == (12, 34)


@pytest.mark.parametrize(
    ("largest", "step", "beyond", "expected"),
    [
        (2048, 1, 0, (2, 90, 130)),
        (2048, 1, 224, (2, 314, 354)),
        (512, 8, 512, (2, 488, 504)),
        (100, 1, 0, (2, 78, 94)),
        (32, 1, 0, (2, 32, 32)),
    ],
)
def test_the_example(largest, step, beyond, expected):
    """Sides unlike each other and unlike the bounds, as far as these leave room; beyond what is asked for, likewise."""
    side = Bounds(min=32, opt=32, max=largest, step=step)
    assert example_shape((Bounds(min=1, opt=1, max=4), side, side, 3), beyond) == expected


def test_the_example_of_fixed_axes():
    """There is no choice."""
    assert example_shape((1, 40, 50, 3), 224) == (1, 40, 50)
