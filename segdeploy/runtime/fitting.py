"""How pictures come to the shapes that an artifact takes, and its logits back: the one place that decides.

Everything that runs an artifact on pictures goes through here: parity, eval, predict, servers, calibration, quality.

Axes: N pictures, H and W of what the pipeline's resize makes of one, h and w of what the artifact is given, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.manifest import Bounds, Inference, Manifest, Preprocess, Resize
from segdeploy.base.errors import InputError
from segdeploy.images.arrays import Image, Logits
from segdeploy.images.labels import Step, to_size
from segdeploy.images.resize import network_size, resize_image, resize_logits, resize_picture, to_exactly

Size: TypeAlias = tuple[int, int]
Batch: TypeAlias = NDArray[np.uint8]


class Window(NamedTuple):
    """A part of a picture, rows top to bottom and columns left to right, and the size that the artifact is given it at."""

    top: int
    bottom: int
    left: int
    right: int
    height: int
    width: int

    @property
    def size(self) -> Size:
        """The part's own (height, width)."""
        return self.bottom - self.top, self.right - self.left

    @property
    def given(self) -> Size:
        """(h, w) for the artifact."""
        return self.height, self.width


@dataclass(frozen=True)
class Range:
    """Sizes that the artifact takes: from low to high, in multiples of step; each (height, width)."""

    low: Size
    high: Size
    step: Size
    batch: tuple[int, int]

    def takes(self, size: Size) -> bool:
        """Whether it is one of them."""
        return self.above(size) == size

    def nearest(self, size: Size) -> Size:
        """The size taken that is nearest."""
        return self._clamped([round(side / step) * step for side, step in zip(size, self.step, strict=True)])

    def above(self, size: Size) -> Size:
        """The smallest size taken that holds one that is not too large."""
        return self._clamped([-(-side // step) * step for side, step in zip(size, self.step, strict=True)])

    def _clamped(self, size: Sequence[int]) -> Size:
        height, width = (min(max(s, low), high) for s, low, high in zip(size, self.low, self.high, strict=True))
        return height, width


def ranges_of(manifest: Manifest) -> list[Range]:
    """What the axes say, or the profiles of a TensorRT engine: between them there may be sizes that none takes."""
    batch, *sides = manifest.input.shape[:3]
    steps = [axis.step if isinstance(axis, Bounds) else 1 for axis in sides]
    step = steps[0], steps[1]
    if manifest.engine is not None:
        return [Range(one.min[1:], one.max[1:], step, (one.min[0], one.max[0])) for one in manifest.engine.profiles]
    (low_h, _, high_h), (low_w, _, high_w) = map(bounds, sides)
    least, _, most = bounds(batch)
    return [Range((low_h, low_w), (high_h, high_w), step, (least, most))]


@dataclass(frozen=True)
class Fitted:
    """How pictures of one size come to an artifact.

    Attributes:
        size: (H, W) that the whole picture is resized to first.
        resize: how: as the pipeline says, or with its filter to another size.
        windows: what is cut from that; all of it in one where inference is of the whole picture.
        stretched: a window of another size than the artifact is given is resized; False: padded at the right and bottom.
        exact: the network sees what mmseg's own would: nothing was resized, padded or cut beyond what the config says.
        batch: the least and the largest number of images that the artifact takes at these sizes.
    """

    size: Size
    resize: Resize
    windows: tuple[Window, ...]
    stretched: bool
    exact: bool
    batch: tuple[int, int]


def fit_picture(height: int, width: int, manifest: Manifest) -> Fitted:
    """What becomes of a picture of a size, by the artifact's ``fit``.

    Raises:
        InputError: a window of slide inference is larger than the artifact takes.
    """
    resize = manifest.preprocess.resize
    size = network_size(height, width, resize)
    ranges = ranges_of(manifest)
    if manifest.inference.mode == "slide":
        windows = _cut(size, manifest.preprocess.network_input(*size), manifest.inference)
        return _fit_windows(size, windows, manifest, ranges, exact=True)
    if (taken := _taking(ranges, size)) is not None:
        return Fitted(size, resize, (_whole(size, size),), stretched=False, exact=True, batch=taken.batch)
    fit = manifest.fit
    if fit.mode == "tiles" and fit.tile is not None:
        windows = _cut(size, size, Inference(mode="slide", crop=fit.tile, stride=fit.stride))
        return _fit_windows(size, windows, manifest, ranges, exact=False)
    if fit.mode == "resize":
        taken = min(ranges, key=lambda one: _distance(one.nearest(size), size))
        given = fitting = taken.nearest(size)
    else:
        taken = max(ranges, key=lambda one: _scale(size, one.high))  # where least is lost
        fitting = _within(size, taken.high)
        given = taken.above(fitting)
    resize = resize if fitting == size else to_exactly(*fitting, resize)
    return Fitted(fitting, resize, (_whole(fitting, given),), stretched=False, exact=False, batch=taken.batch)


def as_it_is(height: int, width: int, manifest: Manifest) -> Fitted:
    """What mmseg makes of a picture that has the network's size already, whether or not the artifact takes that."""
    windows: tuple[Window, ...] = (_whole((height, width), (height, width)),)
    if manifest.inference.mode == "slide":
        windows = tuple(_cut((height, width), manifest.preprocess.network_input(height, width), manifest.inference))
    least, _, most = bounds(manifest.input.shape[0])
    resize = to_exactly(height, width, Resize(mode="exact"))
    return Fitted((height, width), resize, windows, stretched=False, exact=True, batch=(least, most))


def given_batches(batch: Batch, fitted: Fitted, preprocess: Preprocess) -> Iterator[tuple[list[Window], Batch]]:
    """The images that an artifact is given for pictures of one size.

    Args:
        batch: uint8 [N, H, W, 3] of ``fitted.size``; no more than the artifact takes.
        fitted: of ``fit_picture``.
        preprocess: says what grey is zero.

    Yields:
        Windows, and the images uint8 [len(windows) * N, h, w, 3]: of the first window for each picture, then of the next.
        Several windows go together where the artifact takes no smaller batch; ``filled`` does the rest.
    """
    for chosen in window_groups(fitted, len(batch)):
        yield chosen, np.concatenate([_cut_out(batch, window, fitted, preprocess) for window in chosen])


def window_groups(fitted: Fitted, count: int) -> Iterator[list[Window]]:
    """The windows that go to the artifact together, for so many pictures of one size."""
    together = max(1, fitted.batch[0] // count)
    for _, group in groupby(fitted.windows, key=lambda window: window.given):
        windows = list(group)
        for start in range(0, len(windows), together):
            yield windows[start : start + together]


def filled(images: Batch, least: int) -> Batch:
    """The batch, filled up with its own images where the artifact takes no fewer."""
    return images if len(images) >= least else images[np.arange(least) % len(images)]


def window_steps(window: Window, fitted: Fitted, manifest: Manifest) -> tuple[Step, ...]:
    """From the artifact's logits of an image that it was given to the size of the window that the image came from."""
    full = manifest.preprocess.network_input(*window.given)
    if fitted.stretched:
        return Step(*full, keep=window.given), to_size(*window.size)
    return (Step(*full, keep=window.size),)


def window_logits(logits: Logits, window: Window, fitted: Fitted, manifest: Manifest) -> Logits:
    """The artifact's logits of images that it was given, [N, K, h', w'], at the size of the window that they came from."""
    for step in window_steps(window, fitted, manifest):
        logits = resize_logits(logits, step.height, step.width, align_corners=manifest.postprocess.align_corners)
        logits = logits[:, :, : step.keep[0], : step.keep[1]]
    return logits


def prepared(images: Sequence[Image], fitted: Fitted) -> Batch:
    """Pictures at ``fitted.size``, in one batch."""
    return np.stack([resize_picture(image, fitted.resize) for image in images])


def grey_of_zero(preprocess: Preprocess) -> NDArray[np.uint8]:
    """RGB bytes that come nearest to what mmseg pads with: ``pad.value``, 0 by default, after normalisation."""
    value = preprocess.pad.value if preprocess.pad else 0.0
    grey = np.clip(np.rint(np.array(preprocess.mean) + value * np.array(preprocess.std)), 0, 255).astype(np.uint8)
    return grey if preprocess.color == "rgb" else grey[::-1]


def slide_windows(height: int, width: int, inference: Inference) -> Iterator[tuple[int, int, int, int]]:
    """The crops (y0, y1, x0, x1) of mmseg's slide inference; the last of a row or column is moved back inside.

    Source: ``EncoderDecoder.slide_inference``.
    """
    assert inference.crop is not None
    assert inference.stride is not None
    (crop_h, crop_w), (stride_h, stride_w) = inference.crop, inference.stride
    for row in range(max(height - crop_h + stride_h - 1, 0) // stride_h + 1):
        for column in range(max(width - crop_w + stride_w - 1, 0) // stride_w + 1):
            y1, x1 = min(row * stride_h + crop_h, height), min(column * stride_w + crop_w, width)
            yield max(y1 - crop_h, 0), y1, max(x1 - crop_w, 0), x1


def usual_stride(crop: Size) -> Size:
    """From one window to the next: two thirds of it, as in mmseg's configs (a crop of 512x512, a stride of 341)."""
    return max(1, round(crop[0] * 2 / 3)), max(1, round(crop[1] * 2 / 3))


def _taking(ranges: Sequence[Range], size: Size) -> Range | None:
    """Of the ranges that take a size, the one that takes the smallest batch."""
    return min((one for one in ranges if one.takes(size)), key=lambda one: one.batch, default=None)


def _fit_windows(size: Size, windows: Iterable[Window], manifest: Manifest, ranges: Sequence[Range], *, exact: bool) -> Fitted:
    """Each window as it is where the artifact takes its size; else padded, or resized where ``fit`` says so."""
    stretched = exact and manifest.fit.mode == "resize"
    found, batches = [], []
    for window in windows:
        part = window.size
        taken = _taking(ranges, part)
        if taken is None:
            exact = False
            able = [one for one in ranges if part[0] <= one.high[0] and part[1] <= one.high[1]]
            if not able:
                largest = " or ".join(f"{one.high[0]}x{one.high[1]}" for one in ranges)
                raise InputError(
                    expected=f"windows of at most {largest} for {manifest.label}",
                    got=f"{part[0]}x{part[1]}, the crop of slide inference",
                    fix="choose a smaller crop, or export for larger shapes (--shape, --max-shape)",
                )
            taken = min(able, key=lambda one: _distance(one.above(part), part))
            part = taken.nearest(part) if stretched else taken.above(part)
        found.append(window._replace(height=part[0], width=part[1]))
        batches.append(taken.batch)
    batch = max(least for least, _ in batches), min(most for _, most in batches)
    return Fitted(size, manifest.preprocess.resize, tuple(found), stretched=stretched, exact=exact, batch=batch)


def _cut(size: Size, padded: Size, inference: Inference) -> Iterator[Window]:
    """The windows of slide inference on a picture of ``size``.

    Where the model pads, they are those of the padded picture. What of one lies beyond the picture is left out: the graph
    pads it to the window's size again, and its logits are cut off in the end.
    """
    height, width = size
    for top, y1, left, x1 in slide_windows(*padded, inference):
        bottom, right = min(y1, height), min(x1, width)
        if top < bottom and left < right:  # else nothing of the picture is in it
            yield Window(top, bottom, left, right, bottom - top, right - left)


def _cut_out(batch: Batch, window: Window, fitted: Fitted, preprocess: Preprocess) -> Batch:
    part = batch[:, window.top : window.bottom, window.left : window.right]
    if window.size == window.given:
        return part
    if fitted.stretched:
        return np.stack([resize_image(one, *window.given) for one in part])
    padded = np.empty((len(part), *window.given, 3), np.uint8)
    padded[:] = grey_of_zero(preprocess)
    padded[:, : window.size[0], : window.size[1]] = part
    return padded


def _whole(size: Size, given: Size) -> Window:
    return Window(0, size[0], 0, size[1], *given)


def _scale(size: Size, largest: Size) -> float:
    """By what a size has to be scaled down to fit within another; 1 where it does."""
    return min(1.0, largest[0] / size[0], largest[1] / size[1])


def _within(size: Size, largest: Size) -> Size:
    """The size scaled down, proportions kept, to fit within another; unchanged where it does."""
    scale = _scale(size, largest)
    height, width = (min(max(1, int(side * scale + 0.5)), limit) for side, limit in zip(size, largest, strict=True))
    return height, width


def _distance(one: Size, other: Size) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])
