"""How pictures come to an artifact's shapes: against mmseg's own resize, slide inference and padding, and what is given."""

import copy

import cv2
import msgspec
import numpy as np
import pytest

from segdeploy.artifact.fit import Fit
from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Bounds, Engine, Inference, Pad, Profile, Resize
from segdeploy.base.errors import InputError
from segdeploy.images.decode import read_image
from segdeploy.runtime.fitting import fit_picture, grey_of_zero
from segdeploy.runtime.predictor import predict_batch, predict_labels

TILES = Fit(mode="tiles", tile=(48, 64), stride=(32, 43))


class Bounded:
    """A session that takes the shapes of another manifest, and notes what it is given."""

    def __init__(self, session, axes, fit, **changes):
        manifest = session.artifact.manifest
        shape = msgspec.structs.replace(manifest.input, shape=(*axes, 3))
        self.artifact = Artifact(session.artifact.folder, msgspec.structs.replace(manifest, input=shape, fit=fit, **changes))
        self._session = session
        self.given = []

    def run(self, images, *, logits=False):
        from segdeploy.runtime.session import checked_images

        self.given.append(checked_images(images, self.artifact.manifest))
        return self._session.run(images, logits=logits)


def mmseg_labels(model, image, *, size=None, slide=None, padded=None):
    """What mmseg says of a picture with another resize, inference or padding; each is mmseg's own."""
    from mmengine.config import ConfigDict
    from mmseg.apis import inference_model

    model = copy.copy(model)
    model.cfg = copy.deepcopy(model.cfg)
    if size is not None:
        model.cfg.test_pipeline[1].update(scale=size[::-1], keep_ratio=False)
    if slide is not None:
        model.test_cfg = ConfigDict(mode="slide", crop_size=slide[0], stride=slide[1])
    if padded is not None:
        model._modules = dict(model._modules)
        model.data_preprocessor = copy.deepcopy(model.data_preprocessor)
        model.data_preprocessor.test_cfg = {"size": padded}
    return inference_model(model, np.ascontiguousarray(image[..., ::-1])).pred_sem_seg.data[0].numpy()


@pytest.fixture(scope="module")
def images(images_folder):
    """Six pictures of different sizes."""
    return [read_image(path) for path in sorted(images_folder.iterdir())]


def test_resize_is_mmsegs_exact_resize(eager, mmseg_model, images):
    """To a fixed size, whatever that does to the proportions: pixel for pixel mmseg's Resize without keep_ratio."""
    session = Bounded(eager, (1, 56, 72), Fit(mode="resize"))
    for image in images:
        labels = predict_labels(session, image)
        assert (labels != mmseg_labels(mmseg_model, image, size=(56, 72))).sum() <= 1
    assert {given.shape for given in session.given} == {(1, 56, 72, 3)}


def test_tiles_are_mmsegs_slide(eager, mmseg_model, images):
    """Where no side is shorter than a tile: pixel for pixel mmseg's slide inference with the tile as its crop."""
    session = Bounded(eager, (1, 48, 64), TILES)
    seen = 0
    for image in images:
        height, width = fit_picture(*image.shape[:2], eager.artifact.manifest).size
        if height >= 48 and width >= 64:
            labels = predict_labels(session, image)
            assert (labels != mmseg_labels(mmseg_model, image, slide=((48, 64), (32, 43)))).sum() <= 1
            seen += 1
    assert seen >= 2
    assert {given.shape for given in session.given} == {(1, 48, 64, 3)}


def test_pad_is_mmsegs_padding(eager, mmseg_model, images):
    """The grey bytes are zero after normalisation but for their rounding: labels are those of mmseg's own padding.

    Black in their place, or the padding's logits left in, is seen.
    """
    session = Bounded(eager, (1, 96, 128), Fit(mode="pad"))
    differ = sum(
        int((predict_labels(session, image) != mmseg_labels(mmseg_model, image, padded=(96, 128))).sum()) for image in images
    )
    pixels = sum(image.shape[0] * image.shape[1] for image in images)
    assert differ <= 0.003 * pixels
    unpadded = sum(int((predict_labels(session, image) != predict_labels(eager, image)).sum()) for image in images)
    assert unpadded > 2 * differ, "padding that changes nothing would prove nothing"


def test_too_large_for_padding_keeps_its_proportions(make_manifest):
    """Scaled down to fit, then padded."""
    base = make_manifest(fit=Fit(mode="pad"))
    static = msgspec.structs.replace(base, input=msgspec.structs.replace(base.input, shape=(1, 32, 32, 3)))
    fitted = fit_picture(60, 90, static)
    assert fitted.size == (21, 32)
    assert [window.given for window in fitted.windows] == [(32, 32)]
    assert not fitted.exact


@pytest.mark.parametrize(("color", "expected"), [("rgb", (124, 116, 104)), ("bgr", (104, 116, 124))])
def test_the_grey_of_zero(make_manifest, color, expected):
    """In the order of the bytes, red first, whichever the model's; and of another value than zero."""
    preprocess = msgspec.structs.replace(
        make_manifest().preprocess, color=color, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
    )
    assert tuple(grey_of_zero(preprocess)) == expected
    white = msgspec.structs.replace(preprocess, pad=Pad(divisor=32, value=9.0))
    assert tuple(grey_of_zero(white)) == (255, 255, 255)


