"""How pictures will come to an artifact: decided at the export, and what cannot be done is refused there."""

from __future__ import annotations

from typing import Literal, TypeAlias

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.fit import Fit, FitMode
from segdeploy.artifact.manifest import Manifest, Resize
from segdeploy.base.errors import InputError
from segdeploy.runtime.fitting import ranges_of, usual_stride

FitChoice: TypeAlias = Literal["auto", "resize", "pad", "tiles"]


def choose_fit(manifest: Manifest, asked: FitChoice = "auto") -> Fit:
    """The ``fit`` of an artifact.

    Args:
        manifest: of the artifact to be, its axes and inference set.
        asked: by the user. ``auto`` takes what cost least mIoU where it was measured (docs/fit.md): tiles where what the
            pipeline makes of a picture may be larger than the artifact takes, else resize; of a model that slides, whose
            windows can only be too small, pad.

    Raises:
        InputError: a crop of slide inference that is larger than the artifact takes, or tiles of a model that slides.
    """
    least, *_ = bounds(manifest.input.shape[0])
    fill: Literal["none", "repeat"] = "none" if least == 1 else "repeat"
    largest = [one.high for one in ranges_of(manifest)]
    if (crop := manifest.inference.crop) is not None:
        return Fit(mode=_of_windows(crop, largest, asked), fill=fill)
    expected = _largest_expected(manifest.preprocess.resize)
    holds = expected is not None and any(_holds(size, expected) for size in largest)
    mode = ("resize" if holds else "tiles") if asked == "auto" else asked
    if mode != "tiles":
        return Fit(mode=mode, fill=fill)
    tile = max(largest, key=lambda size: size[0] * size[1])
    return Fit(mode="tiles", tile=tile, stride=usual_stride(tile), fill=fill)


def _of_windows(crop: tuple[int, int], largest: list[tuple[int, int]], asked: FitChoice) -> FitMode:
    if not any(_holds(size, crop) for size in largest):
        raise InputError(
            expected=f"shapes that take the crop of the model's slide inference, {crop[0]}x{crop[1]}",
            got=f"at most {' or '.join(f'{height}x{width}' for height, width in largest)}",
            fix="raise --shape or --max-shape, or set test_cfg in the config (mode='whole', or a smaller crop_size)",
        )
    if asked == "tiles":
        raise InputError(
            expected="--fit pad or resize for a model that slides", got="tiles", fix="it cuts tiles of its own crop anyway"
        )
    return "pad" if asked == "auto" else asked


def _largest_expected(resize: Resize) -> tuple[int, int] | None:
    """The (height, width) that a landscape picture is brought to at most; None where its own size decides."""
    while resize.then is not None:
        resize = resize.then
    if resize.scale is None or resize.mode not in ("exact", "keep_ratio", "shortest_edge"):
        return None
    width, height = resize.scale
    return (height, width) if resize.mode == "exact" else (min(height, width), max(height, width))


def _holds(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return other[0] <= size[0] and other[1] <= size[1]
