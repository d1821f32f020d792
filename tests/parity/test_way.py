"""The way from a picture to the network and back, broken on purpose in our own code: the reference does not share it.

The candidate is the checkpoint itself, run through segdeploy's fitting, windows and argmax: its network cannot be wrong.
"""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.fit import Fit
from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Bounds
from segdeploy.images import resize
from segdeploy.parity.inputs import noise, pictures_of_dataset
from segdeploy.parity.verify import verify
from segdeploy.runtime import fitting, predictor
from segdeploy.runtime.open import eager_artifact

SHAPES = [(1, 64, 96)]
SLIDE = "test_cfg=dict(mode='slide', crop_size=(40, 56), stride=(27, 37))"


def bounded(artifact):
    """A checkpoint takes any size: two million pixels between two equal calls. As many as the pictures have are enough here."""
    sides = Bounds(min=24, opt=64, max=128), Bounds(min=24, opt=96, max=128)
    taken = msgspec.structs.replace(artifact.manifest.input, shape=(Bounds(min=1, opt=1, max=2), *sides, 3))
    return Artifact(artifact.folder, msgspec.structs.replace(artifact.manifest, input=taken))


@pytest.fixture(scope="module")
def sliding(checkpoint_path, tmp_path_factory):
    """The trained tiny model, which slides."""
    import torch

    content = torch.load(checkpoint_path, weights_only=True)
    changed = content["meta"]["cfg"].replace("test_cfg=dict(mode='whole')", SLIDE)
    assert changed != content["meta"]["cfg"]
    content["meta"]["cfg"] = changed
    path = tmp_path_factory.mktemp("sliding") / "sliding.pth"
    torch.save(content, path)
    return bounded(eager_artifact(path))


@pytest.fixture(scope="module")
def whole(checkpoint_path):
    return bounded(eager_artifact(Path(checkpoint_path)))


@pytest.fixture
def judged(labelled_root):
    """Verifies on the labelled pictures."""

    def run(artifact, **changes):
        artifact = Artifact(artifact.folder, msgspec.structs.replace(artifact.manifest, **changes))
        inputs = pictures_of_dataset(labelled_root, "val", artifact.manifest)
        return verify(artifact, inputs=inputs, shapes=SHAPES, device="cpu", record=False)

    return run


@pytest.mark.parametrize("name", ["whole", "sliding"])
def test_the_right_way_passes(request, judged, name):
    """Resize, windows and argmax are mmseg's own, and nothing is fitted."""
    parity = judged(request.getfixturevalue(name))
    assert parity.verdict == "passed", parity.checks
    assert parity.fit is None
    assert parity.labels.images == 6


def test_a_window_off_by_one(monkeypatch, judged, sliding):
    """Cut one pixel to the left of where its logits are put."""
    cut = fitting._cut_out

    def off_by_one(batch, window, fitted, preprocess):
        left = max(window.left - 1, 0)
        return cut(batch, window._replace(left=left, right=left + window.size[1]), fitted, preprocess)

    monkeypatch.setattr(fitting, "_cut_out", off_by_one)
    parity = judged(sliding)
    assert parity.verdict == parity.labels.verdict == "failed"
    assert parity.divergence.stage == "postprocessing"
    assert "the windows" in parity.divergence.detail


