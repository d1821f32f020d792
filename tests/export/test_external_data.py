"""A model too large for one ONNX file: its weights lie beside it, and belong to the artifact like the model itself."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from segdeploy.artifact.folder import open_artifact
from segdeploy.base.errors import ArtifactError, ExportError
from segdeploy.base.files import sha256_file
from segdeploy.parity.verify import verify
from segdeploy.runtime import open_session

DATA = "model.onnx.data"
onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def artifact(export_tiny, tmp_path_factory):
    """The tiny model with the limit of one file lowered to nothing."""
    from segdeploy.export import onnx as exporting

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_LARGEST_FILE_BYTES", 0)
        return export_tiny("onnx", tmp_path_factory.mktemp("large") / "onnx-fp32")


def test_both_files_are_listed(artifact):
    """The model first, then its weights, each with its hash; the weights are not in the model."""
    assert [entry.path for entry in artifact.manifest.files] == ["model.onnx", DATA]
    for entry in artifact.manifest.files:
        assert entry.sha256 == sha256_file(artifact.folder / entry.path)
        assert entry.bytes == (artifact.folder / entry.path).stat().st_size
    bare = onnx.load(artifact.model_path, load_external_data=False)
    external = [one for one in bare.graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
    assert {entry.value for one in external for entry in one.external_data if entry.key == "location"} == {DATA}


def test_it_is_the_same_model(artifact, onnx_artifact, copied):
    """The same bits as the model in one file, and parity with the checkpoint."""
    image = np.random.default_rng(0).integers(0, 256, (2, 70, 50, 3), dtype=np.uint8)
    with open_session(artifact, "cpu") as ours, open_session(onnx_artifact, "cpu") as single:
        np.testing.assert_array_equal(ours.run(image, logits=True).logits, single.run(image, logits=True).logits)
    assert verify(copied(artifact), device="cpu").verdict == "passed"


def test_it_is_packed(artifact, copied, tmp_path):
    """The .mar has the weights beside the model, and what is unpacked from it opens and runs."""
    from segdeploy.serve.archive import pack

    made = pack(copied(artifact), name="large", out=tmp_path / "store", unverified=True)
    with zipfile.ZipFile(made) as packed:
        packed.extractall(tmp_path / "unpacked")
    unpacked = open_artifact(tmp_path / "unpacked")
    assert unpacked.manifest.files == artifact.manifest.files
    with open_session(unpacked, "cpu") as session:
        assert session.run(np.zeros((1, 64, 64, 3), np.uint8)).mask.shape == (1, 64, 64)


def test_other_weights_are_refused(artifact, copied):
    """One byte changed in the weights, weights cut short, and none: each is said of that file."""
    opened = copied(artifact)
    path = Path(opened.folder / DATA)
    content = path.read_bytes()
    for changed in (bytes([content[0] ^ 1]) + content[1:], content[:-1]):
        path.write_bytes(changed)
        with pytest.raises(ArtifactError, match=f"{DATA}' as its manifest describes it .*changed or damaged"):
            open_artifact(opened.folder)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{DATA}'; got it is missing"):
        open_artifact(opened.folder)


def test_a_lower_precision_is_refused(artifact, copied):
    """What converts precisions takes one file: it says so."""
    import msgspec

    from segdeploy.export.options import Calibration
    from segdeploy.export.precision import convert

    opened = copied(artifact)
    with pytest.raises(ExportError, match="--precision fp32"):
        convert(opened.model_path, msgspec.structs.replace(opened.manifest, precision="fp16"), Calibration())
