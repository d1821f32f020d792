import shutil

import cv2
import msgspec
import numpy as np
import pytest

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import InputError
from segdeploy.images.dataset import find_samples
from segdeploy.images.decode import read_image
from segdeploy.runtime import open_session
from segdeploy.runtime.augment import Augmentation
from segdeploy.runtime.evaluation import evaluate, evaluate_artifact, tally
from segdeploy.runtime.open import eager_artifact
from segdeploy.runtime.predictor import with_inference


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


@pytest.fixture
def changed_labels(labelled_root, tmp_path):
    """A copy of the labelled set; what is given replaces single label maps."""

    def change(**labels):
        root = shutil.copytree(labelled_root, tmp_path / "data")
        for name, label in labels.items():
            cv2.imwrite(str(root / "ann_dir" / "val" / f"{name.strip('_')}.png"), label)
        return root

    return change


def with_value(root, name, value):
    label = cv2.imread(str(root / "ann_dir" / "val" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    label[0, 0] = value
    return label


def test_labels_of_another_data_set(eager, labelled_root, changed_labels):
    """Labels that the model has no class for are an error that names the file, not a score."""
    root = changed_labels(_1=with_value(labelled_root, "1", 77))
    with pytest.raises(InputError, match=r"1\.png.*got the value 77"):
        evaluate(eager, find_samples(root, "val"))


def test_no_prediction_is_spent_on_a_bad_label_map(onnx_artifact, labelled_root, changed_labels, monkeypatch):
    """A data set of other classes is found out at the speed of reading it."""
    monkeypatch.setattr("segdeploy.runtime.tally.predict_augmented", lambda *_: pytest.fail("predicted"))
    root = changed_labels(_1=with_value(labelled_root, "1", 77))
    found = tally(onnx_artifact, [one for one in find_samples(root, "val") if one.name == "1"], device="cpu", threads=1)
    assert len(found.problems) == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_one_bad_image_costs_itself_only(onnx_artifact, labelled_root, changed_labels, processes):
    """Others are counted as if it were not there; every problem is kept, in the data set's order."""
    root = changed_labels(_1=with_value(labelled_root, "1", 5), _4=np.zeros((9, 9), np.uint8))
    (root / "img_dir" / "val" / "2.png").write_bytes(b"no image")
    samples = find_samples(root, "val")
    found = tally(onnx_artifact, samples, device="cpu", threads=1, processes=processes)
    assert [one.sample.name for one in found.problems] == ["1", "2", "4"]
    told = [str(one.error) for one in found.problems]
    assert "ann_dir/val/1.png'; got the value 5" in told[0]
    assert "2.png" in told[1]
    assert "a label map of 77x77" in told[2]
    good = tally(onnx_artifact, [one for one in samples if one.name in "035"], device="cpu", threads=1)
    assert found.matrix.images == 3
    assert (found.matrix.counts == good.matrix.counts).all()


@pytest.mark.parametrize("processes", [1, 2])
def test_the_limit_of_pixels_reaches_the_decoder(onnx_artifact, labelled_root, processes):
    """Pictures above it, and they alone, are not decoded; the default lets all of them pass."""
    samples = find_samples(labelled_root, "val")
    pixels = {one.name: read_image(one.image)[..., 0].size for one in samples}
    limit = sorted(pixels.values())[2]
    found = tally(onnx_artifact, samples, device="cpu", threads=1, processes=processes, max_pixels=limit)
    assert [one.sample.name for one in found.problems] == [name for name, count in pixels.items() if count > limit] != []
    assert all("--max-pixels" in str(one.error) for one in found.problems)


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation((1.0, 1.5), flip=True)])
def test_processes_count_the_same(onnx_artifact, labelled_root, augmentation):
    """Two processes, and more than there are images: the same integers as one."""
    samples = find_samples(labelled_root, "val")
    one = tally(onnx_artifact, samples, device="cpu", threads=1, augmentation=augmentation)
    for processes in (2, 9)[: 1 if augmentation.flip else 2]:
        several = tally(
            onnx_artifact, samples[:3] if processes == 9 else samples, device="cpu", threads=1, processes=processes,
            augmentation=augmentation,
        )  # fmt: skip
        expected = one if processes == 2 else tally(onnx_artifact, samples[:3], device="cpu", threads=1)
        assert several.matrix.images == expected.matrix.images
        assert (several.matrix.counts == expected.matrix.counts).all()
        assert several.device == f"cpu, {min(processes, 3 if processes == 9 else 6)} processes"


