"""Colours over images, and legends."""

from __future__ import annotations

import numpy as np
import pytest

from segdeploy.images.drawing import _drawable, _font, class_shares, even, overlay, with_legend
from segdeploy.images.palette import distinct_palette

NAMES = ("background", "a class with a rather long name that goes on", "猫", "d")


def test_shares():
    """Most frequent first, absent classes left out, void counted as area but not as a class."""
    labels = np.array([[0, 0, 2], [2, 2, 255]], np.uint8)
    assert class_shares(labels, 4) == {2: 3 / 6, 0: 2 / 6}
    assert list(class_shares(labels, 4)) == [2, 0]


@pytest.mark.parametrize("size", [(33, 47), (128, 128), (900, 1600)])
def test_legend(size):
    """The picture stays as it is; below it each listed class has its colour, in an area that grows with the picture."""
    palette = distinct_palette(4)
    picture = np.full((*size, 3), 77, np.uint8)
    shown = with_legend(picture, NAMES, palette, {1: 0.5, 3: 0.0001})
    height, width = size
    assert (shown[:height, :width] == picture).all()
    panel = shown[height:].reshape(-1, 3)
    areas = [(panel == palette[label]).all(1).sum() for label in range(4)]
    assert areas[1] == areas[3] >= 11**2
    assert areas[2] == 0
    assert shown.shape[1] >= width


def test_legend_of_many_classes_stays_inside():
    """150 classes: several columns, no wider than the picture."""
    palette = distinct_palette(150)
    names = tuple(f"class {index}" for index in range(150))
    shown = with_legend(np.zeros((500, 800, 3), np.uint8), names, palette, dict.fromkeys(range(150)))
    assert shown.shape[1] == 800
    assert shown.shape[0] < 2000
    found = {tuple(colour) for colour in shown[500:].reshape(-1, 3)[::1]}
    assert {palette[index] for index in range(1, 150)} <= found


def test_empty_legend():
    """Nothing to list: the picture alone."""
    picture = np.zeros((20, 300, 3), np.uint8)
    assert with_legend(picture, NAMES, distinct_palette(4), {}).shape == picture.shape


def test_a_character_without_a_glyph_is_seen_to_be_missing():
    """ASCII stays, what the font cannot draw becomes a question mark."""
    from PIL import ImageFont

    font = ImageFont.load_default(20)
    assert _drawable("pavement, at night", font) == "pavement, at night"
    assert _drawable("猫 car", font) == "? car"
    assert _drawable("road", _font(20)) == "road"


def test_overlay():
    """Half picture, half colour; void stays clear."""
    image = np.full((1, 3, 3), 100, np.uint8)
    shown = overlay(image, np.array([[0, 1, 255]], np.uint8), [(0, 0, 0), (200, 0, 50)])
    assert shown.tolist() == [[[50, 50, 50], [150, 50, 75], [100, 100, 100]]]


def test_even():
    """An odd row or column is repeated; the rest does not move."""
    picture = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    shown = even(picture)
    assert shown.shape == (6, 8, 3)
    assert (shown[:5, :7] == picture).all()
    assert (shown[5, :7] == picture[4]).all()
    assert even(shown) is shown


@pytest.mark.parametrize("void", [255, 300])
def test_overlay_mixes_colours_and_leaves_void_clear(void):
    """Half of the image and half of the colour, rounded to the nearest; a label without a colour shows the image."""
    image = np.array([[[10, 20, 30], [1, 2, 3], [100, 100, 100]]], np.uint8)
    labels = np.array([[0, void, 1]], np.int32)
    found = overlay(image, labels, ((200, 0, 0), (0, 0, 255)), opacity=0.25)
    assert np.abs(found[0, 0].astype(int) - np.array([57.5, 15, 22.5])).max() <= 0.5
    assert (found[0, 1] == image[0, 1]).all()
    assert np.abs(found[0, 2].astype(int) - np.array([75, 75, 138.75])).max() <= 0.5
