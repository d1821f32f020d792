import tracemalloc

import cv2
import msgspec
import numpy as np
import pytest

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Bounds, Inference, Resize
from segdeploy.images.resize import reduce_logits, resize_logits
from segdeploy.runtime.bands import BandedLabels, slide_bands
from segdeploy.runtime.fitting import as_it_is
from segdeploy.runtime.predictor import predict_batch
from segdeploy.runtime.session import Prediction


class Blocks:
    """A session whose logits are a fixed linear function of the means of 4x4 pixels."""

    def __init__(self, manifest, classes):
        self.artifact = Artifact(None, msgspec.structs.replace(manifest, classes=tuple(map(str, range(classes)))))
        self._weights = np.random.default_rng(1).normal(size=(classes, 3)).astype(np.float32)
        self.calls = 0

    def run(self, images, *, logits=False):
        self.calls += 1
        small = np.stack([cv2.resize(one, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA) for one in images])
        raw = np.einsum("nhwc,kc->nkhw", small.astype(np.float32) - 127.5, self._weights, optimize=True)
        return Prediction(np.zeros(images.shape[:3], np.uint8), raw)


@pytest.fixture
def sliding(make_manifest):
    def make(classes=5, crop=(64, 64), stride=(44, 40), **changes):
        sides = Bounds(min=8, opt=64, max=2048)
        spec = msgspec.structs.replace(make_manifest().input, shape=(Bounds(min=1, opt=1, max=4), sides, sides, 3))
        manifest = make_manifest(input=spec, inference=Inference(mode="slide", crop=crop, stride=stride))
        preprocess = msgspec.structs.replace(manifest.preprocess, resize=Resize(mode="none"))
        return Blocks(msgspec.structs.replace(manifest, **{"preprocess": preprocess} | changes), classes)

    return make


def picture(height, width):
    coarse = np.random.default_rng(2).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height))


def mmsegs_sum(session, image, crop, stride):
    """The mean of mmseg's windows, computed by mmseg itself on this session as its network."""
    import torch
    from mmengine.config import ConfigDict
    from mmseg.models import EncoderDecoder
    from torch.nn import functional

    model = EncoderDecoder.__new__(EncoderDecoder)
    torch.nn.Module.__init__(model)
    model.test_cfg, model.out_channels = ConfigDict(mode="slide", crop_size=crop, stride=stride), len(session._weights)
    align = session.artifact.manifest.postprocess.align_corners

    def encode_decode(inputs, metas):
        images = np.ascontiguousarray(inputs.numpy().transpose(0, 2, 3, 1)).astype(np.uint8)
        raw = torch.from_numpy(session.run(images, logits=True).logits)
        return functional.interpolate(raw, inputs.shape[2:], mode="bilinear", align_corners=align)

    object.__setattr__(model, "encode_decode", encode_decode)
    inputs = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
    return model.slide_inference(inputs, [{"img_shape": image.shape[:2]}])


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(("size", "target"), [((200, 132), (331, 77)), ((64, 300), (64, 300)), ((129, 68), (60, 500))])
def test_labels_are_mmsegs_at_every_picture_size(sliding, size, target, align):
    """Slide inference, then the resize to the picture's own size, then the argmax: as mmseg's modules compute them."""
    import torch
    from torch.nn import functional

    session = sliding()
    manifest = session.artifact.manifest
    post = msgspec.structs.replace(manifest.postprocess, align_corners=align)
    to = msgspec.structs.replace(manifest.preprocess, resize=Resize(mode="exact", scale=size[::-1]))
    session.artifact = Artifact(None, msgspec.structs.replace(manifest, postprocess=post, preprocess=to))
    image = picture(*target)
    (labels,) = predict_batch(session, [image])
    with torch.inference_mode():
        logits = mmsegs_sum(session, cv2.resize(image, size[::-1]) if size != target else image, (64, 64), (44, 40))
        expected = functional.interpolate(logits, target, mode="bilinear", align_corners=align).argmax(1)[0].numpy()
    assert (labels.shape, labels.dtype) == (target, np.uint8)
    assert (labels != expected).sum() <= 2  # ties within the last bit
    assert len(np.unique(labels)) > 2


@pytest.mark.parametrize("stride", [(44, 40), (63, 63), (64, 64)])  # two rows and more overlap, one does, none does
def test_bands_are_the_rows_from_the_top(sliding, stride):
    """They follow each other without a gap, in a batch too, and each window is run once."""
    session = sliding(stride=stride)
    batch = np.stack([picture(150, 100), picture(150, 100)[::-1]])
    fitted = as_it_is(150, 100, session.artifact.manifest)
    bands = list(slide_bands(session, batch, fitted))
    whole = np.concatenate(bands, axis=2)
    assert whole.shape == (2, 5, 150, 100)
    assert len(bands) > 2
    assert session.calls == len(fitted.windows)
    for one, logits in zip(batch, whole, strict=True):
        alone = mmsegs_sum(session, one, (64, 64), stride)[0].numpy()
        np.testing.assert_allclose(logits, alone, atol=1e-3)


@pytest.mark.parametrize("target", [(90, 70), (31, 70), (90, 33), (400, 90)])
@pytest.mark.parametrize("rows", [1, 7, 90])
def test_labels_do_not_depend_on_the_bands(target, rows):
    """However the rows come, the labels are those of all of them at once."""
    logits = np.random.default_rng(3).normal(size=(1, 4, 90, 70)).astype(np.float32)
    labels = BandedLabels((90, 70), target, align_corners=False, cutoff=None, dtype=np.uint8)
    for top in range(0, 90, rows):
        labels.add(logits[:, :, top : top + rows])
    assert np.array_equal(labels.labels, reduce_logits(resize_logits(logits, *target, align_corners=False))[0])


def test_a_binary_heads_cutoff_holds(sliding):
    """One logit a pixel: its label is whether it lies above the cutoff."""
    logits = np.random.default_rng(3).normal(size=(1, 1, 20, 30)).astype(np.float32)
    labels = BandedLabels((20, 30), (20, 30), align_corners=False, cutoff=0.3, dtype=np.uint8)
    labels.add(logits)
    assert np.array_equal(labels.labels, logits[0, 0] > 0.3)


def test_memory_does_not_grow_with_the_height_of_the_logits(sliding):
    """64 classes at 1024x512 are 134 MB of logits; what is alive is a fraction of that."""
    session = sliding(classes=64, crop=(128, 128), stride=(86, 86))
    image = picture(1024, 512)
    tracemalloc.start()
    (labels,) = predict_batch(session, [image])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert labels.shape == (1024, 512)
    assert peak < 60e6
