"""What is handed on to the parts of a verdict."""

import warnings

import numpy as np
import pytest

from segdeploy.artifact.verdict import TaskParity, Tolerance
from segdeploy.base.errors import InputError
from segdeploy.parity.determinism import _between
from segdeploy.parity.inputs import Picture
from segdeploy.parity.judge import Judge
from segdeploy.parity.sessions import Call
from segdeploy.runtime import Prediction

TOLERANCE = Tolerance(logits_max_abs=1e-4, mask_agreement=0.9, miou_points=0.1)


@pytest.mark.parametrize("fitted", [False, True])
def test_void_is_the_models(make_manifest, fitted):
    """A model may have another void than 255: its pixels count for neither model, with or without a fit."""
    truth = np.zeros((8, 8), np.uint8)
    truth[:4], truth[0] = 1, 77
    labels = np.where(truth == 77, 0, truth).astype(np.uint8)
    picture = Picture("p", lambda: pytest.fail("read"), lambda: b"", lambda: truth)
    judge = Judge(make_manifest(ignore_index=77), TOLERANCE)
    if fitted:
        judge.add_fitted(picture, labels, labels, labels, logits=lambda: pytest.fail("asked for"))
        assert judge.fit().miou_reference == 100
    else:
        judge.add_labels(picture, labels, labels, lambda: pytest.fail("asked for"))
        assert judge.fit() is None
    task = judge.task()
    assert (task.miou_reference, task.miou_candidate) == (100, 100)
    assert [one.images for one in task.classes] == [1, 1, 0]


def test_nan_in_one_run_is_told_without_a_warning(make_manifest):
    """The difference is the largest there is, and twice the largest float32 is none."""
    logits = np.zeros((1, 3, 4, 4), np.float32)
    logits[0, 1] = 2.0
    spoiled = logits.copy()
    spoiled[0, 1] = np.nan
    image = np.zeros((1, 4, 4, 3), np.uint8)
    one = Call(image, Prediction(np.ones((1, 4, 4), np.uint8), logits))
    other = Call(image, Prediction(np.zeros((1, 4, 4), np.uint8), spoiled))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _between(one, other, 0, make_manifest())
    assert (found.labels, found.logits > 1e38) == (16, True)


def call(logits, value=0):
    """A forward pass: logits [N, 3, 4, 4], their masks, and images of one value."""
    count = len(logits)
    masks = logits.argmax(1).astype(np.uint8)
    return Call(np.full((count, 4, 4, 3), value, np.uint8), Prediction(masks, logits))


def sure(count, label=1):
    """Logits [N, 3, 4, 4] that hold one label by 2."""
    logits = np.zeros((count, 3, 4, 4), np.float32)
    logits[:, label] = 2.0
    return logits


def off(logits, image, by):
    """One logit of one image is off."""
    other = logits.copy()
    other[image, 2, 0, 0] += by
    return other


def picture(truth=None):
    return Picture("p", lambda: pytest.fail("read"), lambda: b"", None if truth is None else lambda: truth)


def test_a_shape_is_judged_by_what_was_added_to_it(make_manifest):
    """Own sizes first, where there were any; then the shapes in their order, each with its own images and verdict."""
    judge = Judge(make_manifest(), TOLERANCE)
    judge.begin_shape((2, 16, 24))
    judge.add_calls(["a", "b"], [call(sure(2))], [call(sure(2))])
    judge.begin_shape((1, 16, 16))
    judge.add_calls(["a"], [call(sure(1))], [call(off(sure(1), 0, 1e-2))])
    assert [(one.shape, one.images, one.verdict) for one in judge.shapes()] == [
        ((2, 16, 24), 2, "passed"),
        ((1, 16, 16), 1, "failed"),
    ]
    judge.add_own(["a"], [call(sure(1))], [call(sure(1))])
    judge.add_own(["b", "c"], [call(sure(2))], [call(sure(2))])
    assert [(one.shape, one.images) for one in judge.shapes()] == [(None, 3), ((2, 16, 24), 2), ((1, 16, 16), 1)]


