import pytest

import segdeploy.runtime
from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import BackendError, CheckpointError
from segdeploy.runtime.open import eager_artifact, open_session


def test_public_names():
    """What the package promises, and no more."""
    assert segdeploy.runtime.__all__ == ["Prediction", "Session", "Staged", "open_session"]


def test_an_unknown_backend_lists_the_known(make_manifest, tmp_path):
    """A name that nobody knows is a BackendError with those that there are."""
    with pytest.raises(BackendError, match="a backend out of eager, torchscript, .*; got 'ncnn'"):
        open_session(Artifact(tmp_path, make_manifest(format="ncnn")))


@pytest.mark.parametrize("backend", ["eager", "onnx", "torchscript"])
def test_cuda_where_there_is_none(request, backend, no_gpu):
    """Asking for CUDA on a machine without it is an error in every backend, never a silent CPU run."""
    artifact = request.getfixturevalue(backend if backend == "eager" else f"{backend}_artifact")
    with pytest.raises(BackendError, match="--device cpu"):
        open_session(artifact.artifact if backend == "eager" else artifact, "cuda")


@pytest.mark.parametrize("backend", ["eager", "onnx", "torchscript"])
def test_auto_says_where_it_runs(request, backend, no_gpu):
    """``auto`` on a machine without a GPU runs on the CPU, and says so."""
    artifact = request.getfixturevalue(backend if backend == "eager" else f"{backend}_artifact")
    with open_session(artifact.artifact if backend == "eager" else artifact) as session:
        assert session.device == "cpu"


def test_a_checkpoint_as_an_artifact(checkpoint_path):
    """A checkpoint is opened like any artifact, and names the file that it stands for."""
    artifact = eager_artifact(checkpoint_path)
    assert artifact.model_path == checkpoint_path
    assert artifact.name == "tiny/eager-fp32"
    with pytest.raises(CheckpointError):
        eager_artifact(checkpoint_path.with_name("none.pth"))
