"""The record of how pictures come to the shapes that an artifact takes; ``runtime.fitting`` does what it says."""

from __future__ import annotations

from typing import Literal, TypeAlias

from segdeploy.base.records import Struct

FitMode: TypeAlias = Literal["resize", "pad", "tiles"]


class Fit(Struct, frozen=True):
    """What happens where the pipeline's resize gives a size that the artifact does not take; else nothing does.

    Attributes:
        mode: ``resize``: the picture is resized to the nearest size taken, whatever that does to its proportions. ``pad``:
            the grey that is zero after normalisation is added at the right and at the bottom, and its logits are cut off
            again; a picture that is too large is scaled down first, proportions kept. ``tiles``: too large a picture is cut
            into overlapping windows, as mmseg's slide inference does; too small a one is padded.
        tile: (height, width) of a window; None but for ``tiles``.
        stride: (height, width) from one window to the next; None likewise.
        fill: ``repeat``: a batch smaller than the artifact takes is filled up with its own images, whose further answers are
            dropped; ``none`` where every batch from one on is taken.
    """

    mode: FitMode = "resize"
    tile: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    fill: Literal["none", "repeat"] = "repeat"
