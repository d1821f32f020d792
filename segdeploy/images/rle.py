"""Label maps as COCO's run lengths, as ``pycocotools`` writes and reads them.

Axes: H, W of a label map.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.images.arrays import Labels

_BITS = 5  # of a number in each character


def encode_rle(labels: Labels, wanted: Iterable[int]) -> dict[int, str]:
    """The compressed ``counts`` of each label's mask; its ``size`` is (H, W).

    Source: ``rleEncode`` and ``rleToString`` of cocoapi's ``maskApi.c``.

    Args:
        labels: [H, W].
        wanted: which labels; one that does not occur has a mask of zeros.
    """
    down: NDArray[Any] = np.ascontiguousarray(labels.T).ravel()  # COCO counts column by column
    starts = np.concatenate([[0], np.flatnonzero(down[1:] != down[:-1]) + 1])
    ends = np.concatenate([starts[1:], [down.size]])
    values = down[starts]
    found = {}
    for label in wanted:
        runs = np.flatnonzero(values == label)
        borders = np.stack([starts[runs], ends[runs]], axis=1).ravel()
        counts = np.diff(borders, prepend=0, append=down.size)
        found[label] = _compressed(counts if counts[-1] else counts[:-1])
    return found


def _compressed(counts: NDArray[Any]) -> str:
    """Each number as the difference to the last but one, in groups of five bits, the lowest first."""
    left = counts.astype(np.int64)
    left[3:] -= counts[1:-2]
    columns, used = [], []
    active = np.ones(len(left), bool)
    while active.any():
        group = left & (2**_BITS - 1)
        left >>= _BITS
        more = np.where(group & 2 ** (_BITS - 1), left != -1, left != 0)
        columns.append((group | (more << _BITS)) + ord("0"))
        used.append(active)
        active = active & more
    return np.stack(columns, axis=1)[np.stack(used, axis=1)].astype(np.uint8).tobytes().decode("ascii")
