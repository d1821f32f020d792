"""The archive: what is in it, and what is refused."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import msgspec
import pytest

from segdeploy.artifact.folder import Artifact, open_artifact, record_parity, write_artifact
from segdeploy.artifact.manifest import encode_manifest
from segdeploy.artifact.verdict import Parity, Tolerance
from segdeploy.base.errors import ArtifactError, InputError
from segdeploy.serve.archive import HANDLER, pack


def verdict(word):
    return Parity(
        reference="test",
        inputs="none",
        device="cpu",
        tolerance=Tolerance(logits_max_abs=1e-4, mask_agreement=1.0, miou_points=0.1),
        shapes=(),
        verdict=word,
    )


def test_archive_holds_the_artifact_and_the_handler_unchanged(archive, onnx_artifact):
    """The .mar has the model and the handler byte for byte, and the manifest with what it was packed in spite of."""
    with zipfile.ZipFile(archive) as packed:
        content = {name: packed.read(name) for name in packed.namelist()}
    assert hashlib.sha256(content["model.onnx"]).hexdigest() == onnx_artifact.manifest.files[0].sha256
    despite = ("no passed parity verdict: never verified (--unverified)",)
    expected = msgspec.structs.replace(onnx_artifact.manifest, packed_despite=despite)
    assert content["manifest.json"] == encode_manifest(expected)
    assert content["handler.py"] == HANDLER.read_bytes()
    told = json.loads(content["MAR-INF/MANIFEST.json"])
    assert told["model"]["modelName"] == "tiny-1.x"
    assert told["model"]["serializedFile"] == "model.onnx"


@pytest.mark.parametrize("word", ["failed", "undecided", "skipped", None])
def test_only_a_passed_artifact_is_packed(copied, onnx_artifact, tmp_path, word):
    """Without a passed verdict nothing is packed and nothing is left behind."""
    artifact = copied(onnx_artifact)
    if word:
        artifact = record_parity(artifact, verdict(word))
    with pytest.raises(ArtifactError, match=word or "never verified"):
        pack(artifact, name="tiny", out=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_passed_artifact_is_packed_without_being_told_to(copied, onnx_artifact, tmp_path):
    """A passed verdict is all that it takes."""
    artifact = record_parity(copied(onnx_artifact), verdict("passed"))
    made = pack(artifact, name="tiny", out=tmp_path / "store")
    assert [path.name for path in made.parent.iterdir()] == ["tiny.mar"]


LOOSE = Tolerance(logits_max_abs=9, mask_agreement=0.5, miou_points=9, overridden=("mask_agreement",))


@pytest.mark.parametrize(
    ("changes", "told"), [({"noise": True}, "seeded noise only"), ({"tolerance": LOOSE}, "mask_agreement 0.5")]
)
def test_a_weak_pass_is_packed_only_when_told_to(copied, onnx_artifact, tmp_path, changes, told):
    """On noise only, or at chosen tolerances: refused; overridden, the archive and the artifact say so for ever."""
    weak = msgspec.structs.replace(verdict("passed"), **changes)
    artifact = record_parity(copied(onnx_artifact), weak)
    with pytest.raises(ArtifactError, match=told):
        pack(artifact, name="tiny", out=tmp_path / "store")
    made = pack(artifact, name="tiny", out=tmp_path / "store", unverified=True)
    artifact = record_parity(open_artifact(artifact.folder), verdict("passed"))
    with zipfile.ZipFile(made) as packed:
        for content in (packed.read("manifest.json"), (artifact.folder / "manifest.json").read_bytes()):
            assert any(told in despite for despite in json.loads(content)["packed_despite"])
    assert pack(artifact, name="tiny", out=tmp_path / "store")


def test_a_failure_is_not_talked_over(copied, onnx_artifact, tmp_path):
    """A later pass at chosen tolerances does not make a failed artifact one that is packed."""
    artifact = record_parity(copied(onnx_artifact), verdict("failed"))
    artifact = record_parity(artifact, msgspec.structs.replace(verdict("passed"), tolerance=LOOSE))
    with pytest.raises(ArtifactError, match="failed"):
        pack(artifact, name="tiny", out=tmp_path / "store")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", "-a", "ä"])
def test_names_that_torchserve_does_not_take_are_refused(onnx_artifact, tmp_path, name):
    """A model's name becomes part of a URL and of a file's name."""
    with pytest.raises(InputError, match="letters"):
        pack(onnx_artifact, name=name, out=tmp_path, unverified=True)


def test_a_checkpoint_is_not_an_archive(onnx_artifact, tmp_path):
    """What was not exported cannot be packed, verified or not."""
    eager = type(onnx_artifact)(onnx_artifact.folder, msgspec.structs.replace(onnx_artifact.manifest, format="eager"))
    with pytest.raises(ArtifactError, match="export it first"):
        pack(eager, name="tiny", out=tmp_path, unverified=True)


def test_more_classes_than_a_palette_has_colours_are_refused(onnx_artifact, tmp_path):
    """A label above 255 does not fit the answer's PNG: refused when packing, instead of wrong labels when serving."""
    count = 257
    manifest = msgspec.structs.replace(
        onnx_artifact.manifest, classes=tuple(map(str, range(count))), palette=((0, 0, 0),) * count
    )
    with pytest.raises(ArtifactError, match="257"):
        pack(Artifact(onnx_artifact.folder, manifest), name="tiny", out=tmp_path, unverified=True)


def test_no_file_is_lost_whatever_the_folder_is_called(make_manifest, tmp_path):
    """Commas and wildcards in a path, which the archiver takes apart, and files in a folder below reach the archive."""

    def write(folder: Path):
        (folder / "weights").mkdir()
        (folder / "model.onnx").write_bytes(b"model")
        (folder / "weights" / "part.bin").write_bytes(b"weights")
        return make_manifest()

    artifact = write_artifact(tmp_path / "run 1,[a]*?" / "onnx-fp32", write)
    made = pack(artifact, name="tiny", out=tmp_path / "store", unverified=True)
    with zipfile.ZipFile(made) as packed:
        assert {name: packed.read(name) for name in ("model.onnx", "weights/part.bin")} == {
            "model.onnx": b"model",
            "weights/part.bin": b"weights",
        }
        assert packed.read("manifest.json") == (artifact.folder / "manifest.json").read_bytes()
