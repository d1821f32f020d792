"""The reference's outputs on disk: the same verdict as beside it, and nothing else than what was stored."""

import json
import subprocess
import sys

import msgspec
import pytest

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import ArtifactError, InputError
from segdeploy.parity.inputs import pictures_of_dataset
from segdeploy.parity.stored import INDEX_NAME, StoredReference
from segdeploy.parity.verify import store_reference, verify

SHAPES = [(1, 64, 96), (2, 75, 51)]


@pytest.fixture(scope="module")
def inputs(labelled_root, onnx_artifact):
    return pictures_of_dataset(labelled_root, "val", onnx_artifact.manifest)


@pytest.fixture(scope="module")
def stored(onnx_artifact, inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "reference"
    return store_reference(onnx_artifact, folder, inputs=inputs, shapes=SHAPES, device="cpu")


def test_the_same_verdict(copied, onnx_artifact, inputs, stored):
    """Every figure is that of running the reference itself."""
    artifact = copied(onnx_artifact)
    here = verify(artifact, inputs=inputs, shapes=SHAPES, device="cpu")
    there = verify(artifact, stored=stored, device="cpu")
    assert there.verdict == "passed"
    assert (there.shapes, there.labels, there.task) == (here.shapes, here.labels, here.task)
    assert there.pictures == here.pictures  # told apart by what they show, not by their files
    assert there.reference.startswith("stored outputs of eager")
    assert there.inputs == f"{here.inputs} (stored)"


def test_another_format_of_the_checkpoint(copied, torchscript_artifact, stored):
    """What was stored for one artifact serves another of the same checkpoint."""
    assert verify(copied(torchscript_artifact), stored=stored, device="cpu").verdict == "passed"


def test_without_torch_and_mmseg(copied, onnx_artifact, stored, tmp_path):
    """On a machine that has neither: the ONNX artifact is verified with onnxruntime alone."""
    artifact = copied(onnx_artifact)
    code = f"""
import sys
for name in ("torch", "mmseg", "mmengine", "mmcv"):
    sys.modules[name] = None
from pathlib import Path
from segdeploy.artifact.folder import open_artifact
from segdeploy.parity.stored import StoredReference
from segdeploy.parity.verify import verify
parity = verify(open_artifact(Path({str(artifact.folder)!r})), stored=StoredReference(Path({str(stored.artifact.folder)!r})))
print(parity.verdict)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "passed", done.stderr


def test_another_checkpoint(onnx_artifact, stored):
    """A reference is good for the artifacts of its own checkpoint."""
    lineage = msgspec.structs.replace(onnx_artifact.manifest.lineage, checkpoint_sha256="0" * 64)
    other = Artifact(onnx_artifact.folder, msgspec.structs.replace(onnx_artifact.manifest, lineage=lineage))
    with pytest.raises(ArtifactError, match="one of another"):
        verify(other, stored=stored, record=False)


def test_what_is_missing_or_changed_is_said(tmp_path, copied, onnx_artifact, stored):
    """No index, one that is cut, a picture or an output that was changed, one that is gone: one line each."""
    import shutil

    with pytest.raises(InputError, match="--save-reference"):
        StoredReference(tmp_path)
    artifact = copied(onnx_artifact)

    def damaged(change):
        folder = tmp_path / f"damaged-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(stored.artifact.folder, folder)
        change(folder)
        return folder

    cut = damaged(lambda folder: (folder / INDEX_NAME).write_text((folder / INDEX_NAME).read_text()[:200]))
    with pytest.raises(InputError, match="a stored reference at"):
        StoredReference(cut)
    for pattern in ("pictures/*.png", "labels/*.png", "outputs/*.npz"):

        def spoil(folder, pattern=pattern):
            path = min(folder.glob(pattern))
            path.write_bytes(path.read_bytes()[:-1] + b"x")

        with pytest.raises(InputError, match="as it was stored"):
            verify(artifact, stored=StoredReference(damaged(spoil)), record=False, device="cpu")
    gone = damaged(lambda folder: min(folder.glob("outputs/*.npz")).unlink())
    with pytest.raises(InputError, match="it is missing"):
        verify(artifact, stored=StoredReference(gone), record=False, device="cpu")


def test_an_input_that_was_not_stored(onnx_artifact, stored, tmp_path):
    """An artifact that resizes otherwise asks for other inputs: that is said, never answered with something else."""
    import shutil

    folder = shutil.copytree(stored.artifact.folder, tmp_path / "other")
    content = json.loads((folder / INDEX_NAME).read_text())
    content["shapes"].append([1, 33, 47])
    (folder / INDEX_NAME).write_text(json.dumps(content))
    with pytest.raises(InputError, match="another batch of 1 x 33x47"):
        verify(onnx_artifact, stored=StoredReference(folder), record=False, device="cpu")


def test_nothing_half_written(onnx_artifact, inputs, tmp_path, monkeypatch):
    """Storing that is interrupted leaves no folder."""
    from segdeploy.parity import stored as storing

    monkeypatch.setattr(storing.SavingSession, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store_reference(onnx_artifact, tmp_path / "never", inputs=inputs, shapes=SHAPES[:1], device="cpu")
    assert list(tmp_path.iterdir()) == []
