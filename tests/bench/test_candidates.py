import msgspec
import pytest

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import BackendError, InputError
from segdeploy.bench.candidates import choose_candidates, find_data
from segdeploy.bench.run import Missing

pytest.importorskip("onnx")


def remembering(artifact, **changes):
    lineage = msgspec.structs.replace(artifact.manifest.lineage, **changes)
    return Artifact(artifact.folder, msgspec.structs.replace(artifact.manifest, lineage=lineage))


def test_a_filter_leaves_the_named_backends_only(tiny_artifact, foreign_engine):
    """The reference is left out too unless it is named."""
    both = [tiny_artifact(), foreign_engine()]
    assert choose_candidates(both, ["tensorrt"]) == [both[1]]
    assert choose_candidates(both, ["onnx", "tensorrt"]) == both


def test_an_unknown_backend_is_answered_with_the_known_ones(tiny_artifact):
    """A misspelt name is not guessed at."""
    with pytest.raises(BackendError, match="eager, torchscript, pt2, onnx, openvino, tensorrt; got 'tensorflow'"):
        choose_candidates([tiny_artifact()], ["tensorflow"])


def test_a_backend_without_an_export_says_how_to_make_one(tiny_artifact):
    """The command to type is in the message."""
    with pytest.raises(BackendError, match="segdeploy export --to tensorrt"):
        choose_candidates([tiny_artifact()], ["tensorrt"])


def test_a_reference_that_is_not_here_keeps_its_reason(tmp_path, tiny_artifact):
    """Without a checkpoint, with a missing one and with a changed one the first row says which of these it is."""
    changed = tmp_path / "changed.pth"
    changed.write_bytes(b"other content")
    for checkpoint, reason in ((None, "names no checkpoint"), ("/gone.pth", "is not here"), (str(changed), "has changed")):
        reference, _ = choose_candidates([remembering(tiny_artifact(), checkpoint=checkpoint)])
        assert isinstance(reference, Missing)
        assert reason in reference.reason


def test_each_model_has_one_reference(tiny_artifact):
    """Two artifacts of one checkpoint share it; another checkpoint has its own."""
    one, two = tiny_artifact("one"), tiny_artifact("two")
    other = remembering(tiny_artifact("three"), checkpoint_sha256="e" * 64)
    found = choose_candidates([one, two, other])
    assert [candidate.model for candidate in found[:2]] == ["one", "three"]
    assert found[2:] == [one, two, other]


def test_the_data_set_is_the_one_that_was_named(tiny_artifact, data_root):
    """A named folder must be a data set."""
    found = find_data([tiny_artifact()], data_root, "val")
    assert (len(found.samples), found.name) == (4, f"{data_root} (val)")
    with pytest.raises(InputError):
        find_data([tiny_artifact()], data_root, "test")


def test_the_remembered_data_set_may_be_missing(tiny_artifact, data_root):
    """One that a manifest names is used where it is here, and is a note where it is not."""
    here = remembering(tiny_artifact("here"), data_root=str(data_root))
    gone = remembering(tiny_artifact("gone"), data_root="/nowhere")
    assert len(find_data([here], None, "val").samples) == 4
    assert "pass --data" in find_data([gone], None, "val").missing
    assert "a split .test." in find_data([here], None, "test").missing.replace("'", ".")
    assert "different data sets" in find_data([here, gone], None, "val").missing
