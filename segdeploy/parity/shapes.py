"""The input shapes that a verdict looks at where nobody chose them."""

from __future__ import annotations

from segdeploy.artifact.axes import bounds, nearest
from segdeploy.artifact.engine import choose_profile
from segdeploy.artifact.manifest import Manifest

# Beside the artifact's own best size: odd ones, portrait and landscape, below and above, since a size that is no multiple of
# the network's stride is where pooling and resizing go wrong. As (N, height, width) with sides relative to the best size.
_RELATIVE_SHAPES = ((1, 1.0, 1.0), (1, 0.63, 0.87), (2, 1.31, 0.71), (3, 0.5, 0.5), (1, 1.47, 1.93), (2, 0.77, 1.29))


def default_shapes(manifest: Manifest) -> list[tuple[int, int, int]]:
    """(N, H, W) to verify at: the artifact's best size, and others as far as its axes are dynamic."""
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
    return found
