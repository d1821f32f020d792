"""Slide inference from top to bottom: logits at the network's size are there for some rows at a time, never for all.

At 4096x4096 with 150 classes the whole of them would be 10 GB. What is kept is what the network gave, before upsampling, of
the windows that still reach into rows to come; it is upsampled where it is summed, each row once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segdeploy.images.arrays import Labels, Logits
from segdeploy.images.resize import linear_taps, reduce_logits, resized_rows, sample
from segdeploy.runtime.fitting import Batch, Fitted, Size, Window, filled, given_batches, window_logits
from segdeploy.runtime.session import Session

_BAND_ROWS = 64


class _Live(NamedTuple):
    """A window whose rows are not all summed yet, its logits [N, K, h, w], and the size that these are to be resized to."""

    window: Window
    logits: Logits
    size: Size


def slide_bands(session: Session, batch: Batch, fitted: Fitted) -> Iterator[Logits]:
    """The mean of overlapping windows, as ``EncoderDecoder.slide_inference`` has it, from top to bottom.

    Args:
        session: any backend.
        batch: uint8 [N, H, W, 3] of ``fitted.size``.
        fitted: how the pictures come to the artifact.

    Yields:
        float32 [N, K, rows, W], of the next rows.
    """
    manifest = session.artifact.manifest
    live: list[_Live] = []
    seen = done = 0
    for windows, given in given_batches(batch, fitted, manifest.preprocess):
        raw = session.run(filled(given, fitted.batch[0]), logits=True).logits
        assert raw is not None
        for index, window in enumerate(windows):
            logits = raw[index * len(batch) : (index + 1) * len(batch)]
            size = manifest.preprocess.network_input(*window.given)
            if fitted.stretched and window.size != window.given:  # resized twice: no row of it comes alone
                logits, size = window_logits(logits, window, fitted, manifest), window.size
            live.append(_Live(window, logits, size))
        seen += len(windows)
        # Windows come in rows from the top: nothing above the next one's first row will change.
        final = fitted.windows[seen].top if seen < len(fitted.windows) else fitted.size[0]
        for top in range(done, final, _BAND_ROWS):
            bottom = min(top + _BAND_ROWS, final)
            yield _mean(live, top, bottom, fitted.size[1], align_corners=manifest.postprocess.align_corners)
        done = max(done, final)
        live = [one for one in live if one.window.bottom > done]


def _mean(live: list[_Live], top: int, bottom: int, width: int, *, align_corners: bool) -> Logits:
    """Of the windows' logits in the rows from top to bottom; in the windows' order, as mmseg sums them."""
    count, classes = live[0].logits.shape[:2]
    total = np.zeros((count, classes, bottom - top, width), np.float32)
    times = np.zeros((bottom - top, width), np.float32)
    for window, logits, size in live:
        low, high = max(top, window.top), min(bottom, window.bottom)
        if low < high:
            rows = slice(low - window.top, high - window.top)
            part = resized_rows(logits, rows, *size, align_corners=align_corners)[..., : window.size[1]]
            total[:, :, low - top : high - top, window.left : window.right] += part
            times[low - top : high - top, window.left : window.right] += 1
    total /= times
    return total


class BandedLabels:
    """Labels of one picture, at its own size, whose logits at the network's size come from top to bottom."""

    def __init__(
        self, size: Size, out_size: Sequence[int], *, align_corners: bool, cutoff: float | None, dtype: type[np.generic]
    ) -> None:
        """Nothing is there yet.

        Args:
            size: (h, w) of the logits.
            out_size: (H, W) of the labels.
            align_corners: as in torch.
            cutoff: see ``reduce_logits``.
            dtype: of the labels.
        """
        self._size, self._out_size, self._align, self._cutoff = size, tuple(out_size), align_corners, cutoff
        self._taps = linear_taps(size[0], out_size[0], align_corners=align_corners)
        self._labels: NDArray[Any] = np.empty(self._out_size, dtype)
        self._written = 0
        self._kept: Logits | None = None  # rows that labels to come still read, the first of them at _top
        self._top = 0

    def add(self, band: Logits) -> None:
        """Take in the next rows, float32 [1, K, rows, w]."""
        rows = band if self._kept is None else np.concatenate([self._kept, band], axis=2)
        end = self._top + rows.shape[2]
        if self._size == self._out_size:
            self._labels[self._top : end] = reduce_logits(rows, self._cutoff)[0]
            self._top = end
            return
        low, high, share = self._taps
        ready = int(np.searchsorted(high, end))  # labels that read no row from ``end`` on
        for start in range(self._written, ready, _BAND_ROWS):
            part = slice(start, min(start + _BAND_ROWS, ready))
            taps = low[part] - self._top, high[part] - self._top, share[part]
            stripe = sample(rows, taps, self._out_size[1], align_corners=self._align)
            self._labels[part] = reduce_logits(stripe, self._cutoff)[0]
        self._written = ready
        first = min(int(low[ready]), end) if ready < len(low) else end  # a picture made smaller skips rows
        self._kept, self._top = rows[:, :, first - self._top :].copy(), first

    @property
    def labels(self) -> Labels:
        """[H, W]; whole once all rows were added."""
        return self._labels