def test_the_argmax_before_the_resize(monkeypatch, judged, whole):
    """Labels at the network's size, brought to the picture's by nearest."""

    exact = predictor.labels_of_logits

    def early(logits, steps, **how):
        *before, last = steps
        small = exact(logits, before, **how)
        rows, columns = (np.arange(n) * m // n for n, m in zip((last.height, last.width), small.shape, strict=True))
        return small[rows][:, columns]

    monkeypatch.setattr(predictor, "labels_of_logits", early)
    parity = judged(whole)
    assert parity.verdict == parity.labels.verdict == "failed"
    assert parity.divergence.stage == "postprocessing"
    assert "the argmax" in parity.divergence.detail


def test_another_rounding_of_keep_ratio(monkeypatch, judged, whole):
    """Sides rounded down where mmcv rounds to the nearest: a row or a column less."""
    size_after = resize._size_after

    def rounded_down(height, width, how):
        if how.mode != "keep_ratio":
            return size_after(height, width, how)
        factor = min(max(how.scale) / max(height, width), min(how.scale) / min(height, width))
        return int(height * factor), int(width * factor)

    monkeypatch.setattr(resize, "_size_after", rounded_down)
    parity = judged(whole)
    assert parity.verdict == parity.labels.verdict == "failed"
    assert parity.divergence.stage == "preprocessing"
    assert "mmseg's pipeline makes" in parity.divergence.detail


def test_a_static_artifact_shows_what_its_fit_costs(judged, whole):
    """The graph is right, mIoU is not the checkpoint's: told as the fit's, with the checkpoint's own loss through it."""
    static = msgspec.structs.replace(whole.manifest.input, shape=(2, 24, 24, 3))
    inputs_shape = {"input": static, "fit": Fit(mode="resize")}
    artifact = Artifact(whole.folder, msgspec.structs.replace(whole.manifest, **inputs_shape))
    from segdeploy.parity.inputs import Inputs

    found = pictures_of_dataset(Path(whole.manifest.lineage.data_root), "val", whole.manifest)
    many = Inputs("twelve", found.pictures * 2)
    parity = verify(artifact, inputs=many, shapes=[(2, 24, 24)], device="cpu", record=False)
    assert all(shape.verdict == "passed" for shape in parity.shapes)
    assert parity.labels.verdict == "passed"
    assert parity.task.verdict == parity.verdict == "failed"
    assert parity.divergence.stage == "fit"
    assert parity.fit.images == 12
    assert parity.fit.differ_by_fit == pytest.approx(parity.fit.differ, rel=0.01)
    assert parity.fit.miou_reference == pytest.approx(parity.task.miou_candidate, abs=0.1)
    assert parity.task.miou_candidate < parity.task.miou_reference - 5


def test_an_image_that_leaks_into_its_neighbour(monkeypatch, judged, whole):
    """On a batch that is filled up, pictures stand beside others, not beside themselves: the leak is seen."""
    from segdeploy.parity import verify as verifying
    from segdeploy.runtime import Prediction, open_session

    class Leaking:
        def __init__(self, session):
            self._session, self.artifact, self.device = session, session.artifact, session.device

        def run(self, images, *, logits=False):
            found = self._session.run(images, logits=True)
            return Prediction(found.mask, (found.logits + 0.05 * found.logits[::-1]).astype(np.float32) / np.float32(1.05))

        def __enter__(self):
            return self

        def __exit__(self, *_error):
            return None

    monkeypatch.setattr(verifying, "open_session", lambda *given: Leaking(open_session(*given)))
    static = msgspec.structs.replace(whole.manifest.input, shape=(2, 64, 96, 3))
    monkeypatch.setattr(verifying, "determinism", lambda *_: None)  # which would see it too
    artifact = Artifact(whole.folder, msgspec.structs.replace(whole.manifest, input=static))
    found = pictures_of_dataset(Path(whole.manifest.lineage.data_root), "val", whole.manifest)
    parity = verify(artifact, inputs=found, shapes=[(2, 64, 96)], device="cpu", record=False)
    own = next(shape for shape in parity.shapes if shape.shape is None)
    assert own.verdict == "failed"


@pytest.mark.parametrize(("precision", "verdict"), [("fp32", "passed"), ("fp16", "undecided"), ("int8", "undecided")])
def test_noise_passes_no_lower_precision(whole, precision, verdict):
    """It can fail one."""
    manifest = msgspec.structs.replace(whole.manifest, precision=precision)
    parity = verify(Artifact(whole.folder, manifest), inputs=noise(manifest, 2), shapes=SHAPES, device="cpu", record=False)
    assert parity.verdict == verdict
    if precision != "fp32":
        assert "cannot" in parity.task.reason or "not pass" in parity.task.reason
