"""What every backend has in common."""

import numpy as np
import pytest

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import ArtifactError, InputError, MissingExtraError
from segdeploy.runtime import open_session

BACKENDS = ("eager", "onnx", "openvino", "torchscript")


@pytest.fixture(params=BACKENDS)
def artifact(request):
    found = request.getfixturevalue("eager" if request.param == "eager" else f"{request.param}_artifact")
    return found if isinstance(found, Artifact) else found.artifact


@pytest.fixture
def session(artifact, one_thread):
    with open_session(artifact, "cpu") as opened:
        yield opened


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_types_and_shapes(session):
    """uint8 masks at the input's size, float32 logits of K classes, and those only when asked for."""
    images = noise(2, 50, 70)
    plain, both = session.run(images), session.run(images, logits=True)
    assert plain.logits is None
    assert plain.mask.dtype == np.uint8
    assert plain.mask.shape == (2, 50, 70)
    np.testing.assert_array_equal(plain.mask, both.mask)
    assert both.logits.dtype == np.float32
    assert both.logits.shape[:2] == (2, 5)


def test_images_are_not_changed(session):
    """The caller's images are left as they are, also where they are a view into others."""
    images = noise(2, 50, 140)
    before = images.copy()
    strided = session.run(images[:, :, ::2]).mask
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(strided, session.run(images[:, :, ::2].copy()).mask)


def test_staged_batches(session):
    """A batch that was staged keeps its shape and can be run again; another may be staged after it."""
    first = session.stage(noise(1, 40, 60))
    assert first.shape == (1, 40, 60)
    session.execute(first)
    session.execute(first)
    second = session.stage(noise(2, 64, 96))
    session.execute(second)
    assert second.shape == (2, 64, 96)


def test_a_wrong_batch(session):
    """Floats and a wrong layout are InputErrors before the runtime sees them."""
    with pytest.raises(InputError, match="uint8"):
        session.run(noise(1, 40, 60).astype(np.float32))
    with pytest.raises(InputError):
        session.stage(noise(1, 40, 60)[0])


def test_a_missing_package(artifact, monkeypatch):
    """Without its package a backend says what to install."""
    import sys

    package = {"onnx": "onnxruntime", "openvino": "openvino"}.get(artifact.manifest.format, "torch")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match="pip install"):
        open_session(artifact, "cpu")


@pytest.mark.parametrize("fmt", ["onnx", "torchscript"])
def test_a_model_that_the_runtime_refuses(request, fmt, tmp_path, make_manifest):
    """A file that its hash vouches for and the runtime cannot load is an ArtifactError, not a bug."""
    from segdeploy.artifact.folder import write_artifact

    def write(folder):
        (folder / f"model.{'onnx' if fmt == 'onnx' else 'pt'}").write_bytes(b"not a model")
        return make_manifest(format=fmt)

    artifact = write_artifact(tmp_path / "bad", write)
    with pytest.raises(ArtifactError) as caught:
        open_session(artifact, "cpu")
    assert "\n" not in str(caught.value)


def test_equal_runs_are_equal(session):
    """The same batch twice gives the same bits."""
    first, second = (session.run(noise(1, 64, 96), logits=True) for _ in range(2))
    np.testing.assert_array_equal(first.logits, second.logits)
