"""Does the same picture always get the same labels: twice, and alone and in company?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.verdict import Determinism, Tolerance
from segdeploy.images.arrays import Image
from segdeploy.images.resize import resize_image
from segdeploy.parity.inputs import Inputs
from segdeploy.parity.measure import forward_passes
from segdeploy.parity.sessions import Call, Recorder


def determinism(candidate: Recorder, inputs: Inputs, tolerance: Tolerance) -> Determinism:
    """Run one batch twice, and a picture alone and in a batch, at the artifact's best size."""
    batch_axis, *sides = candidate.base.manifest.input.shape[:3]
    height, width = (bounds(axis)[1] for axis in sides)
    first, second = (_at(inputs, index, height, width) for index in (0, 1))
    least, _, most = bounds(batch_axis)
    once, again = (forward_passes(candidate, first[None])[0] for _ in range(2))
    differ, error = _difference(once, again)
    batched = batched_error = None
    if least <= 1 < most:
        both = forward_passes(candidate, np.stack([first, second]))[0]
        batched, batched_error = _difference(once, both)
    scale = float(np.abs(np.nan_to_num(_logits(once))).max())
    allowed = tolerance.logits_max_abs * max(1.0, scale)
    worst = max(error, batched_error or 0.0)
    told = f"the same picture twice: {differ} labels differ"
    told += "; the batch size is fixed" if batched is None else f"; alone and in a batch: {batched} differ"
    return Determinism(
        pixels=once.prediction.mask.size,
        again=differ,
        again_logits=error,
        batched=batched,
        batched_logits=batched_error,
        verdict="passed" if worst <= allowed else "failed",
        reason=told if worst <= allowed else f"{told}; logits differ by up to {worst:.2g}, at most {allowed:.2g}",
    )


def _at(inputs: Inputs, index: int, height: int, width: int) -> Image:
    return resize_image(inputs.pictures[index % len(inputs.pictures)].read(), height, width)


def _difference(one: Call, other: Call) -> tuple[int, float]:
    """Labels that differ in the first image, and by how much its logits do."""
    differ = int((one.prediction.mask[0] != other.prediction.mask[0]).sum())
    a, b = _logits(one)[0], _logits(other)[0]
    finite = np.isfinite(a) & np.isfinite(b)
    return differ, float(np.abs(np.where(finite, a, 0) - np.where(finite, b, 0)).max())


def _logits(call: Call) -> NDArray[Any]:
    assert call.prediction.logits is not None
    return call.prediction.logits
