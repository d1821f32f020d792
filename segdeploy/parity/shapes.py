"""The input shapes that a verdict looks at where nobody chose them."""

from __future__ import annotations

from segdeploy.artifact.axes import bounds, nearest
from segdeploy.artifact.engine import choose_profile
from segdeploy.artifact.manifest import Manifest, Profile

Shape = tuple[int, int, int]

# Beside the artifact's own best size: odd ones, portrait and landscape, below and above, since a size that is no multiple of
# the network's stride is where pooling and resizing go wrong. As (N, height, width) with sides relative to the best size.
_RELATIVE_SHAPES = ((1, 1.0, 1.0), (1, 0.63, 0.87), (2, 1.31, 0.71), (3, 0.5, 0.5), (1, 1.47, 1.93), (2, 0.77, 1.29))

# The most pixels of one batch. A large network keeps some 2 kB a pixel in PyTorch: with the default bounds of an export
# (16 x 2048x2048) the largest batch would take 130 GB. What lies beyond is named in the verdict as not looked at.
MOST_PIXELS = 2**21


def default_shapes(manifest: Manifest) -> list[Shape]:
    """(N, H, W) to verify at: the artifact's best size, others as far as its axes are dynamic, and the ends of its ranges."""
    batch, height, width = manifest.input.shape[:3]
    found = []
    for count, tall, wide in _RELATIVE_SHAPES:
        shape = (
            nearest(batch, count),
            nearest(height, round(bounds(height)[1] * tall)),
            nearest(width, round(bounds(width)[1] * wide)),
        )
        if shape not in found:
            found.append(shape)
    if manifest.engine is not None:  # between its profiles there may be shapes that none of them takes
        found = [shape for shape in found if choose_profile(manifest.engine, shape) is not None]
        found += [profile.opt for profile in manifest.engine.profiles if profile.opt not in found]
    return found + [shape for shape in extreme_shapes(manifest) if shape not in found and pixels(shape) <= MOST_PIXELS]


def left_out(manifest: Manifest) -> tuple[Shape, ...]:
    """The ends of the artifact's ranges that ``default_shapes`` leaves out, being too large to run unasked."""
    taken = default_shapes(manifest)
    return tuple(shape for shape in extreme_shapes(manifest) if shape not in taken)


def extreme_shapes(manifest: Manifest) -> list[Shape]:
    """The corners of what the artifact takes, and of every profile of an engine; the smaller first, none twice.

    The smallest picture and the largest, the flattest and the narrowest, one at a time; the largest batch of small pictures,
    of those of the best size, and of the largest.
    """
    if manifest.engine is not None:
        profiles = manifest.engine.profiles
    else:
        (n, n_opt, most), (h, h_opt, high), (w, w_opt, wide) = (bounds(axis) for axis in manifest.input.shape[:3])
        profiles = (Profile(min=(n, h, w), opt=(n_opt, h_opt, w_opt), max=(most, high, wide)),)
    found = []
    for profile in profiles:
        (n, h, w), (_, best_h, best_w), (most, high, wide) = profile.min, profile.opt, profile.max
        found += [(n, h, w), (n, h, wide), (n, high, w), (n, high, wide)]
        found += [(most, h, w), (most, best_h, best_w), (most, high, wide)]
    return sorted(dict.fromkeys(found), key=pixels)


def pixels(shape: Shape) -> int:
    """Of a whole batch."""
    count, height, width = shape
    return count * height * width
