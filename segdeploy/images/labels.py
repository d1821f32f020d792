"""From logits to labels at a picture's own size, without ever making the resized logits.

mmseg resizes logits bilinearly, once or twice, and takes the argmax last: K values a pixel, most of them never the largest.
A resized value is a weighted mean of the few samples around it. So a class whose largest value there lies below another
class's smallest cannot win, and where one class is the largest in all of them, it wins. What is left is computed, tile by
tile, as two small matrix products a class.

Axes: N images, K classes, h and w of the logits, H and W of the result.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segdeploy.images.arrays import Labels, Logits
from segdeploy.images.resize import linear_taps, reduce_logits, resize_logits

_TILE_ROWS, _TILE_COLUMNS = 48, 128


@dataclass(frozen=True)
class Step:
    """One bilinear resize, and what is kept of it.

    Attributes:
        height: of the result.
        width: of the result.
        keep: (rows, columns) of it, from the top left: the rest is a model's own padding.
    """

    height: int
    width: int
    keep: tuple[int, int]


def to_size(height: int, width: int) -> Step:
    """A resize of which all is kept."""
    return Step(height, width, (height, width))


@dataclass(frozen=True)
class _Axis:
    """All steps along one axis as one: every result is a weighted mean of a few neighbours.

    Attributes:
        index: [size, taps] samples.
        weight: float32 [size, taps], summing to 1.
        first: [size] the first sample that counts.
        last: [size] the last one.
        centre: [size] the one between them.
        reach: how far a sample that counts is from the centre at most.
    """

    index: NDArray[np.intp]
    weight: NDArray[np.float32]
    first: NDArray[np.intp]
    last: NDArray[np.intp]
    centre: NDArray[np.intp]
    reach: int

    def matrix(self, start: int, stop: int) -> tuple[NDArray[np.float32], slice]:
        """The weights of results ``start`` to ``stop`` as a matrix, and which samples its columns are."""
        samples = slice(int(self.first[start:stop].min()), int(self.last[start:stop].max()) + 1)
        out = np.zeros((stop - start, samples.stop - samples.start), np.float32)
        rows = np.arange(stop - start)
        for tap in range(self.index.shape[1]):
            counts = self.weight[start:stop, tap] != 0  # one that does not may lie outside
            out[rows[counts], self.index[start:stop, tap][counts] - samples.start] += self.weight[start:stop, tap][counts]
        return out, samples


def labels_of_logits(
    logits: Logits, steps: Sequence[Step], *, align_corners: bool, cutoff: float | None = None
) -> NDArray[Any]:
    """Resize logits step by step, and reduce them.

    Args:
        logits: float32 [K, h, w] of one image.
        steps: the resizes, in order.
        align_corners: as in torch.
        cutoff: of a binary head; see ``reduce_logits``.

    Returns:
        [H, W] labels, uint8 (int32 where K is larger than 256): those of ``reduce_logits(resize_logits(...))``, up to
        values that are equal but for float32's rounding.
    """
    kind = np.uint8 if len(logits) <= 256 else np.int32
    if all(_is_nothing(step, logits.shape[1:]) for step in steps):
        return reduce_logits(logits[None], cutoff)[0].astype(kind)
    if not np.isfinite(logits).all():  # 0 times infinity is none of these means
        for step in steps:
            logits = _cut(resize_logits(logits[None], step.height, step.width, align_corners=align_corners)[0], step.keep)
        return reduce_logits(logits[None], cutoff)[0].astype(kind)
    rows = _composed(logits.shape[1], tuple((step.height, step.keep[0]) for step in steps), align_corners)
    columns = _composed(logits.shape[2], tuple((step.width, step.keep[1]) for step in steps), align_corners)
    if len(logits) == 1:
        return _binary(logits[0], rows, columns, 0.0 if cutoff is None else cutoff).astype(kind)
    return _argmax(logits, rows, columns, kind)


def _argmax(logits: Logits, rows: _Axis, columns: _Axis, kind: type[np.generic]) -> Labels:
    possible = _possible(logits, rows.reach, columns.reach)
    labels = np.empty((len(rows.first), len(columns.first)), kind)
    across = [(slice(x, min(x + _TILE_COLUMNS, labels.shape[1])), columns) for x in range(0, labels.shape[1], _TILE_COLUMNS)]
    turned = [(np.ascontiguousarray(matrix.T), taken) for matrix, taken in (c.matrix(at.start, at.stop) for at, c in across)]
    for y in range(0, labels.shape[0], _TILE_ROWS):
        down = slice(y, min(y + _TILE_ROWS, labels.shape[0]))
        matrix, taken = rows.matrix(down.start, down.stop)
        near = _span(rows.centre, down)
        for (at, _), (right, beside) in zip(across, turned, strict=True):
            classes = np.flatnonzero(possible[:, near, _span(columns.centre, at)].any((1, 2)))
            tile = labels[down, at]
            tile[...] = classes[0]
            if len(classes) > 1:
                best = matrix @ logits[classes[0], taken, beside] @ right
                for label in classes[1:]:
                    other = matrix @ logits[label, taken, beside] @ right
                    larger = other > best  # of equals the first counts, as in argmax
                    tile[larger] = label
                    np.maximum(best, other, out=best)
    return labels


def _binary(logits: NDArray[np.float32], rows: _Axis, columns: _Axis, cutoff: float) -> Labels:
    labels = np.empty((len(rows.first), len(columns.first)), bool)
    right, beside = columns.matrix(0, labels.shape[1])
    for y in range(0, labels.shape[0], _TILE_ROWS):
        down = slice(y, min(y + _TILE_ROWS, labels.shape[0]))
        matrix, taken = rows.matrix(down.start, down.stop)
        labels[down] = (matrix @ logits[taken, beside]) @ right.T > cutoff
    return labels


def _possible(logits: Logits, tall: int, wide: int) -> NDArray[np.bool_]:
    """Which classes may be the largest near which sample: [K, h, w]."""
    around = np.ones((2 * tall + 1, 2 * wide + 1), np.uint8)
    largest = np.stack([_dilated(one, around) for one in logits])
    floor = functools.reduce(np.maximum, (_eroded(one, around) for one in logits))
    possible = largest >= floor
    top = logits.argmax(0).astype(np.float32)
    alone = _dilated(top, around) == _eroded(top, around)  # one class is the largest in all of them
    possible[:, alone] = False
    y, x = np.nonzero(alone)
    possible[top[y, x].astype(np.intp), y, x] = True
    return possible


def _dilated(values: NDArray[np.float32], around: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.dilate(values, around, borderType=cv2.BORDER_REPLICATE), np.float32)


def _eroded(values: NDArray[np.float32], around: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.erode(values, around, borderType=cv2.BORDER_REPLICATE), np.float32)


@functools.lru_cache(maxsize=16)  # neighbours in a data set or a film are of one size
def _composed(size: int, steps: tuple[tuple[int, int], ...], align_corners: bool) -> _Axis:
    index, weight = np.arange(size)[:, None], np.ones((size, 1))
    for out_size, keep in steps:
        low, high, taken = linear_taps(len(index), out_size, align_corners=align_corners)
        low, high, share = low[:keep], high[:keep], taken[:keep].astype(np.float64)[:, None]
        weight = np.concatenate([weight[low] * (1 - share), weight[high] * share], axis=1)
        index = np.concatenate([index[low], index[high]], axis=1)
    counts = weight != 0
    first = np.where(counts, index, size).min(1)
    last = np.where(counts, index, -1).max(1)
    centre = (first + last) // 2
    return _Axis(index, weight.astype(np.float32), first, last, centre, int((last - centre).max(initial=0)))


def _span(centres: NDArray[np.intp], results: slice) -> slice:
    """The samples around which results lie: their centres only grow."""
    return slice(int(centres[results.start]), int(centres[results.stop - 1]) + 1)


def _is_nothing(step: Step, size: Sequence[int]) -> bool:
    return (step.height, step.width) == tuple(size) == step.keep


def _cut(values: NDArray[np.float32], keep: tuple[int, int]) -> NDArray[np.float32]:
    return values[:, : keep[0], : keep[1]]
