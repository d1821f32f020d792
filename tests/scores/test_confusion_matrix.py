import numpy as np
import pytest

from segdeploy.base.errors import InputError
from segdeploy.scores.confusion_matrix import ConfusionMatrix


def mmseg_scores(pairs, classes, nan_to_num=None):
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
    scores = IoUMetric.total_area_to_metrics(*totals, ["mIoU"], nan_to_num)
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


@pytest.mark.parametrize("nan_to_num", [None, 0, -1])
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
def test_equals_mmsegs_metric(case, nan_to_num):
    """aAcc, each class's IoU and accuracy, and the means are those of mmseg's IoUMetric on the same label maps."""
    pairs = random_pairs(**case)
    matrix = ConfusionMatrix(case["classes"], 255, nan_to_num)
    for prediction, label in pairs:
        matrix.add(prediction, label, "test")
    names = tuple(f"c{i}" for i in range(case["classes"]))
    result = matrix.evaluation(names)
    aacc, iou, acc = mmseg_scores(pairs, case["classes"], nan_to_num)
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
    assert int(matrix.counts[0, 0]) == 2**53 + 1  # not numpy's ==, which compares as float64


@pytest.mark.filterwarnings("error")
def test_void_alone_gives_no_score():
    """An image of nothing but void neither counts nor fails, and numpy has nothing to warn of."""
    matrix = ConfusionMatrix(2, 255)
    matrix.add(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8), "test")
    result = matrix.evaluation(("a", "b"))
    assert np.isnan(result.miou)
    assert np.isnan([result.macc, result.aacc]).all()
    assert [(one.name, one.iou, one.acc, one.pixels) for one in result.classes] == [("a", None, None, 0), ("b", None, None, 0)]
    assert result.images == 1


def test_void_alone_among_others():
    """What is void is not looked at: neither a prediction there, nor how often."""
    matrix = ConfusionMatrix(3, 7)
    matrix.add(np.array([[1, 0, 1]], np.uint8), np.array([[1, 7, 0]], np.uint8), "test")
    assert matrix.counts.tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert (matrix.evaluation(("a", "b", "c")).aacc, matrix.images) == (50, 1)


def test_parts_add_up():
    """Counted in parts and merged, it is what it is counted in one go, the number of images too."""
    pairs = random_pairs(5)
    whole, first, second = (ConfusionMatrix(5, 255) for _ in range(3))
    for index, (prediction, label) in enumerate(pairs):
        whole.add(prediction, label, "test")
        (first if index else second).add(prediction, label, "test")
    first.merge(second.counts, second.images)
    assert (first.counts == whole.counts).all()
    assert (first.images, second.images, whole.images) == (3, 1, 3)


@pytest.mark.parametrize("value", [5, 6, 254, -1, 300])
def test_a_label_that_is_no_class(value):
    """A data set with other classes than the model's is said, with the value and the file, and nothing is counted."""
    label = np.array([[0, 4], [255, value]], np.int32)
    matrix = ConfusionMatrix(5, 255)
    with pytest.raises(InputError) as caught:
        matrix.add(np.zeros((2, 2), np.uint8), label, "'x.png'")
    assert str(caught.value) == (
        f"expected labels 0..4 or 255 (void) for 'x.png'; got the value {value}; "
        "check that the data set's classes are the model's"
    )
    assert (matrix.counts.sum(), matrix.images) == (0, 0)


def test_mmsegs_void_where_another_label_is_ignored():
    """The remedy is another one: it is the evaluator's index that does not fit, and not the classes."""
    with pytest.raises(InputError) as caught:
        ConfusionMatrix(5, 254).add(np.zeros((1, 1), np.uint8), np.full((1, 1), 255, np.uint8), "x")
    assert str(caught.value) == (
        "expected labels 0..4 or 254 (void) for x; got the value 255; "
        "where 255 is void too, the config's IoUMetric needs ignore_index=255"
    )


def test_a_label_of_another_size():
    """A label map that does not belong to the image is an error, sizes as width x height."""
    with pytest.raises(InputError) as caught:
        ConfusionMatrix(5, 255).add(np.zeros((2, 3), np.uint8), np.zeros((4, 2), np.uint8), "x")
    assert str(caught.value) == (
        "expected a label map of 3x2 for x, the image's size; got 2x4; check that images and labels belong together"
    )


def test_names_are_as_many_as_classes():
    """Scores under the wrong names are worse than none."""
    with pytest.raises(ValueError, match="zip"):
        ConfusionMatrix(3, 255).evaluation(("a", "b"))
