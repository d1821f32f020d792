import pytest

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.manifest import Bounds, Profile
from segdeploy.base.errors import InputError
from segdeploy.export.exporter import find_exporter
from segdeploy.export.shapes import Shapes, choose_shapes, example_shape, parse_size


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ((1, 1, 16), (32, 192, 2048), (32, 256, 2048))),
        ({"static": "100x200"}, ((1, 1, 16), 100, 200)),
        ({"static": "100X200", "batch": "3"}, (3, 100, 200)),
        ({"static": "96x64", "multiple": 32}, ((1, 1, 16), 96, 64)),
        ({"batch": "1:4:8"}, ((1, 4, 8), (32, 192, 2048), (32, 256, 2048))),
        ({"batch": "2:2:2"}, (2, (32, 192, 2048), (32, 256, 2048))),
        ({"smallest": "64x64", "best": "64x80", "largest": "64x96"}, ((1, 1, 16), 64, (64, 80, 96))),
        ({"best": "3000x100"}, ((1, 1, 16), (32, 3000, 3000), (32, 100, 2048))),
    ],
)
def test_what_was_asked_for(options, expected):
    """Each option does what it says, and the training crop is what is optimised for by default."""
    chosen = choose_shapes((192, 256), **options)
    made = [axis if isinstance(axis, int) else Bounds(min=axis[0], opt=axis[1], max=axis[2]) for axis in expected]
    assert chosen == Shapes(*made)


def test_tensorrts_range_is_narrower():
    """TensorRT reserves memory for the largest shape: its defaults are smaller, and never below the crop."""
    assert bounds(choose_shapes((192, 256), limits=find_exporter("tensorrt").limits).height) == (32, 192, 1024)
    assert bounds(choose_shapes((192, 256), limits=find_exporter("tensorrt").limits).batch) == (1, 1, 4)
    assert bounds(choose_shapes((192, 1500), limits=find_exporter("tensorrt").limits).width) == (32, 1500, 1500)


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
        {"static": "250x256", "multiple": 32},
        {"static": "256x250", "multiple": 32},
        {"smallest": "250x250", "best": "250x250", "largest": "250x250", "multiple": 32},
        {"batch": "0"},
        {"batch": "1:2"},
        {"batch": "a:b:c"},
        {"batch": "3:2:1"},
        {"batch": "-1"},
        {"batch": ""},
        {"smallest": "300x300"},
        {"largest": "100x100"},
        {"smallest": "64x64", "best": "32x32"},
        {"profiles": ("64x64",), "static": "64x64"},
        {"profiles": ("64x64",), "largest": "128x128"},
        {"profiles": ("64x64:128x128",)},
        {"profiles": ("1x64x64:128x128:1x256x256",)},
        {"profiles": ("64:64:64",)},
        {"profiles": ("64x64", "")},
        {"profiles": ("0x64x64",)},
        {"profiles": ("64x-64",)},
        {"profiles": ("64x64", "256x256:128x128:512x512")},
        {"profiles": ("64x64", "4x64x64:2x64x64:8x64x64")},
        {"profiles": ("32x32", "50x64", "128x128"), "multiple": 32},
        {"profiles": ("64x64",), "batch": "3:2:1"},
    ],
)
def test_what_makes_no_sense(options):
    """A text of another form, nothing at all, and bounds out of order are InputErrors."""
    with pytest.raises(InputError) as caught:
        choose_shapes((192, 256), **options)
    assert "--" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "profiles", "axes"),
    [
        (
            {"profiles": ("256x256:512x512:1024x1024",)},
            [((1, 256, 256), (1, 512, 512), (4, 1024, 1024))],
            ((1, 1, 4), (256, 512, 1024), (256, 512, 1024)),
        ),
        ({"profiles": ("512x384",), "batch": "2"}, [((2, 512, 384),) * 3], (2, 512, 384)),
        (
            {"profiles": ("1x512X512", "4x256x320:8x256x320:8x256x640"), "batch": "7"},
            [((1, 512, 512),) * 3, ((4, 256, 320), (8, 256, 320), (8, 256, 640))],
            ((1, 1, 8), (256, 512, 512), (320, 512, 640)),
        ),
        (
            {"profiles": ("64x64", "128x64"), "batch": "1", "multiple": 32},
            [((1, 64, 64),) * 3, ((1, 128, 64),) * 3],
            (1, (64, 64, 128, 32), 64),
        ),
        ({"smallest": "64x64", "best": "64x80", "largest": "64x96"}, [((1, 64, 64), (1, 64, 80), (4, 64, 96))], None),
        ({"static": "100x200", "batch": "3"}, [((3, 100, 200),) * 3], None),
        ({}, [((1, 32, 32), (1, 192, 256), (4, 1024, 1024))], None),
    ],
)
def test_what_an_engine_is_compiled_for(options, profiles, axes):
    """Several ranges stay as they were asked for, the axes span them; one range is one profile."""
    chosen = choose_shapes((192, 256), limits=find_exporter("tensorrt").limits, **options)
    assert chosen.profiles == tuple(Profile(min=low, opt=opt, max=high) for low, opt, high in profiles)
    if axes is not None:
        names = ("min", "opt", "max", "step")
        made = [axis if isinstance(axis, int) else Bounds(**dict(zip(names, axis, strict=False))) for axis in axes]
        assert [chosen.batch, chosen.height, chosen.width] == made


def test_parse_size():
    """Height first."""
    assert parse_size("12x34", "--shape") == (12, 34)


@pytest.mark.parametrize(
    ("largest", "step", "beyond", "expected"),
    [
        (2048, 1, 0, (2, 90, 130)),
        (2048, 1, 224, (2, 314, 354)),
        (512, 8, 512, (2, 488, 504)),
        (100, 1, 224, (2, 78, 94)),
        (32, 1, 224, (2, 32, 32)),
        (100, 1, 0, (2, 90, 100)),
    ],
)
def test_the_example(largest, step, beyond, expected):
    """Sides unlike each other; beyond what is asked for, as far as the bounds leave room."""
    side = Bounds(min=32, opt=32, max=largest, step=step)
    assert example_shape((Bounds(min=1, opt=1, max=4), side, side, 3), beyond) == expected


def test_the_example_of_fixed_axes():
    """There is no choice."""
    assert example_shape((1, 40, 50, 3), 224) == (1, 40, 50)
