import os

import pytest

from segdeploy.artifact.folder import write_artifact
from segdeploy.base.errors import ArtifactError, CheckpointError
from segdeploy.cli.defaults import named_artifacts, newest_checkpoint


def touch(path, at):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (at, at))


def test_the_best_of_the_newest_run(tmp_path):
    """The newest run counts; within it the best checkpoint, though the last one is newer."""
    touch(tmp_path / "old" / "best_mIoU_epoch_9.pth", 10)
    touch(tmp_path / "new" / "best_mIoU_epoch_1.pth", 20)
    touch(tmp_path / "new" / "epoch_2.pth", 30)
    assert newest_checkpoint(tmp_path).name == "best_mIoU_epoch_1.pth"


def test_the_last_where_none_is_best(tmp_path):
    """Without a best one, the last."""
    touch(tmp_path / "new" / "epoch_2.pth", 30)
    touch(tmp_path / "new" / "epoch_1.pth", 20)
    assert newest_checkpoint(tmp_path).name == "epoch_2.pth"


def test_no_checkpoint(tmp_path):
    """None at all names the command that makes one."""
    with pytest.raises(CheckpointError, match="segdeploy train"):
        newest_checkpoint(tmp_path)


@pytest.fixture
def exports(tmp_path, make_manifest):
    def write(folder):
        (folder / "model.onnx").write_bytes(b"x")
        return make_manifest()

    for name in ("a/onnx-fp32", "a/torchscript-fp32", "b/onnx-fp32"):
        write_artifact(tmp_path / name, write)
    return tmp_path


def folders(artifacts, root):
    return [artifact.folder.relative_to(root).as_posix() for artifact in artifacts]


def test_all_by_default(exports):
    """Nothing named: everything under the root."""
    assert folders(named_artifacts((), exports), exports) == ["a/onnx-fp32", "a/torchscript-fp32", "b/onnx-fp32"]


def test_a_folder_stands_for_all_in_it(exports):
    """A folder of artifacts and a single artifact can both be named."""
    found = named_artifacts((exports / "b" / "onnx-fp32", exports / "a"), exports)
    assert folders(found, exports) == ["b/onnx-fp32", "a/onnx-fp32", "a/torchscript-fp32"]


def test_none(tmp_path):
    """No artifact, named or not, is an ArtifactError."""
    with pytest.raises(ArtifactError, match="segdeploy export"):
        named_artifacts((), tmp_path)
    with pytest.raises(ArtifactError, match="no such folder"):
        named_artifacts((tmp_path / "none",), tmp_path)


def test_one_that_is_named_and_broken_has_its_place(exports):
    """Named by itself, beside one that opens: neither costs the other."""
    broken, good = exports.parent / "broken", next(exports.glob("**/manifest.json")).parent
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    first, second = named_artifacts((broken, good))
    assert (first.folder, first.manifest) == (broken, None)
    assert second.folder == good
