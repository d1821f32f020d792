import numpy as np
import pytest

from segdeploy.base.errors import InputError
from segdeploy.scores.confusion_matrix import ConfusionMatrix


def mmseg_scores(pairs, classes):
    """mmseg's own IoUMetric on the same label maps: (aAcc, IoU a class, Acc a class), fractions."""
    import torch

    from segdeploy.models.packages import load_mmseg

    load_mmseg()
    from mmseg.evaluation.metrics import IoUMetric

    parts = [
        IoUMetric.intersect_and_union(torch.tensor(prediction), torch.tensor(label), classes, 255)
        for prediction, label in pairs
    ]
    totals = [sum(part) for part in zip(*parts, strict=True)]
    scores = IoUMetric.total_area_to_metrics(*totals, ["mIoU"])
    return scores["aAcc"], scores["IoU"], scores["Acc"]


def random_pairs(classes, *, absent=(), unlabelled=(), seed=0):
    random = np.random.default_rng(seed)
    pairs = []
    for height, width in ((20, 30), (31, 17), (40, 40)):
        label = random.integers(0, classes, (height, width)).astype(np.uint8)
        prediction = np.where(random.random((height, width)) < 0.6, label, random.integers(0, classes, (height, width)))
        for gone in (*absent, *unlabelled):
            label[label == gone] = 0
        for gone in absent:
            prediction[prediction == gone] = 0
        label[random.random((height, width)) < 0.1] = 255
        pairs.append((prediction.astype(np.uint8), label))
    return pairs


@pytest.mark.parametrize(
    "case",
    [
        {"classes": 2},
        {"classes": 11},
        {"classes": 150},
        {"classes": 5, "absent": (3,)},  # neither labelled nor predicted: no IoU, and no part in the mean
        {"classes": 5, "unlabelled": (2,)},  # predicted, never labelled: IoU 0, no accuracy
    ],
)
def test_equals_mmsegs_metric(case):
    """aAcc, each class's IoU and accuracy, and the means are those of mmseg's IoUMetric on the same label maps."""
    pairs = random_pairs(**case)
    matrix = ConfusionMatrix(case["classes"], 255)
    for prediction, label in pairs:
        matrix.add(prediction, label, "test")
    names = tuple(f"c{i}" for i in range(case["classes"]))
    result = matrix.evaluation(names)
    aacc, iou, acc = mmseg_scores(pairs, case["classes"])
    assert result.images == len(pairs)
    assert result.aacc == pytest.approx(100 * float(aacc), abs=1e-4)
    assert result.miou == pytest.approx(100 * float(np.nanmean(iou)), abs=1e-4)
    assert result.macc == pytest.approx(100 * float(np.nanmean(acc)), abs=1e-4)
    for one, expected_iou, expected_acc in zip(result.classes, iou, acc, strict=True):
        assert (one.iou is None) == bool(np.isnan(expected_iou))
        assert (one.acc is None) == bool(np.isnan(expected_acc))
        assert one.iou is None or one.iou == pytest.approx(100 * float(expected_iou), abs=1e-4)
        assert one.acc is None or one.acc == pytest.approx(100 * float(expected_acc), abs=1e-4)
    assert [one.pixels for one in result.classes] == [
        sum(int((label == index).sum()) for _, label in pairs) for index in range(case["classes"])
    ]


def test_counts_are_exact_beyond_32_bits():
    """The counts do not wrap or round where a data set has more pixels than 2**32."""
    matrix = ConfusionMatrix(2, 255)
    matrix.counts[0, 0] = 2**53
    matrix.add(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), "test")
    assert matrix.counts[0, 0] == 2**53 + 1


def test_void_alone_gives_no_score():
    """An image of nothing but void neither counts nor fails."""
    matrix = ConfusionMatrix(2, 255)
    matrix.add(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8), "test")
    result = matrix.evaluation(("a", "b"))
    assert np.isnan(result.miou)
    assert all(one.iou is None for one in result.classes)


@pytest.mark.parametrize("value", [5, 254])
def test_a_label_that_is_no_class(value):
    """A data set with other classes than the model's is said, with the value and the file, not counted."""
    with pytest.raises(InputError, match=f"the value {value}") as caught:
        ConfusionMatrix(5, 255).add(np.zeros((2, 2), np.uint8), np.full((2, 2), value, np.uint8), "'x.png'")
    assert "'x.png'" in str(caught.value)


def test_a_label_of_another_size():
    """A label map that does not belong to the image is an error, sizes as width x height."""
    with pytest.raises(InputError, match="3x2.*got 2x3"):
        ConfusionMatrix(5, 255).add(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), "x")
