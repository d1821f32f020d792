import copy

import cv2
import msgspec
import numpy as np
import pytest

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Inference, Resize
from segdeploy.images.decode import read_image
from segdeploy.runtime.fitting import as_it_is, fit_picture, prepared, slide_windows
from segdeploy.runtime.predictor import network_logits, predict_batch, predict_labels


class Changed:
    """A session whose manifest says something else."""

    def __init__(self, session, **changes):
        self._session = session
        self.artifact = Artifact(session.artifact.folder, msgspec.structs.replace(session.artifact.manifest, **changes))

    def run(self, images, *, logits=False):
        return self._session.run(images, logits=logits)


@pytest.fixture(scope="module")
def changed_resize(eager):
    """Sessions with another resize of the manifest."""

    def change(mode, scale=None):
        return Changed(
            eager, preprocess=msgspec.structs.replace(eager.artifact.manifest.preprocess, resize=Resize(mode=mode, scale=scale))
        )

    return change


def mmseg_labels(model, path):
    from mmseg.apis import inference_model

    return inference_model(model, str(path)).pred_sem_seg.data[0].numpy()


def test_is_mmsegs_inference(eager, mmseg_model, images_folder):
    """On pictures of every size, resized both ways: pixel for pixel what mmseg's own inference_model says."""
    seen = set()
    for path in sorted(images_folder.iterdir()):
        expected = mmseg_labels(mmseg_model, path)
        labels = predict_labels(eager, read_image(path))
        assert labels.shape == expected.shape
        assert labels.dtype == np.uint8
        # A tie of two logits may fall either way in the last bit of a float: none of these pictures has more than one.
        assert (labels != expected).sum() <= 1, path
        seen |= set(np.unique(labels))
    assert len(seen) >= 3, "pictures of one class would prove nothing"


@pytest.mark.parametrize(("mode", "scale"), [("none", None), ("exact", (80, 48)), ("keep_ratio", (120, 50))])
def test_other_resizes_are_mmsegs(changed_resize, mmseg_model, images_folder, mode, scale):
    """No resize, an exact one and another ratio, each against mmseg with that test pipeline."""
    model = copy.copy(mmseg_model)
    model.cfg = copy.deepcopy(mmseg_model.cfg)
    steps = [step for step in model.cfg.test_pipeline if step["type"] != "Resize"]
    if scale:
        steps.insert(1, {"type": "Resize", "scale": scale, "keep_ratio": mode == "keep_ratio"})
    model.cfg.test_pipeline = steps
    for path in sorted(images_folder.iterdir())[:3]:
        labels = predict_labels(changed_resize(mode, scale), read_image(path))
        assert (labels != mmseg_labels(model, path)).sum() <= 1


def test_the_argmax_comes_last(eager, images_folder):
    """Resizing labels instead of logits would give another result on these very pictures, so the order is tested."""
    image = read_image(images_folder / "3.png")
    labels = predict_labels(eager, image)
    small = eager.run(prepared([image], fit_picture(*image.shape[:2], eager.artifact.manifest))).mask[0]
    nearest = cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    assert (labels != nearest).sum() > 20


def test_a_batch_is_its_images(eager, images_folder):
    """Pictures of one network size in a batch give what each gives alone, each at its own size."""
    image = read_image(images_folder / "5.png")
    double = cv2.resize(image, None, fx=2, fy=2)
    together = predict_batch(eager, [image, double])
    assert [labels.shape for labels in together] == [image.shape[:2], double.shape[:2]]
    for labels, one in zip(together, (image, double), strict=True):
        assert (labels != predict_labels(eager, one)).sum() <= 1


@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [
        ((64, 96), (64, 64), (43, 43)),
        ((100, 131), (64, 64), (40, 48)),
        ((75, 50), (64, 64), (32, 32)),  # narrower than the crop
        ((40, 40), (64, 64), (32, 32)),  # smaller than the crop
        ((128, 64), (64, 64), (64, 64)),  # no overlap
        ((97, 97), (33, 47), (20, 31)),
    ],
)
def test_slide_is_mmsegs(eager, mmseg_model, size, crop, stride):
    """The mean logits of overlapping crops are those of EncoderDecoder.slide_inference on the same model."""
    import torch
    from mmengine.config import ConfigDict

    random = np.random.default_rng(2)
    image = cv2.resize(random.integers(0, 256, (9, 9, 3), dtype=np.uint8), size[::-1])
    sliding = Changed(eager, inference=Inference(mode="slide", crop=crop, stride=stride))
    ours = network_logits(sliding, image[None], as_it_is(*size, sliding.artifact.manifest))
    model = copy.copy(mmseg_model)
    model.test_cfg = ConfigDict(mode="slide", crop_size=crop, stride=stride)
    with torch.no_grad():
        inputs = model.data_preprocessor({"inputs": [torch.tensor(image[..., ::-1].transpose(2, 0, 1).copy())]})["inputs"]
        theirs = model.slide_inference(inputs, [{"ori_shape": size, "img_shape": size}])
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)
    labels = predict_labels(
        Changed(sliding, preprocess=msgspec.structs.replace(eager.artifact.manifest.preprocess, resize=Resize(mode="none"))),
        image,
    )
    assert (labels != theirs[0].argmax(0).numpy()).sum() <= 1


def test_every_way_to_predict_is_mmsegs_inference(way_to_predict, images_folder):
    """Binary, padded, sliding, align_corners, cascades: pixel for pixel mmseg's inference_model, on pictures of every size."""
    from segdeploy.runtime import open_session
    from segdeploy.runtime.open import eager_artifact

    path, model = way_to_predict
    seen = set()
    with open_session(eager_artifact(path), "cpu") as session:
        for picture in sorted(images_folder.iterdir()):
            expected = mmseg_labels(model, picture)
            labels = predict_labels(session, read_image(picture))
            assert labels.shape == expected.shape
            assert (labels != expected).sum() <= 1, picture
            seen |= set(np.unique(labels))
    assert len(seen) >= 2, "one label alone would prove nothing"


@pytest.mark.parametrize(("height", "width"), [(1, 1), (64, 64), (65, 200), (300, 63), (511, 513)])
def test_windows_cover_every_pixel(height, width):
    """No pixel is left out, no window leaves the image, and each has the crop's size where the image allows it."""
    covered = np.zeros((height, width), int)
    for y0, y1, x0, x1 in slide_windows(height, width, Inference(mode="slide", crop=(64, 48), stride=(40, 30))):
        assert 0 <= y0 < y1 <= height
        assert 0 <= x0 < x1 <= width
        assert (y1 - y0, x1 - x0) == (min(64, height), min(48, width))
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1


def test_more_than_256_classes(make_manifest):
    """Labels beyond 255 do not wrap, neither from the graph's mask nor from resized logits."""

    class Many:
        artifact = Artifact(None, make_manifest(classes=tuple(map(str, range(300))), preprocess=make_manifest().preprocess))

        def run(self, images, *, logits=False):
            from segdeploy.runtime.session import Prediction

            raw = np.zeros((1, 300, 4, 4), np.float32)
            raw[:, 290] = 1
            return Prediction(np.full(images.shape[:3], 290, np.int32), raw)

    manifest = msgspec.structs.replace(
        Many.artifact.manifest,
        preprocess=msgspec.structs.replace(make_manifest().preprocess, resize=Resize(mode="exact", scale=(16, 16))),
    )
    session = Many()
    session.artifact = Artifact(None, manifest)
    assert (predict_labels(session, np.zeros((20, 30, 3), np.uint8)) == 290).all()
    assert (predict_labels(session, np.zeros((16, 16, 3), np.uint8)) == 290).all()
