"""What is decided of a picture's way at the export, and what is refused there."""

import msgspec
import pytest

from segdeploy.artifact.manifest import Bounds, Inference, Resize
from segdeploy.base.errors import InputError
from segdeploy.export.fit import choose_fit


def manifest(make_manifest, shape, resize=None, inference=None):
    base = make_manifest(inference=inference or Inference(mode="whole"))
    preprocess = msgspec.structs.replace(base.preprocess, resize=resize or Resize(mode="none"))
    return msgspec.structs.replace(base, input=msgspec.structs.replace(base.input, shape=(*shape, 3)), preprocess=preprocess)


@pytest.mark.parametrize(
    ("resize", "mode"),
    [
        (Resize(mode="keep_ratio", scale=(64, 48)), "resize"),
        (Resize(mode="keep_ratio", scale=(48, 64)), "resize"),
        (Resize(mode="keep_ratio", scale=(2048, 48)), "tiles"),
        (Resize(mode="exact", scale=(64, 48)), "resize"),
        (Resize(mode="exact", scale=(48, 64)), "tiles"),
        (Resize(mode="none"), "tiles"),
    ],
)
def test_auto(make_manifest, resize, mode):
    """Tiles where what the pipeline makes of a picture may be larger than the artifact takes; else resize."""
    fit = choose_fit(manifest(make_manifest, (1, 48, 64), resize))
    assert fit.mode == mode
    assert (fit.tile, fit.stride) == (((48, 64), (32, 43)) if mode == "tiles" else (None, None))


def test_of_a_model_that_slides(make_manifest):
    """Its windows are padded where a picture is too small for them, and they have to fit."""
    slide = Inference(mode="slide", crop=(48, 64), stride=(32, 43))
    assert choose_fit(manifest(make_manifest, (1, 48, 64), inference=slide)).mode == "pad"
    assert choose_fit(manifest(make_manifest, (1, 48, 64), inference=slide), "resize").mode == "resize"
    with pytest.raises(InputError, match="the crop of the model's slide inference, 48x64"):
        choose_fit(manifest(make_manifest, (1, 64, 63), inference=slide))
    with pytest.raises(InputError, match="a model that slides"):
        choose_fit(manifest(make_manifest, (1, 48, 64), inference=slide), "tiles")


def test_how_a_batch_is_filled(make_manifest):
    """Said where the artifact takes no single picture."""
    assert choose_fit(manifest(make_manifest, (1, 48, 64))).fill == "none"
    assert choose_fit(manifest(make_manifest, (4, 48, 64))).fill == "repeat"
    assert choose_fit(manifest(make_manifest, (Bounds(min=2, opt=2, max=8), 48, 64))).fill == "repeat"
