"""Where labels flip, against scipy's distance transform and cases made by hand."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_cdt

from segdeploy.parity.flips import BAND_PIXELS, FlipCount, border_band


def blobs():
    labels = np.zeros((40, 50), np.uint8)
    labels[5:20, 8:30] = 1
    labels[25:39, 33:50] = 2
    return labels


def test_band():
    """The band is what lies within so many pixels of another label, by chessboard distance."""
    labels = blobs()
    nearest = np.full(labels.shape, 99)
    for value in np.unique(labels):
        away = distance_transform_cdt(labels == value, "chessboard")
        nearest = np.where(labels == value, away, nearest)
    assert np.array_equal(border_band(labels), nearest <= BAND_PIXELS)


def test_counts():
    """One flip at a border that the error explains, one in the middle of an object that it does not."""
    reference, candidate = blobs(), blobs()
    candidate[5, 8] = 0
    candidate[12, 18] = 2
    count = FlipCount(3)
    count.add(reference, candidate, np.array([1e-6, 3.0]), error=1e-5)
    count.add(reference, reference, None, error=1e-5)
    figures = count.figures()
    assert (figures.differ, figures.band, figures.interior, figures.firm) == (2, 1, 1, 1)
    assert figures.pixels == 2 * reference.size
    assert figures.agreement == 1 - 2 / figures.pixels
    assert figures.margin_max == 3.0
    assert figures.classes == (0, 2, 0)


def test_margin_that_is_no_number():
    """A reference that was NaN there held it by nothing that could be explained."""
    reference = np.zeros((8, 8), np.uint8)
    count = FlipCount(2)
    count.add(reference, np.ones_like(reference), np.full(64, np.nan), error=0.1)
    assert count.figures().firm == 64
    assert np.isfinite(count.figures().margin_max)


def test_firm_is_more_than_two_errors_can_explain():
    """Two logits that each moved by the error can close a lead of twice that, and no more."""
    reference = np.zeros((1, 4), np.uint8)
    count = FlipCount(2)
    count.add(reference, np.ones_like(reference), np.array([0.0, 0.5, 0.51, 9.0]), error=0.25)
    assert count.figures().firm == 2


def test_images_add_up():
    """Each image is counted once; one without a flip adds its pixels alone."""
    reference, first, second = np.array([[0, 1, 2, 2]], np.uint8), np.array([[1, 1, 2, 2]]), np.array([[0, 2, 1, 2]])
    count = FlipCount(3)
    count.add(reference, first, np.array([0.5]), error=0.01)
    assert count.figures().margin_max == 0.5
    count.add(reference, second, np.array([0.02, 0.3]), error=0.01)
    count.add(reference, reference, np.array([]), error=0.01)
    figures = count.figures()
    assert (figures.pixels, figures.differ, figures.band, figures.interior, figures.firm) == (12, 3, 3, 0, 2)
    assert (figures.classes, figures.margin_max) == ((1, 1, 1), 0.5)
    assert figures.agreement == 1 - 3 / 12


def test_ties_do_not_count_against_agreement():
    """Up to the tie's margin, that margin included, nobody can tell the two labels apart; in several images."""
    reference = np.zeros((1, 4), np.uint8)
    count = FlipCount(2)
    for margins in ([0.0, 0.1, 0.2, 0.3], [0.1, 0.1, 0.5, 0.5]):
        count.add(reference, np.ones_like(reference), np.array(margins), error=1.0, tie=0.1)
    figures = count.figures()
    assert (figures.differ, figures.ties, figures.agreement) == (8, 4, 1 - 4 / 8)
