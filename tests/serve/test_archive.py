"""The archive: what is in it, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import msgspec
import pytest

from segdeploy.artifact.folder import Artifact, open_artifact, record_parity, write_artifact
from segdeploy.artifact.manifest import Target, encode_manifest
from segdeploy.artifact.verdict import Parity, Tolerance
from segdeploy.base.errors import ArtifactError, InputError
from segdeploy.serve.archive import HANDLER, pack, unpack
from segdeploy.serve.model_config import ModelConfig


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


def test_the_same_content_gives_the_same_bytes(copied, onnx_artifact, tmp_path, monkeypatch):
    """Neither the clock nor a file's times, permissions or order in its folder come into the archive."""
    artifact = copied(onnx_artifact)
    first = pack(artifact, name="tiny", out=tmp_path / "first", unverified=True).read_bytes()
    for path in artifact.folder.iterdir():
        os.utime(path, (1_700_000_000,) * 2)
        path.chmod(0o600)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    second = pack(open_artifact(artifact.folder), name="tiny", out=tmp_path / "second", unverified=True).read_bytes()
    assert first == second
    assert pack(artifact, name="tiny", version="2.0", out=tmp_path / "third", unverified=True).read_bytes() != first


def test_an_archive_is_what_torch_model_archiver_makes(copied, onnx_artifact, tmp_path):
    """Held against the archiver itself: the same files, and the same manifest but for the moment."""
    pytest.importorskip("model_archiver", reason="torch-model-archiver is not installed")
    artifact = copied(onnx_artifact)
    ours = pack(artifact, name="tiny", version="3", out=tmp_path / "ours", unverified=True)
    taken = tmp_path / "taken"
    with zipfile.ZipFile(ours) as packed:
        packed.extractall(taken)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    options = {
        "--model-name": "tiny",
        "--version": "3",
        "--export-path": theirs,
        "--serialized-file": taken / "model.onnx",
        "--handler": taken / "handler.py",
        "--config-file": taken / "model-config.yaml",
        "--extra-files": taken / "manifest.json",
    }
    words = [str(word) for option in options.items() for word in option]
    variables = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "model_archiver.model_packaging", *words], env=variables, check=True)
    told = []
    with zipfile.ZipFile(ours) as one, zipfile.ZipFile(theirs / "tiny.mar") as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        for name in one.namelist():
            if name == "MAR-INF/MANIFEST.json":
                told = [{**json.loads(packed.read(name)), "createdOn": None} for packed in (one, other)]
            else:
                assert one.read(name) == other.read(name)
    assert told[0] == told[1]


def test_how_to_run_it_is_packed(onnx_artifact, copied, tmp_path):
    """By the names that TorchServe knows."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    config = ModelConfig(workers=3, batch_size=4, max_batch_delay_ms=20, queue_size=50, response_timeout_s=60)
    made = pack(copied(onnx_artifact), name="tiny", out=tmp_path / "store", config=config, unverified=True)
    with zipfile.ZipFile(made) as packed:
        assert yaml.safe_load(packed.read("model-config.yaml")) == {
            "minWorkers": 3,
            "maxWorkers": 3,
            "batchSize": 4,
            "maxBatchDelay": 20,
            "jobQueueSize": 50,
            "responseTimeout": 60,
            "startupTimeout": 180,
        }


@pytest.mark.parametrize(
    ("fmt", "target", "device"),
    [
        ("openvino", None, "cpu"),
        ("tensorrt", Target(device="cuda", compute_capability="sm89"), "gpu"),
        ("pt2", Target(device="cpu", cpu="x86_64"), "cpu"),
        ("pt2", Target(device="cuda"), "gpu"),
        ("torchscript", None, None),
    ],
)
def test_every_format_is_packed_whole_for_its_device(make_manifest, tmp_path, fmt, target, device):
    """All files of the artifact, OpenVINO's two among them; where it is bound to a device, its workers are given one."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    files = {"openvino": ("model.xml", "model.bin"), "tensorrt": ("model.engine", "model.onnx")}.get(fmt, ("model.pt2",))

    def write(folder: Path):
        for name in files:
            (folder / name).write_bytes(name.encode())
        return msgspec.structs.replace(make_manifest(), format=fmt, target=target)

    artifact = write_artifact(tmp_path / fmt, write)
    made = pack(artifact, name="tiny", out=tmp_path / "store", unverified=True)
    with zipfile.ZipFile(made) as packed:
        assert set(files) < set(packed.namelist())
        assert all(packed.read(name) == name.encode() for name in files)
        assert json.loads(packed.read("MAR-INF/MANIFEST.json"))["model"]["serializedFile"] == files[0]
        assert yaml.safe_load(packed.read("model-config.yaml")).get("deviceType") == device


def test_unpacked_it_is_an_artifact_again_with_other_settings(archive, tmp_path):
    """Files as they were; of the settings only those that are asked for differ."""
    version, told = unpack(archive, tmp_path / "out", {"minWorkers": 2})
    assert version == "1.0"
    assert (told["minWorkers"], told["maxWorkers"]) == (2, 1)
    assert open_artifact(tmp_path / "out").manifest.format == "onnx"
    assert "minWorkers: 2" in (tmp_path / "out" / "model-config.yaml").read_text()


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", "a/../../evil.py", "..\\evil.py", "C:\\evil.py"])
def test_a_name_that_leads_out_of_the_archive_is_refused(archive, tmp_path, name):
    """Zip slip: nothing of such an archive is written, inside or outside."""
    evil = tmp_path / "evil.mar"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(evil, "w") as copy:
        for entry in whole.namelist():
            copy.writestr(entry, whole.read(entry))
        copy.writestr(name, "evil")
    with pytest.raises(InputError, match="whoever made it"):
        unpack(evil, tmp_path / "in" / "here", {})
    assert [path.name for path in tmp_path.iterdir()] == ["evil.mar"]


@pytest.mark.parametrize("told", [b"", b"[]", b"{}", b'{"model": {"modelVersion": "1", "configFile": "../../x"}}'])
def test_an_archive_that_does_not_say_what_it_is_is_refused(tmp_path, told):
    """A manifest that is none, or that points out of the archive."""
    wrong = tmp_path / "wrong.mar"
    with zipfile.ZipFile(wrong, "w") as packed:
        packed.writestr("MAR-INF/MANIFEST.json", told)
    with pytest.raises(InputError):
        unpack(wrong, tmp_path / "in", {})
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("version", ["", "1 0", "../1"])
def test_versions_that_torchserve_does_not_take_are_refused(onnx_artifact, tmp_path, version):
    """A version becomes part of a URL too."""
    with pytest.raises(InputError, match="version"):
        pack(onnx_artifact, name="tiny", version=version, out=tmp_path, unverified=True)
