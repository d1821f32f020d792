"""Confidence where windows overlap, are padded or stretched, and of a binary head; a session of logits that are known."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.fit import Fit
from segdeploy.artifact.manifest import Inference, Pad, Resize
from segdeploy.runtime.fitting import fit_picture
from segdeploy.runtime.memory import ran_out_of_memory
from segdeploy.runtime.predictor import predict_batch
from segdeploy.runtime.session import Prediction
from segdeploy.runtime.watched import Watched


class Known:
    """Gives each picture logits by its own grey value, of a quarter of the padded size; beyond the picture, absurd ones."""

    device = "cpu"

    def __init__(self, manifest, classes=3):
        self.artifact = SimpleNamespace(manifest=manifest)
        self._classes = classes

    def run(self, images, *, logits=False):
        manifest = self.artifact.manifest
        height, width = manifest.preprocess.network_input(*images.shape[1:3])
        raw = np.zeros((len(images), self._classes, -(-height // 4), -(-width // 4)), np.float32)
        for one, image in zip(raw, images, strict=True):
            one[-1] = image[0, 0, 0] / 100
            rows, columns = (np.flatnonzero((image == image[0, 0, 0]).all(2).any(axis)).max() // 4 + 1 for axis in (1, 0))
            one[0, rows:] = one[0, :, columns:] = 50
        mask = np.zeros(images.shape[:3], np.uint8)
        return Prediction(mask, raw if logits else None)


def picture(grey, height=24, width=32):
    return np.full((height, width, 3), grey, np.uint8)


def expected(grey, classes=3):
    return np.exp(grey / 100) / (np.exp(grey / 100) + classes - 1)


def run(manifest, *greys, size=(24, 32)):
    watched = Watched(Known(manifest), keep_logits=True)
    predict_batch(watched, [picture(grey, *size) for grey in greys])
    return watched.confidences(len(greys), fit_picture(*size, manifest))


@pytest.mark.parametrize("case", ["whole", "padded by the graph", "padded by the fit", "windows", "stretched"])
def test_each_picture_has_its_own_confidence(make_manifest, case):
    """Whatever way it came to the artifact: padding does not count, and no picture's counts for another's."""
    manifest = make_manifest()
    size = (24, 32)
    if case == "padded by the graph":
        manifest = make_manifest(preprocess=msgspec.structs.replace(manifest.preprocess, pad=Pad(size=(64, 64))))
    if case == "windows":
        manifest = make_manifest(inference=Inference(mode="slide", crop=(16, 16), stride=(8, 12)))
    if case in ("padded by the fit", "stretched"):
        fixed = msgspec.structs.replace(manifest.input, shape=(manifest.input.shape[0], 40, 48, 3))
        manifest = make_manifest(input=fixed, fit=Fit(mode="pad" if case == "padded by the fit" else "resize"))
    found = run(manifest, 100, 200, size=size)
    assert [one.mean for one in found] == pytest.approx([expected(100), expected(200)], abs=1e-6)
    assert [one.classes for one in found] == [{2: pytest.approx(one.mean)} for one in found]


def test_a_binary_head_is_as_sure_of_no_as_of_yes(make_manifest):
    """The probability of the label that it gives, on either side of its threshold."""
    manifest = make_manifest(
        classes=("no", "yes"),
        palette=((0, 0, 0), (9, 0, 0)),
        postprocess=msgspec.structs.replace(make_manifest().postprocess, reduce="threshold", threshold=0.6),
    )
    watched = Watched(Known(manifest, classes=1), keep_logits=True)
    predict_batch(watched, [picture(200), picture(20)])
    sure, unsure = watched.confidences(2, fit_picture(24, 32, manifest))
    yes = 1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(-0.2))
    assert sure.classes == {1: pytest.approx(yes[0], abs=1e-6)}
    assert unsure.classes == {0: pytest.approx(1 - yes[1], abs=1e-6)}


def test_it_is_the_session_that_it_watches(onnx_artifact):
    """Logits that nobody asked for are not handed on; staging and the device are the session's own."""
    from segdeploy.runtime.open import open_session

    with open_session(onnx_artifact, "cpu") as session, Watched(session, keep_logits=True) as watched:
        images = np.zeros((1, 64, 96, 3), np.uint8)
        assert watched.run(images).logits is None
        assert watched.run(images, logits=True).logits is not None
        assert watched.seconds > 0
        watched.execute(watched.stage(images))
        assert (watched.artifact, watched.device) == (session.artifact, session.device)


def test_words_of_runtimes_that_lack_memory():
    """Each in its own words, and one that is the cause of another error; what only speaks of memory is none."""
    chained = RuntimeError("inference failed")
    chained.__cause__ = MemoryError()
    lacking = [
        MemoryError(),
        chained,
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("onnxruntime::BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 4"),
        RuntimeError("Exception from src/inference: std::bad_alloc"),
        RuntimeError("OpenCV(4.9.0) error: (-4:Insufficient memory) Failed to allocate 12 bytes"),
        OSError(12, "Cannot allocate memory"),
    ]
    assert all(ran_out_of_memory(error) for error in lacking)
    assert not any(
        ran_out_of_memory(error) for error in (RuntimeError("memory layout"), ValueError("shape"), OSError(2, "gone"))
    )


def test_each_window_of_a_batch_counts(make_manifest):
    """Where several windows go to the artifact together, each is its own part of its own picture."""
    axes = make_manifest().input
    manifest = make_manifest(
        inference=Inference(mode="slide", crop=(16, 16), stride=(16, 16)),
        input=msgspec.structs.replace(axes, shape=(4, *axes.shape[1:])),
    )
    halves = [
        np.concatenate([picture(left, 16, 16), picture(right, 16, 16)], axis=1) for left, right in ((50, 100), (150, 250))
    ]
    watched = Watched(Known(manifest), keep_logits=True)
    predict_batch(watched, halves)
    found = [one.mean for one in watched.confidences(2, fit_picture(16, 32, manifest))]
    assert found == pytest.approx([(expected(50) + expected(100)) / 2, (expected(150) + expected(250)) / 2], abs=1e-6)


def test_the_graphs_own_labels_count_whatever_the_others_are(make_manifest):
    """A picture of the network's size has the graph's mask beside one that is resized, as it has alone."""
    preprocess = msgspec.structs.replace(make_manifest().preprocess, resize=Resize(mode="exact", scale=(32, 24)))
    session = Known(make_manifest(preprocess=preprocess))
    fits, larger = picture(100), picture(100, 48, 64)
    assert [one.max() for one in predict_batch(session, [fits])] == [0]
    assert [one.max() for one in predict_batch(session, [fits, larger])] == [0, 2]
    both = predict_batch(session, [larger, larger], at_network=[True, False])
    assert [(one.max(), one.shape) for one in both] == [(0, (24, 32)), (2, (48, 64))]