def test_an_override_reaches_the_workers(onnx_artifact, labelled_root):
    """Crops instead of whole images give other counts, and the same in one process and in two."""
    samples = find_samples(labelled_root, "val")
    sliding = with_inference(onnx_artifact, "slide", (48, 48), (32, 32))
    whole, one, two = (
        tally(artifact, samples, device="cpu", threads=1, processes=processes).matrix.counts
        for artifact, processes in ((onnx_artifact, 1), (sliding, 1), (sliding, 2))
    )
    assert (one == two).all()
    assert (one != whole).any()


def test_an_error_in_a_worker_is_the_same_line(checkpoint_path, onnx_artifact, labelled_root, tmp_path):
    """A model that cannot be opened: what one process says, several say, with the same type."""
    samples = find_samples(labelled_root, "val")
    folder = tmp_path / "broken"
    shutil.copytree(onnx_artifact.folder, folder)
    (folder / "model.onnx").write_bytes(b"no model")
    broken = Artifact(folder, onnx_artifact.manifest)
    unknown = Artifact(onnx_artifact.folder, msgspec.structs.replace(onnx_artifact.manifest, format="tensorflow"))
    for artifact in (broken, unknown):
        told = []
        for processes in (1, 2):
            with pytest.raises(Exception) as caught:
                tally(artifact, samples, device="cpu", threads=1, processes=processes)
            told.append((type(caught.value), str(caught.value), caught.value.fix))
        assert told[0] == told[1]


def test_void_alone(onnx_artifact, labelled_root, changed_labels):
    """Images without one labelled pixel have no scores; they count as images, and are no problem."""
    sizes = {
        f"_{i}": np.full(cv2.imread(str(labelled_root / f"ann_dir/val/{i}.png"), 0).shape, 255, np.uint8) for i in range(6)
    }
    root = changed_labels(**sizes)
    report = evaluate_artifact(
        onnx_artifact, find_samples(root, "val"), root=root, split="val", total=6, device="cpu", threads=1
    )
    assert (report.images, report.complete) == (6, True)
    assert report.miou is report.macc is report.aacc is None
    assert all(one.iou is one.acc is None and one.pixels == 0 for one in report.classes)
    assert np.array(report.confusion).sum() == 0


def test_a_class_that_never_occurs(onnx_artifact, labelled_root, run_mmseg, checkpoint_path, changed_labels):
    """It has no score and no part in the mean where it is not predicted either: as mmseg's Runner."""
    labels = {}
    for index in range(6):
        label = cv2.imread(str(labelled_root / "ann_dir" / "val" / f"{index}.png"), cv2.IMREAD_UNCHANGED)
        label[label == 3] = 255
        labels[f"_{index}"] = label
    root = changed_labels(**labels)
    report = evaluate_artifact(
        onnx_artifact, find_samples(root, "val"), root=root, split="val", total=6, device="cpu", threads=1
    )
    expected = run_mmseg(checkpoint_path, data_root=root)
    assert {"aAcc": report.aacc, "mIoU": report.miou, "mAcc": report.macc} == pytest.approx(expected, abs=0.01)
    assert report.classes[3].acc is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((None,), ("whole", None, None)),
        (("whole",), ("whole", None, None)),
        (("slide",), ("slide", (64, 96), (43, 64))),  # what it was exported for, two thirds of that
        ((None, (60, 60)), ("slide", (60, 60), (40, 40))),
        (("slide", (60, 60), (60, 20)), ("slide", (60, 60), (60, 20))),
    ],
)
def test_inference_can_be_overridden(onnx_artifact, arguments, expected):
    """Mode, crop and stride, with defaults that fit the model."""
    inference = with_inference(onnx_artifact, *arguments).manifest.inference
    assert (inference.mode, inference.crop, inference.stride) == expected


def test_own_crops_are_kept(onnx_artifact):
    """A model that is run in crops keeps them unless told otherwise; a new crop does not keep the old stride."""
    own = with_inference(onnx_artifact, "slide", (90, 90), (10, 20))
    assert with_inference(own, None).manifest == own.manifest
    assert with_inference(own, None, None, (30, 30)).manifest.inference.crop == (90, 90)
    assert with_inference(own, None, (60, 60)).manifest.inference.stride == (40, 40)
    assert with_inference(own, "whole").manifest.inference.mode == "whole"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("whole", (60, 60)), "--mode slide"),
        (("slide", (60, 60), (61, 60)), "a stride of at most 60x60"),
        (("slide", None, (1, 97)), "64x96"),
    ],
)
def test_overrides_that_contradict(onnx_artifact, arguments, told):
    """A crop of a whole image, and a stride that would leave pixels out."""
    with pytest.raises(InputError, match=told):
        with_inference(onnx_artifact, *arguments)
