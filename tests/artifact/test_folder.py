import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from segdeploy.artifact.folder import find_artifacts, open_artifact, record_packed, record_parity, write_artifact
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


@pytest.mark.parametrize("path", ["../outside.bin", "/etc/hostname", "x/../../outside.bin", "x/..", "..\\\\outside.bin"])
def test_a_path_outside_the_folder(write, tmp_path, path):
    """A manifest cannot reach out of its folder, not by dots, not from the root."""
    artifact = write()
    outside = tmp_path / "exports" / "outside.bin"
    outside.write_bytes(b"secret")
    entry = {"path": path, "sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
    edit(artifact, lambda values: values["files"].append(entry))
    with pytest.raises(ArtifactError, match="files inside") as caught:
        open_artifact(artifact.folder)
    assert path in str(caught.value)


@pytest.fixture
def store(write, tmp_path):
    """An artifact as a store of blobs keeps it: every file, and the folder, is a link; the content lies by its hash."""
    artifact = write(tmp_path / "made")
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "onnx-fp32"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in list(artifact.folder.iterdir()):
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blob)
    linked = tmp_path / "linked" / "onnx-fp32"
    linked.parent.mkdir()
    linked.symlink_to(snapshot)
    return linked


def test_a_store_of_links_opens(store):
    """Links are followed, for files and folders; what they lead to is held by its hash."""
    artifact = open_artifact(store)
    assert artifact.model_path.read_bytes() == b"weights"
    assert find_artifacts(store.parent) == [artifact]
    artifact.model_path.resolve().write_bytes(b"weightz")
    with pytest.raises(ArtifactError, match=r"model\.onnx.*changed or damaged"):
        open_artifact(store)


def test_a_verdict_leaves_the_blobs_alone(store, parity):
    """A store's content is never changed: the folder gets a manifest of its own."""
    before = (store / "manifest.json").resolve().read_bytes()
    blob = (store / "manifest.json").resolve()
    record_parity(open_artifact(store), parity)
    assert blob.read_bytes() == before
    assert open_artifact(store).manifest.verdict().reason == "x"


def test_a_link_that_leads_nowhere_or_in_a_circle(write, tmp_path):
    """A dangling link is a missing file; a circle of folders has an end."""
    artifact = write()
    (artifact.folder / "again").symlink_to(tmp_path / "exports")
    assert [one.folder for one in find_artifacts(tmp_path / "exports")] == [artifact.folder]
    (artifact.folder / "extra.bin").unlink()
    (artifact.folder / "extra.bin").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=r"extra\.bin'; got it is missing"):
        open_artifact(artifact.folder)


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
        (folder / "manifest.json").write_text('{"manifest_version": 3, "name": "an extension of a browser"}')
    with pytest.raises(InputError, match="a file" if kind == "file" else "would be overwritten"):
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


@pytest.fixture
def parity():
    """A verdict."""
    tolerance = Tolerance(logits_max_abs=1e-4, mask_agreement=0.9999, miou_points=0.1)
    return Parity(reference="r", inputs="i", device="cpu", tolerance=tolerance, shapes=(), verdict="passed", reason="x")


def test_record_parity(write, parity):
    """A verdict lands in the manifest on disk, bound to the files, and changes nothing else."""
    artifact = write()
    assert record_parity(artifact, parity) == open_artifact(artifact.folder)
    again = open_artifact(artifact.folder).manifest
    assert again.parity == (msgspec.structs.replace(parity, files=tuple(entry.sha256 for entry in again.files)),)
    assert msgspec.structs.replace(again, parity=()) == artifact.manifest


def test_verdicts_are_only_added(write, parity):
    """Each finds those that others have recorded since it opened the artifact, and loses none of them."""
    artifact = write()
    words = ("passed", "skipped", "failed", "passed")
    for word in words:
        record_parity(artifact, msgspec.structs.replace(parity, verdict=word))
    record_packed(artifact, ["noise only"])
    record_packed(artifact, ["noise only", "no passed verdict"])
    manifest = open_artifact(artifact.folder).manifest
    assert tuple(one.verdict for one in manifest.parity) == words
    assert manifest.packed_despite == ("noise only", "no passed verdict")


def test_verdicts_of_many_at_once(write, parity):
    """Processes that record at the same moment lose nothing."""
    artifact = write()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: record_parity(artifact, msgspec.structs.replace(parity, reason=str(n))), range(40)))
    assert {one.reason for one in open_artifact(artifact.folder).manifest.parity} == {str(n) for n in range(40)}


def test_a_new_export_gets_no_older_verdict(write, parity):
    """Where others were exported meanwhile their manifest is left as it is; the same files again are the same artifact."""
    artifact = write(content=b"old")
    write(content=b"old")
    record_parity(artifact, parity)
    newer = write(content=b"new")
    for record in (lambda: record_parity(artifact, parity), lambda: record_packed(artifact, ["x"])):
        with pytest.raises(ArtifactError, match="exported there meanwhile"):
            record()
    assert open_artifact(newer.folder) == newer
    shutil.rmtree(newer.folder)
    with pytest.raises(ArtifactError, match="no such folder"):
        record_parity(artifact, parity)


