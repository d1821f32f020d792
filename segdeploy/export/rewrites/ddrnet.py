"""DDRNet and PIDNet."""

from __future__ import annotations

from segdeploy.export.rewrites.rewrite import Demands, Rewrite


def rewrites() -> list[Rewrite]:
    """Nothing is replaced: they pool by 8 at a stride of 64, and leave one pixel of an image that is smaller than both."""
    from mmseg.models.utils import DAPPM

    return [Rewrite(DAPPM, None, demands=lambda _: Demands(beyond=8 * 64))]
