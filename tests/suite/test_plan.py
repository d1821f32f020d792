import pytest

from segdeploy.base.errors import InputError
from segdeploy.suite.plan import SUITES, Recipe, find_suite, recipes


def test_recipes_are_all_that_the_formats_can():
    """Each precision of each format, in both graphs; a name that nobody knows is answered with those that there are."""
    all_of_them = recipes()
    assert Recipe("torchscript", "fp32", restructured=True) in all_of_them
    assert Recipe("openvino", "bf16", restructured=False) in all_of_them
    assert len(set(all_of_them)) == len(all_of_them)
    assert {one.fmt for one in recipes(("onnx",))} == {"onnx"}
    assert find_suite("upernet-r50").config == "mmseg::upernet/upernet_r50_4xb4-20k_voc12aug-512x512"
    with pytest.raises(InputError, match="upernet-r18, upernet-r50, upernet-r101; got 'unet'"):
        find_suite("unet")
    assert set(SUITES) == {"upernet-r18", "upernet-r50", "upernet-r101"}
