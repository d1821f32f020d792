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


def test_of_zeros():
    """Where the reference is zero throughout there is no relative error, and no angle: exact or as wrong as can be."""
    zeros, ones = np.zeros((1, 2, 3, 3), np.float32), np.ones((1, 2, 3, 3), np.float32)
    figures = collected([zeros], [zeros])
    assert (figures.relative_l2, figures.cosine, figures.psnr_db) == (0, 1, None)
    figures = collected([zeros], [ones])
    assert (figures.relative_l2, figures.cosine, figures.psnr_db) == (LARGEST, 0, None)
    figures = collected([zeros], [np.full_like(zeros, np.nan)])
    assert (figures.relative_l2, figures.cosine, figures.psnr_db, figures.not_finite) == (LARGEST, 0, None, 18)


def test_what_is_not_finite_counts_for_nothing_else():
    """The lengths, the angle and the largest logit are those of the other values."""
    reference, candidate = batches(0.1)
    spoiled = [one.copy() for one in candidate]
    spoiled[0][0, 0, 0, 0] = np.inf
    zeroed = [(one.copy(), other.copy()) for one, other in zip(reference, candidate, strict=True)]
    for one in zeroed[0]:
        one[0, 0, 0, 0] = 0
    figures, without = collected(reference, spoiled), collected(*zip(*zeroed, strict=True))
    assert (figures.relative_l2, figures.cosine) == pytest.approx((without.relative_l2, without.cosine), rel=1e-12)
    assert figures.scale == without.scale


@pytest.mark.parametrize("error", [1e-12, 1.01e-9, 1.04e-9, 1.06e-9, 0.013, 940.0, 960.0, 1e4])
def test_the_quantile_of_one_error(error):
    """At the ends of the bins, and beyond them: as large as the error, or by 5 % more where it lies in a bin, never less."""
    zeros = np.zeros((1, 1, 20, 20), np.float32)
    figures = collected([zeros], [np.full_like(zeros, error)])
    assert np.float32(error) <= figures.p99_abs <= 1.05 * np.float32(error)
    (decade,) = [decade for decade, count in figures.decades if count]
    assert decade == min(max(np.floor(np.log10(error)), -9), 2)


def test_classes_of_no_error():
    """The largest error of each class, of as many as there are."""
    reference, _ = batches(count=2)
    assert collected(reference, reference).class_max_abs == (0, 0, 0)
