"""Colours of labels."""

from __future__ import annotations

from itertools import count as count_up
from typing import Any

Colour = tuple[int, int, int]


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


def completed_palette(given: Any, count: int) -> tuple[tuple[Colour, ...], int]:
    """A colour for every label: those given, and where there is none (or no colour) one that no other label has.

    Args:
        given: colours as somebody wrote them down: sequences or arrays of R, G, B in 0 to 255; too few, too many, or None.
        count: of labels.

    Returns:
        The palette, and how many of its colours were not given.
    """
    try:
        listed = list(given)[:count] if given is not None else []
    except TypeError:
        listed = []
    colours = [_colour(one) for one in listed] + [None] * (count - len(listed))
    taken = {one for one in colours if one is not None}
    spare = (one for size in count_up() for one in distinct_palette(2**size)[2**size // 2 :] if one not in taken)
    # The background is black where that is free; any other label gets the next distinct colour.
    return tuple(next(spare) if one is None else one for one in colours), colours.count(None)


def _colour(value: Any) -> Colour | None:
    try:
        channels = tuple(int(channel) for channel in value)
    except (TypeError, ValueError, OverflowError):
        return None
    return channels if len(channels) == 3 and all(0 <= one <= 255 for one in channels) else None
