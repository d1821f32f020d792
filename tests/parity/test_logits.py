"""Figures of logit differences, against numpy and scipy on all values at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cosine

from segdeploy.parity.logits import LARGEST, LogitErrors


def batches(spread=1e-3, count=5):
    random = np.random.default_rng(1)
    reference = [random.normal(0, 4, (2, 3, 7, 9)).astype(np.float32) for _ in range(count)]
    return reference, [(one + random.normal(0, spread, one.shape)).astype(np.float32) for one in reference]


def collected(reference, candidate):
    errors = LogitErrors()
    for pair in zip(reference, candidate, strict=True):
        errors.add(*pair)
    return errors.figures()


@pytest.mark.parametrize("spread", [1e-6, 1e-3, 0.5])
def test_figures(spread):
    """Every figure is what numpy says of all batches together."""
    reference, candidate = batches(spread)
    figures = collected(reference, candidate)
    theirs, ours = (np.concatenate(part).astype(np.float64) for part in (reference, candidate))
    error = np.abs(ours - theirs)
    assert figures.max_abs == pytest.approx(error.max())
    assert figures.mean_abs == pytest.approx(error.mean())
    assert figures.p99_abs == pytest.approx(np.quantile(error, 0.99), rel=0.06)
    assert figures.p99_abs >= np.quantile(error, 0.985)
    assert figures.scale == np.abs(theirs).max()
    assert figures.relative_l2 == pytest.approx(np.linalg.norm(error) / np.linalg.norm(theirs))
    assert 1 - figures.cosine == pytest.approx(cosine(ours.ravel(), theirs.ravel()), abs=1e-12)
    assert figures.psnr_db == pytest.approx(20 * np.log10(np.abs(theirs).max()) - 10 * np.log10((error**2).mean()))
    assert figures.class_max_abs == pytest.approx(tuple(error.max(axis=(0, 2, 3))))
    assert figures.not_finite == 0


def test_decades():
    """The histogram counts by order of magnitude, and nothing is left out."""
    reference = np.zeros((1, 1, 1, 6), np.float32)
    candidate = np.array([0, 3e-12, 2e-5, 5e-5, 0.3, 4e5], np.float32).reshape(reference.shape)
    assert collected([reference], [candidate]).decades == (
        (-9, 2), (-8, 0), (-7, 0), (-6, 0), (-5, 2), (-4, 0), (-3, 0), (-2, 0), (-1, 1), (0, 0), (1, 0), (2, 1),
    )  # fmt: skip


def test_equal():
    """No difference: no error, full agreement, no PSNR."""
    reference, _ = batches()
    figures = collected(reference, reference)
    assert (figures.max_abs, figures.mean_abs, figures.p99_abs, figures.relative_l2) == (0, 0, 0, 0)
    assert figures.cosine == pytest.approx(1)
    assert figures.psnr_db is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_not_finite(value, side):
    """NaN and infinity on either side are counted, are the largest error, and stay numbers that JSON can hold."""
    import msgspec

    reference, candidate = batches()
    (reference, candidate)[side][2][0, 1, 3, 3] = value
    figures = collected(reference, candidate)
    assert figures.not_finite == 1
    assert figures.max_abs == figures.class_max_abs[1] == LARGEST
    assert figures.class_max_abs[0] < 1
    assert msgspec.json.decode(msgspec.json.encode(figures), type=type(figures)) == figures