def test_a_pass_more_or_less_is_no_pair(make_manifest):
    """Both are asked the same: a pass of one alone is not left out in silence."""
    judge = Judge(make_manifest(), TOLERANCE)
    with pytest.raises(ValueError, match="zip"):
        judge.add_own(["a"], [call(sure(1))] * 2, [call(sure(1))])


def test_the_largest_error_of_all_passes(make_manifest):
    """Of every pass, not of the last one; what is no number is judged elsewhere, and hides no other."""
    judge = Judge(make_manifest(), TOLERANCE)
    spoiled = off(sure(2), 1, 0.25)
    spoiled[0, 0, 0, 0] = np.nan
    passes = [off(sure(2), 0, 0.125), spoiled, off(sure(2), 0, -0.0625)]
    assert judge.add_own(["a", "b"], [call(sure(2))] * 3, [call(one) for one in passes]) == 0.25
    assert judge.add_own(["a", "b"], [call(sure(2))], [call(sure(2))]) == 0


def test_no_number_anywhere_gives_no_warning(make_manifest):
    """A pass in which nothing is a number fails, and nobody is warned of it."""
    judge = Judge(make_manifest(), TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (np.inf, np.nan):
            spoiled = np.full((1, 3, 4, 4), value, np.float32)
            with np.errstate(invalid="ignore"):
                assert judge.add_own(["a"], [call(spoiled)], [call(spoiled)]) == 0
    assert judge.shapes()[0].verdict == "failed"


def test_the_worst_image_is_kept_as_it_was(make_manifest):
    """Picture, labels of both and the reference's logits, of the image that is worst of all, whatever happens to the arrays."""
    judge = Judge(make_manifest(), TOLERANCE)
    judge.add_own(["a", "b"], [call(sure(2))], [call(sure(2))])
    assert judge.worst is None
    judge.add_own(["little"], [call(sure(1))], [call(off(sure(1), 0, 2.0**-10))])
    assert (judge.worst.name, judge.worst.badness) == ("little", 2.0**-10)
    theirs, ours = call(sure(4), 7), call(off(sure(4), 3, 4.0), 7)
    ours.images[3] = theirs.images[3] = 9
    judge.add_own(["a", "b"], [theirs], [ours])  # windows: more images than pictures
    judge.add_own(["c"], [call(sure(1))], [call(off(sure(1), 0, 0.5))])
    judge.add_own(["d"], [call(sure(1))], [call(off(sure(1), 0, 4.0))])  # as bad: the first stays
    for array in (theirs.images, theirs.prediction.mask, theirs.prediction.logits, ours.prediction.mask):
        array[:] = 0
    worst = judge.worst
    assert (worst.name, worst.badness) == ("b", 1 + 1 / 16)
    assert (worst.image.shape, set(worst.image.ravel())) == ((4, 4, 3), {9})
    assert (worst.reference.tolist(), worst.candidate[0, 0]) == ([[1] * 4] * 4, 2)
    np.testing.assert_array_equal(worst.logits, sure(1)[0])


def test_the_worst_labels(make_manifest):
    """Labels alone replace those that differ less; where nothing differs there is no worst."""
    judge = Judge(make_manifest(), TOLERANCE)
    image, theirs, ours = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    judge.keep_worst("none", image, theirs, ours, 0.0)
    assert judge.worst is None
    for name, badness in (("a", 0.25), ("b", 0.5), ("c", 0.5), ("d", 0.25)):
        judge.keep_worst(name, image, theirs, ours, badness)
    worst = judge.worst
    assert (worst.name, worst.badness, worst.logits) == ("b", 0.5, None)
    assert worst.image is image
    assert worst.reference is theirs
    assert worst.candidate is ours


def test_the_way_is_told_of_the_first_picture(make_manifest):
    """Another size by both sizes, other pixels by how many; nothing where it is the same, or nobody knows mmseg's."""
    image = np.zeros((4, 6, 3), np.uint8)
    moved = image.copy()
    moved[0, :2], moved[3, 3, 1] = 1, 1
    judge = Judge(make_manifest(), TOLERANCE)
    judge.note_way("a", image, None)
    judge.note_way("b", image, image.copy())
    assert judge.way == ""
    judge.note_way("c", image, moved)
    judge.note_way("d", image, image[:3])
    start = "comes to the network resized in another way: "
    assert judge.way == f"c {start}3 pixels are others than mmseg's pipeline makes"
    other = Judge(make_manifest(), TOLERANCE)
    other.note_way("d", image, image[:3])
    assert other.way == f"d {start}4x6, mmseg's pipeline makes 3x6 of it"


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(("error", "verdict"), [(0.0, "failed"), (3.0, "passed"), (None, "failed")])
def test_an_error_of_logits_explains_flips(make_manifest, fitted, error, verdict):
    """One label of sixteen differs where the reference was sure by 2: a logit that is off by more is behind it, or nothing."""
    judge = Judge(make_manifest(), TOLERANCE)
    theirs = np.ones((4, 4), np.uint8)
    ours = theirs.copy()
    ours[0, 0] = 2
    if fitted:
        plain = np.zeros((4, 4), np.uint8)
        plain[3, 3] = 1
        share = judge.add_fitted(picture(), plain, ours, theirs, logits=lambda: sure(1)[0], error=error)
        fit = judge.fit()
        assert (fit.images, fit.pixels, fit.differ_by_fit, fit.differ, fit.miou_reference) == (1, 16, 15, 15, None)
    else:
        share = judge.add_labels(picture(), theirs, ours, lambda: sure(1)[0], error)
    labels = judge.labels()
    assert share == 1 / 16
    assert (labels.images, labels.labels.differ, labels.verdict) == (1, 1, verdict)


def test_pictures_without_labels_say_nothing_of_the_task(make_manifest):
    """They are skipped with the reason, and in no figure."""
    judge = Judge(make_manifest(), TOLERANCE)
    judge.add_labels(picture(), np.ones((4, 4), np.uint8), np.ones((4, 4), np.uint8), lambda: pytest.fail("asked for"))
    nothing = dict.fromkeys(("miou_reference", "miou_candidate", "low", "high", "images_needed"))
    reason = "the pictures have no labels"
    assert judge.task() == TaskParity(images=0, epsilon=0.1, classes=(), verdict="skipped", reason=reason, **nothing)


def test_labelled_pictures_are_counted(make_manifest):
    """Those with a label map alone."""
    judge = Judge(make_manifest(), TOLERANCE)
    labels = np.ones((4, 4), np.uint8)
    for truth in (labels, None, labels):
        judge.add_labels(picture(truth), labels, labels, lambda: pytest.fail("asked for"))
    assert (judge.task().images, judge.labels().images) == (2, 3)


def test_a_label_map_of_another_size(make_manifest):
    """One line that names the picture, whichever side it is."""
    for height, width in ((5, 6), (4, 7), (6, 6)):
        judge = Judge(make_manifest(), TOLERANCE)
        labels = np.ones((4, 6), np.uint8)
        with pytest.raises(InputError, match="'p'"):
            judge.add_labels(picture(np.ones((height, width), np.uint8)), labels, labels, lambda: pytest.fail("asked for"))


@pytest.mark.parametrize(("nan_to_num", "miou"), [(None, 100), (0, 100 / 3), (0.5, 200 / 3)])
def test_a_class_that_does_not_occur(make_manifest, nan_to_num, miou):
    """It counts as the config says, in the verdict as in what the fit costs and in an evaluation."""
    judge = Judge(make_manifest(nan_to_num=nan_to_num), TOLERANCE)
    labels = np.ones((4, 4), np.uint8)
    judge.add_fitted(picture(labels), labels, labels, labels, logits=lambda: pytest.fail("asked for"))
    task = judge.task()
    assert (task.miou_reference, task.miou_candidate, judge.fit().miou_reference) == pytest.approx((miou,) * 3)