def test_find_artifacts(write, tmp_path):
    """All of them by path, but not the temporary folder of an export that was killed."""
    write(tmp_path / "exports" / "b")
    write(tmp_path / "exports" / "a")
    write(tmp_path / "exports" / ".a.x1y2")
    found = find_artifacts(tmp_path / "exports")
    assert [artifact.folder.name for artifact in found] == ["a", "b"]
    assert find_artifacts(tmp_path / "none") == []


def test_one_that_is_broken_hides_no_other(write, tmp_path):
    """Each that cannot be opened has its place, with the reason, and with what its manifest says where that can be read."""
    exports = tmp_path / "exports"
    good = write(exports / "b")
    altered, unreadable = write(exports / "a"), write(exports / "c")
    altered.model_path.write_bytes(b"weightz")
    (unreadable.folder / "manifest.json").write_text("{")
    first, second, third = find_artifacts(exports)
    assert (first.folder, first.manifest, first.name) == (altered.folder, altered.manifest, "hand/onnx-fp32")
    assert "changed or damaged" in str(first.error)
    assert second == good
    assert (third.folder, third.manifest, third.name) == (unreadable.folder, None, str(unreadable.folder))
    assert "a valid manifest" in str(third.error)


def test_which_file_is_the_model(tmp_path, make_manifest):
    """The one called so; of OpenVINO's two the one that describes the network; whatever else there is comes behind."""

    def model(temporary):
        for name in ("a.json", "model.bin", "model.xml", "z.bin"):
            (temporary / name).touch()
        return make_manifest()

    files = write_artifact(tmp_path / "a", model).manifest.files
    assert [entry.path for entry in files] == ["model.xml", "model.bin", "a.json", "z.bin"]


def test_an_artifact_carries_no_mark(write):
    """What it is its manifest says; a mark beside it would be one more file to lose."""
    artifact = write()
    assert sorted(path.name for path in artifact.folder.iterdir()) == ["extra.bin", "manifest.json", "model.onnx"]
    write(content=b"new")


@pytest.mark.parametrize("text", ["{", "[1]", '{"schema": 2, "format": 1, "precision": 1, "files": 1}'])
def test_a_manifest_that_is_none_of_ours_is_not_overwritten(write, tmp_path, text):
    """Text that is no JSON, no object, or lacks what every manifest has since the first."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="would be overwritten") as caught:
        write(tmp_path / "mine")
    assert "one that segdeploy made as: an artifact;" in str(caught.value)
    assert (tmp_path / "mine" / "manifest.json").read_text() == text


def test_a_newer_schemas_artifact_is_an_artifact(write):
    """What every manifest has is enough to be replaced, though nothing else of it is understood."""
    artifact = write()
    kept = ("schema", "format", "precision", "files", "lineage")
    values = json.loads((artifact.folder / "manifest.json").read_bytes())
    (artifact.folder / "manifest.json").write_text(json.dumps({key: values[key] for key in kept} | {"schema": 9}))
    assert open_artifact(write(content=b"new").folder).model_path.read_bytes() == b"new"


def test_every_error_has_its_three_parts(write, tmp_path):
    """What was expected, what came, and what to do: of each way in which an artifact is no artifact."""
    artifact = write()
    model, manifest = artifact.model_path, artifact.folder / "manifest.json"
    good = manifest.read_bytes()

    def spoiled(change):
        edit(artifact, change)
        return lambda: manifest.write_bytes(good)

    def altered():
        model.write_bytes(b"weightz")
        return lambda: model.write_bytes(b"weights")

    def missing():
        model.rename(tmp_path / "aside")
        return lambda: (tmp_path / "aside").rename(model)

    def unreadable(path):
        path.rename(tmp_path / "aside")
        path.symlink_to("/proc/self/mem")  # of no bytes, and an error when it is read, to root too
        return lambda: (path.unlink(), (tmp_path / "aside").rename(path))

    def unreadable_model():
        mends = spoiled(lambda values: values["files"][0].update(bytes=0)), unreadable(model)
        return lambda: [mend() for mend in mends]

    cases = {
        "a model file listed in": lambda: spoiled(lambda values: values.update(files=[])),
        "files inside": lambda: spoiled(lambda values: values["files"][0].update(path="../x")),
        "as its manifest describes it": altered,
        "the file '": missing,
        "a valid manifest": lambda: spoiled(lambda values: values.update(files=3)),
        "a manifest of schema 2": lambda: spoiled(lambda values: values.update(schema=7)),
        f"to read '{manifest}": lambda: unreadable(manifest),
        f"to read '{model}": unreadable_model,
    }
    for words, spoil in cases.items():
        mend = spoil()
        with pytest.raises(ArtifactError) as caught:
            open_artifact(artifact.folder)
        mend()
        error = caught.value
        assert words in error.expected, error
        assert not {"None", ""} & {error.expected, error.got, error.fix}, error
        assert str(artifact.folder) in str(error)
    assert open_artifact(artifact.folder) == artifact


def test_what_it_was_packed_despite_of_stays(write):
    """A later packing adds to it and takes nothing back."""
    artifact = write()
    for despite in (["noise only"], ["no passed verdict"], []):
        record_packed(artifact, despite)
    assert open_artifact(artifact.folder).manifest.packed_despite == ("noise only", "no passed verdict")
