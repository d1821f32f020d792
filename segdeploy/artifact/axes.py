"""Axes of an artifact's input: what sizes they take."""

from __future__ import annotations

from segdeploy.artifact.manifest import Axis, Bounds


def bounds(axis: Axis) -> tuple[int, int, int]:
    """(min, opt, max) of any axis."""
    return (axis.min, axis.opt, axis.max) if isinstance(axis, Bounds) else (axis, axis, axis)


def nearest(axis: Axis, wish: int) -> int:
    """The size that an axis takes and that lies nearest to the one wished for."""
    low, _, high = bounds(axis)
    step = axis.step if isinstance(axis, Bounds) else 1
    return min(max(round(wish / step) * step, low), high)