@pytest.mark.parametrize("fit", [Fit(mode="resize"), Fit(mode="pad"), TILES], ids=lambda fit: fit.mode)
@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_static_batch_takes_any_number_of_pictures(eager, images, fit, count):
    """One, three and five pictures on a batch of four: the labels of each alone, and never another batch than of four."""
    alone = Bounded(eager, (1, 48, 64), fit)
    session = Bounded(eager, (4, 48, 64), fit)
    chosen = [cv2.resize(image, (130, 90)) for image in images[:count]]
    together = predict_batch(session, chosen)
    assert len(together) == count
    for labels, image in zip(together, chosen, strict=True):
        assert labels.shape == image.shape[:2]
        assert (labels != predict_labels(alone, image)).sum() <= 1
    assert {given.shape for given in session.given} == {(4, 48, 64, 3)}


def test_tiles_fill_a_batch(eager, images):
    """Tiles of one picture go together where the artifact takes no smaller batch: none is computed twice for nothing."""
    image = cv2.resize(images[0], (128, 96))
    whole = msgspec.structs.replace(eager.artifact.manifest.preprocess, resize=Resize(mode="none"))
    session = Bounded(eager, (4, 48, 64), TILES, preprocess=whole)
    predict_labels(session, image)
    windows = len(fit_picture(96, 128, session.artifact.manifest).windows)
    assert windows == 9
    assert len(session.given) == 3
    assert len({one.tobytes() for given in session.given for one in given}) == windows


@pytest.mark.parametrize("mode", ["resize", "pad", "tiles"])
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (48, 64),
        (50, Bounds(min=33, opt=40, max=70)),
        (Bounds(min=32, opt=64, max=96, step=32), Bounds(min=64, opt=64, max=128, step=32)),
    ],
)
def test_every_size_is_given_as_it_is_taken(make_manifest, mode, height, width):
    """Whatever the picture's size: each window lies inside, is given at a size that is taken, and all pixels are covered."""
    from segdeploy.export.fit import choose_fit
    from segdeploy.runtime.session import check_shape

    base = make_manifest()
    manifest = msgspec.structs.replace(base, input=msgspec.structs.replace(base.input, shape=(1, height, width, 3)))
    manifest = msgspec.structs.replace(manifest, fit=choose_fit(manifest, mode))
    for size in [(1, 1), (7, 300), (48, 64), (64, 64), (90, 130), (333, 31), (200, 300)]:
        fitted = fit_picture(*size, manifest)
        covered = np.zeros(fitted.size, int)
        for window in fitted.windows:
            check_shape((1, *window.given), manifest)
            assert window.size[0] <= window.height or mode == "resize"
            covered[window.top : window.bottom, window.left : window.right] += 1
        assert covered.min() >= 1


def test_between_the_profiles_of_an_engine(make_manifest):
    """A size that the axes span but no profile takes comes to one that a profile takes."""
    profiles = (
        Profile(min=(1, 16, 16), opt=(1, 16, 16), max=(1, 16, 32)),
        Profile(min=(2, 48, 64), opt=(2, 48, 64), max=(2, 64, 64)),
    )
    axes = (Bounds(min=1, opt=1, max=2), Bounds(min=16, opt=16, max=64), Bounds(min=16, opt=16, max=64))
    base = make_manifest(engine=Engine(profiles=profiles), fit=Fit(mode="resize"))
    manifest = msgspec.structs.replace(base, input=msgspec.structs.replace(base.input, shape=(*axes, 3)))
    near = fit_picture(20, 30, manifest)
    assert (near.size, near.batch) == ((16, 30), (1, 1))
    far = fit_picture(40, 60, manifest)
    assert (far.size, far.batch) == ((48, 64), (2, 2))
    assert fit_picture(50, 64, manifest).exact


def test_windows_of_a_sliding_model(make_manifest):
    """As they are where they are taken; a picture smaller than the crop is padded, or resized, window for window."""
    slide = Inference(mode="slide", crop=(32, 32), stride=(20, 20))
    base = make_manifest(inference=slide)
    static = msgspec.structs.replace(base, input=msgspec.structs.replace(base.input, shape=(1, 32, 32, 3)))
    assert fit_picture(50, 60, static).exact
    padded = fit_picture(20, 60, msgspec.structs.replace(static, fit=Fit(mode="pad")))
    assert {(window.size, window.given) for window in padded.windows} == {((20, 32), (32, 32))}
    assert not padded.exact
    assert not padded.stretched
    assert fit_picture(20, 60, msgspec.structs.replace(static, fit=Fit(mode="resize"))).stretched
    small = msgspec.structs.replace(base, input=msgspec.structs.replace(base.input, shape=(1, 24, 32, 3)))
    with pytest.raises(InputError, match="windows of at most 24x32"):
        fit_picture(50, 60, small)
