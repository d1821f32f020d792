import hashlib
import json

import msgspec
import pytest

from segdeploy.artifact.folder import find_artifacts, open_artifact, record_parity, write_artifact
from segdeploy.artifact.verdict import Parity, Tolerance
from segdeploy.base.errors import ArtifactError, InputError


@pytest.fixture
def write(tmp_path, make_manifest):
    def write_one(folder=tmp_path / "exports" / "a", content=b"weights", **changes):
        def model(temporary):
            (temporary / "extra.bin").write_bytes(b"123")
            (temporary / "model.onnx").write_bytes(content)
            return make_manifest(**changes)

        return write_artifact(folder, model)

    return write_one


def edit(artifact, change):
    path = artifact.folder / "manifest.json"
    values = json.loads(path.read_bytes())
    change(values)
    path.write_text(json.dumps(values))


def test_written_and_opened(write):
    """Every file is listed with its hash and size, the model first; what is opened equals what was written."""
    artifact = write()
    entries = artifact.manifest.files
    assert [entry.path for entry in entries] == ["model.onnx", "extra.bin"]
    assert entries[0].sha256 == hashlib.sha256(b"weights").hexdigest()
    assert entries[1].bytes == 3
    assert open_artifact(artifact.folder) == artifact
    assert artifact.model_path.read_bytes() == b"weights"
    assert artifact.name == "hand/onnx-fp32"


@pytest.mark.parametrize("content", [b"weightz", b"weight", b"weights and more", b""])
def test_an_altered_file(write, content):
    """Another content, of the same size or not, is refused and named."""
    artifact = write()
    artifact.model_path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx.*changed or damaged"):
        open_artifact(artifact.folder)


def test_a_file_beside_the_model_is_checked_too(write):
    """Not only the model file: external weights decide as much."""
    artifact = write()
    (artifact.folder / "extra.bin").write_bytes(b"124")
    with pytest.raises(ArtifactError, match=r"extra\.bin"):
        open_artifact(artifact.folder)


def test_a_missing_file(write):
    """A file that is gone is named."""
    artifact = write()
    artifact.model_path.unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx'; got it is missing"):
        open_artifact(artifact.folder)


@pytest.mark.parametrize("path", ["../outside.bin", "/etc/hostname", "a/../../outside.bin", "link/outside.bin"])
def test_a_path_outside_the_folder(write, tmp_path, path):
    """A manifest cannot reach out of its folder, not by dots, not from the root, not through a link."""
    artifact = write()
    outside = tmp_path / "exports" / "outside.bin"
    outside.write_bytes(b"secret")
    (artifact.folder / "link").symlink_to(tmp_path / "exports")
    entry = {"path": path, "sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
    edit(artifact, lambda values: values["files"].append(entry))
    with pytest.raises(ArtifactError, match="files inside") as caught:
        open_artifact(artifact.folder)
    assert path in str(caught.value)


def test_no_files_listed(write):
    """A manifest without a model file is refused."""
    artifact = write()
    edit(artifact, lambda values: values.update(files=[]))
    with pytest.raises(ArtifactError, match="a model file listed"):
        open_artifact(artifact.folder)


def test_no_artifact(tmp_path):
    """A missing folder and one without a manifest are told apart."""
    with pytest.raises(ArtifactError, match="no such folder"):
        open_artifact(tmp_path / "none")
    with pytest.raises(ArtifactError, match="no such file"):
        open_artifact(tmp_path)


def test_a_failed_export_leaves_nothing_new(write, tmp_path):
    """An exporter that raises midway leaves neither an artifact nor a temporary folder, and the older one intact."""
    before = write()

    def failing(temporary):
        (temporary / "model.onnx").write_bytes(b"half")
        raise RuntimeError

    for folder in (tmp_path / "exports" / "new", before.folder):
        with pytest.raises(RuntimeError):
            write_artifact(folder, failing)
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["a"]
    assert open_artifact(before.folder) == before


def test_an_older_artifact_is_replaced(write):
    """Nothing of the older one is left."""
    write(content=b"old")
    assert open_artifact(write(content=b"new").folder).model_path.read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_other_things_are_not_overwritten(write, tmp_path, kind):
    """A folder with something else in it, and a file, stay as they are."""
    folder = tmp_path / "precious"
    if kind == "file":
        folder.write_text("x")
    else:
        folder.mkdir()
        (folder / "x").touch()
    with pytest.raises(ArtifactError, match="would be overwritten"):
        write(folder)
    assert folder.read_text() == "x" if kind == "file" else (folder / "x").exists()


def test_an_empty_folder_is_taken(write, tmp_path):
    """An empty folder is no obstacle."""
    (tmp_path / "empty").mkdir()
    assert open_artifact(write(tmp_path / "empty").folder)


def test_a_file_in_the_folders_place(write, tmp_path):
    """Where the parent is a file the user is told, without a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a folder that can be written"):
        write(tmp_path / "file" / "a")


def test_record_parity(write):
    """A verdict lands in the manifest on disk, and changes nothing else."""
    artifact = write()
    tolerance = Tolerance(logits_max_abs=1e-4, mask_agreement=0.9999, miou_points=0.1)
    parity = Parity(reference="r", inputs="i", device="cpu", tolerance=tolerance, shapes=(), verdict="skipped", reason="x")
    assert record_parity(artifact, parity) == open_artifact(artifact.folder)
    again = open_artifact(artifact.folder).manifest
    assert again.parity == parity
    assert msgspec.structs.replace(again, parity=None) == artifact.manifest


def test_find_artifacts(write, tmp_path):
    """All of them by path, but not the temporary folder of an export that was killed."""
    write(tmp_path / "exports" / "b")
    write(tmp_path / "exports" / "a")
    write(tmp_path / "exports" / ".a.x1y2")
    found = find_artifacts(tmp_path / "exports")
    assert [artifact.folder.name for artifact in found] == ["a", "b"]
    assert find_artifacts(tmp_path / "none") == []
