"""Which layers do not stand int8, and how few of them have to stay in float32 for a budget.

The cost: with everything quantized, one evaluation beside float32's own. Only where that breaks the budget are the L layers
ranked, by running each alone over ``RANKING_IMAGES`` pictures; then at most 2 log2(L) + 1 evaluations find how many of the
worst have to be kept. The search uses up to ``SEARCH_IMAGES`` of the labelled images; what it finds is held on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segdeploy.artifact.manifest import Manifest
from segdeploy.artifact.quantization import QualityDrop
from segdeploy.base.errors import ExportError
from segdeploy.base.progress import track
from segdeploy.export.calibration import network_inputs
from segdeploy.export.quality import QualityMeter, open_measured
from segdeploy.export.quantize import QuantizableLayer
from segdeploy.images.arrays import Logits
from segdeploy.images.decode import MAX_PIXELS, read_image

SEARCH_IMAGES = 200
RANKING_IMAGES = 4

# Writes a model in which these layers, and no others, are quantized.
Writer = Callable[[Sequence[QuantizableLayer]], Path]


@dataclass(frozen=True)
class Ranked:
    """A layer and the harm that it does alone.

    Attributes:
        layer: it.
        error: RMS change of the logits when only this layer is quantized, relative to the RMS of the float32 logits.
    """

    layer: QuantizableLayer
    error: float


def rank_layers(
    layers: Sequence[QuantizableLayer],
    write: Writer,
    reference: Path,
    manifest: Manifest,
    pictures: Sequence[Path],
    *,
    max_pixels: int = MAX_PIXELS,
) -> list[Ranked]:
    """Quantize each layer alone and see how far the logits move; the worst comes first.

    It takes ``RANKING_IMAGES`` of the pictures, evenly spread: the first ones of a film are all alike.
    ``max_pixels`` is the limit of ``decode_image``.

    Logits and not mIoU: on so few pictures mIoU is blind to all but the grossest harm.
    """
    count = min(RANKING_IMAGES, len(pictures))
    pictures = [pictures[i * len(pictures) // count] for i in range(count)]
    expected = _logits(reference, manifest, pictures, max_pixels)
    size = sum(float(np.square(one, dtype=np.float64).sum()) for one in expected)
    found = []
    for layer in track(layers, "harm of each layer alone", len(layers)):
        actual = _logits(write([layer]), manifest, pictures, max_pixels)
        moved = sum(float(np.square(a.astype(np.float64) - e).sum()) for a, e in zip(actual, expected, strict=True))
        found.append(Ranked(layer, float(np.sqrt(moved / size)) if np.isfinite(moved) else float("inf")))
    return sorted(found, key=lambda one: -one.error)


def keep_within(
    meters: Sequence[QualityMeter],
    layers: Sequence[QuantizableLayer],
    write: Writer,
    *,
    budget: float,
    rank: Callable[[], Sequence[Ranked]],
) -> tuple[Sequence[Ranked], QualityDrop]:
    """Keep the fewest of the most harmful layers in float32 such that the score drops by no more than the budget.

    Args:
        meters: what the search is held against; the last one's figures are the statement.
        layers: what can be quantized.
        write: writes a model.
        budget: in points.
        rank: the layers, worst first; called only where the budget is broken. Nothing where none may be kept.

    Returns:
        The layers to keep, and what that gives.

    Raises:
        ExportError: no layer, or none that may, stays within the budget.
    """
    ranked: list[Ranked] = []
    kept = 0
    for meter in meters:
        meter.prepare()
        trial = _Trial(meter, layers, write, ranked)
        if trial.drop(kept) > budget:
            ranked += [] if ranked else rank()
            kept = fewest(len(ranked), lambda count, trial=trial: trial.drop(count) <= budget, kept)  # type: ignore[misc]
        if kept == len(ranked) and trial.drop(0) > budget:
            raise ExportError(
                expected=f"int8 within {budget:g} points of {meter.metric}",
                got=f"{meter.fp32:.2f} in float32, {trial.score(0):.2f} in int8",
                fix="raise --max-miou-drop, or use --precision fp16" + ("" if ranked else ", or leave --no-keep out"),
            )
    return ranked[:kept], QualityDrop(
        metric=meter.metric,
        images=meter.images,
        fp32=meter.fp32,
        everything=trial.score(0),
        kept_back=trial.score(kept),
        budget=budget,
    )


class _Trial:
    """Scores by how many of the worst layers are kept, each measured once."""

    def __init__(
        self, meter: QualityMeter, layers: Sequence[QuantizableLayer], write: Writer, ranked: Sequence[Ranked]
    ) -> None:
        self._meter, self._layers, self._write, self._ranked = meter, layers, write, ranked
        self._scores: dict[int, float] = {}

    def score(self, count: int) -> float:
        if count not in self._scores:
            held = {one.layer for one in self._ranked[:count]}
            label = f"{count} of {len(self._layers)} layers in fp32" if count else "int8 everywhere"
            chosen = [layer for layer in self._layers if layer not in held]
            self._scores[count] = self._meter.score(self._write(chosen), label)
        return self._scores[count]

    def drop(self, count: int) -> float:
        return self._meter.fp32 - self.score(count)


def fewest(count: int, within: Callable[[int], bool], least: int = 0) -> int:
    """The fewest of ``count`` things to give up, worst first, until the budget holds.

    Doubling, then bisection: the answer is one that was seen to hold (or ``count``, which is not tried), though where harm does
    not fall with every step a smaller one may exist.

    Args:
        count: how many there are.
        within: whether the budget holds without the first k.
        least: where to begin.
    """
    if within(least):
        return least
    low, step = least, 1
    high = min(low + step, count)
    while high < count and not within(high):
        low, step = high, 2 * step
        high = min(high + step, count)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if within(middle) else (middle, high)
    return high


def _logits(model: Path, manifest: Manifest, pictures: Sequence[Path], max_pixels: int) -> list[Logits]:
    found = []
    with open_measured(model, manifest) as session:
        for path in pictures:
            batch = next(network_inputs(read_image(path, max_pixels=max_pixels), session.artifact.manifest))
            logits = session.run(batch, logits=True).logits
            assert logits is not None
            found.append(logits)
    return found
