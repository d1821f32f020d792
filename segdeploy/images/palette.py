"""Colours of labels."""

from __future__ import annotations


def distinct_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """PASCAL VOC's colour map, for any number of labels.

    Each label's bits are spread over the high bits of red, green and blue in turn, as in VOC's own ``VOClabelcolormap.m``.

    Args:
        count: how many colours, the first being black.
    """
    colours = []
    for label in range(count):
        channels = [0, 0, 0]
        bits, shift = label, 7
        while bits:
            for channel in range(3):
                channels[channel] |= ((bits >> channel) & 1) << shift
            bits >>= 3
            shift -= 1
        colours.append((channels[0], channels[1], channels[2]))
    return tuple(colours)
