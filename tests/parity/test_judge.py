"""What is handed on to the parts of a verdict."""

import warnings

import numpy as np
import pytest

from segdeploy.artifact.verdict import Tolerance
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
