"""Does the same picture always get the same labels: twice, after other shapes, and in company?

A candidate is held against itself here, so its precision's rounding is no excuse: what may differ is what a runtime rounds in
another order where the batch has another size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.manifest import Manifest, Precision
from segdeploy.artifact.verdict import Determinism, Tolerance
from segdeploy.images.arrays import Image
from segdeploy.images.resize import resize_image
from segdeploy.parity.comparison import explained, full_logits, leads
from segdeploy.parity.inputs import Inputs
from segdeploy.parity.logits import LARGEST
from segdeploy.parity.measure import forward_passes
from segdeploy.parity.sessions import Call, Recorder
from segdeploy.parity.shapes import MOST_PIXELS, default_shapes, pixels
from segdeploy.parity.tolerance import RESIZE_ROUNDING

# How far two runs of one picture may be apart, of the largest logit. An integer is rounded the same way every time; but where
# a float before it is off in the last digit it may fall on the other side, and then it is off by one of 127 steps.
_OWN_ROUNDING: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}
# Pictures of a batch: enough that each has two neighbours.
_COMPANY = 3


@dataclass
class _Difference:
    """Of two runs of one picture: labels that differ, those that no rounding explains, and by how much logits do."""

    labels: int = 0
    firm: int = 0
    logits: float = 0.0

    def add(self, other: _Difference) -> None:
        self.labels += other.labels
        self.firm += other.firm
        self.logits = max(self.logits, other.logits)


def determinism(candidate: Recorder, inputs: Inputs, tolerance: Tolerance) -> Determinism:
    """Run a picture twice, again after other shapes, and several pictures alone and together, at the artifact's best size.

    Args:
        candidate: still open.
        inputs: at least one picture; where there are too few, mirrored ones join them.
        tolerance: of the logits; a tighter one than that of two runs counts.
    """
    manifest = candidate.artifact.manifest
    least, _, most = bounds(manifest.input.shape[0])
    height, width = (bounds(axis)[1] for axis in manifest.input.shape[1:3])
    together = max(least, min(most, _COMPANY, MOST_PIXELS // (height * width)))
    pictures = [_distinct(inputs, index, height, width) for index in range(max(together, 2))]

    def run(*images: Image) -> Call:
        return forward_passes(candidate, np.stack(images))[0]

    once, again = run(pictures[0]), run(pictures[0])
    between = _other_shapes(manifest)
    for count, tall, wide in between:
        run(*(resize_image(pictures[(index + 1) % len(pictures)], tall, wide) for index in range(count)))
    found = {"the same picture twice": _between(once, again, 0, manifest)}
    if between:
        found["before and after other shapes"] = _between(once, run(pictures[0]), 0, manifest)
    company = None
    if together > 1:
        batch, company = run(*pictures[:together]), _Difference()
        for index in range(together):
            alone = once if index == 0 else run(pictures[index])
            company.add(_between(alone, batch, index, manifest))
        found[f"alone and in a batch of {together} distinct pictures"] = company
    scale = float(np.abs(np.nan_to_num(_logits(once), posinf=0.0, neginf=0.0)).max())
    allowed = min(tolerance.logits_max_abs, _OWN_ROUNDING[manifest.precision]) * max(1.0, scale)
    wrong = {name: one for name, one in found.items() if one.logits > allowed or one.firm}
    return Determinism(
        pixels=once.prediction.mask.size,
        again=found["the same picture twice"].labels,
        again_logits=found["the same picture twice"].logits,
        after=found["before and after other shapes"].labels if between else None,
        after_logits=found["before and after other shapes"].logits if between else None,
        batched=company.labels if company else None,
        batched_logits=company.logits if company else None,
        verdict="failed" if wrong else "passed",
        reason="; ".join(_told(name, one, allowed if wrong else None) for name, one in (wrong or found).items())
        + ("" if company or wrong else "; the batch is of one picture"),
    )


def _told(name: str, found: _Difference, allowed: float | None) -> str:
    told = f"{name}: {found.labels} labels differ"
    if allowed is None:
        return told
    by = "from NaN or infinity" if found.logits >= LARGEST else f"by up to {found.logits:.2g}"
    return f"{told}, logits {by}, at most {allowed:.2g}"


def _other_shapes(manifest: Manifest) -> list[tuple[int, int, int]]:
    """The smallest and the largest that a verdict runs, where there are others than the best: what they leave in a buffer."""
    shapes = sorted(default_shapes(manifest), key=pixels)
    best = tuple(bounds(axis)[1] for axis in manifest.input.shape[1:3])
    return [shape for shape in dict.fromkeys((shapes[0], shapes[-1])) if shape[1:] != best]


def _distinct(inputs: Inputs, index: int, height: int, width: int) -> Image:
    """A picture at a size; from the second round on mirrored, turned, or both: never the same twice."""
    turn, place = divmod(index, len(inputs.pictures))
    image = resize_image(inputs.pictures[place].read(), height, width)
    image = image[:, ::-1] if turn % 2 else image
    image = image[::-1] if turn // 2 % 2 else image
    return np.ascontiguousarray(image if turn < 4 else 255 - image)


def _between(one: Call, other: Call, index: int, manifest: Manifest) -> _Difference:
    """The first image of one run beside an image of another."""
    mask, mask_other = one.prediction.mask[0], other.prediction.mask[index]
    logits, logits_other = _logits(one)[0], _logits(other)[index]
    both = np.isfinite(logits) & np.isfinite(logits_other)
    same = np.isfinite(logits) == np.isfinite(logits_other)  # NaN in the same places is another check's matter
    with np.errstate(invalid="ignore"):
        error = float(np.where(both, np.abs(logits - logits_other), np.where(same, 0.0, LARGEST)).max())
    flipped = mask != mask_other
    firm = 0
    if flipped.any():
        full = full_logits(logits, mask.shape, manifest)
        cutoff = manifest.postprocess.cutoff
        # Nobody knows which of the two is wrong, so that neither label may be far from the best.
        lead = np.maximum(*(leads(full[:, flipped], one[flipped], cutoff) for one in (mask, mask_other)))
        lead = np.where(np.isfinite(lead), lead, LARGEST).astype(np.float64)  # twice the largest float32 is none
        firm = int((lead > 2 * explained(error, logits, RESIZE_ROUNDING[manifest.precision])).sum())
    return _Difference(int(flipped.sum()), firm, error)


def _logits(call: Call) -> NDArray[Any]:
    assert call.prediction.logits is not None
    return call.prediction.logits
