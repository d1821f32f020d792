import pytest

from segdeploy.core.dataset import find_samples
from segdeploy.core.errors import InputError
from segdeploy.runtime import open_session
from segdeploy.runtime.evaluate import evaluate
from segdeploy.runtime.open import eager_artifact


def scores(result):
    return {"aAcc": result.aacc, "mIoU": result.miou, "mAcc": result.macc}


@pytest.mark.parametrize("backend", ["eager", "onnx", "torchscript"])
def test_is_mmsegs_runner(request, backend, runner_scores, labelled_root):
    """On pictures of different sizes with void: mmseg's own Runner.test() to the last digit that it prints."""
    samples = find_samples(labelled_root, "val")
    if backend == "eager":
        result = evaluate(request.getfixturevalue("eager"), samples)
    else:
        with open_session(request.getfixturevalue(f"{backend}_artifact"), "cpu") as session:
            result = evaluate(session, samples)
    assert result.images == len(samples)
    assert scores(result) == pytest.approx(runner_scores, abs=0.01)
    assert 20 < result.miou < 99, "a score at either end would prove little"


@pytest.mark.shared
def test_is_mmsegs_runner_on_real_data(shared, run_mmseg):
    """On real photographs with a real checkpoint: mmseg's own Runner.test() to the last digit that it prints."""
    path, root = shared / "checkpoints" / "camvid_upernet_r18.pth", shared / "data" / "camvid"
    expected = run_mmseg(path, data_root=root, indices=8)
    with open_session(eager_artifact(path), "cpu") as session:
        result = evaluate(session, find_samples(root, "val")[:8])
    assert scores(result) == pytest.approx(expected, abs=0.01)


def test_what_was_seen(eager, labelled_root):
    """Each sample, its picture and its labels reach the caller, in order."""
    samples = find_samples(labelled_root, "val")[:2]
    seen = []
    evaluate(eager, samples, seen=lambda sample, image, labels: seen.append((sample, image.shape[:2], labels.shape)))
    assert [sample for sample, _, _ in seen] == samples
    assert all(image == labels for _, image, labels in seen)


def test_labels_of_another_data_set(eager, labelled_root, tmp_path):
    """Labels that the model has no class for are an error that names the file, not a score."""
    import shutil

    import cv2

    root = shutil.copytree(labelled_root, tmp_path / "data")
    label = root / "ann_dir" / "val" / "1.png"
    values = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
    values[0, 0] = 77
    cv2.imwrite(str(label), values)
    with pytest.raises(InputError, match=r"1\.png.*got the value 77"):
        evaluate(eager, find_samples(root, "val"))
