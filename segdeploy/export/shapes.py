"""The input shapes that an artifact takes, and how a user writes them."""

from __future__ import annotations

from dataclasses import dataclass

from segdeploy.core.errors import InputError
from segdeploy.core.manifest import Axis, Bounds

_DEFAULT_SMALLEST_SIDE = 32
_DEFAULT_LARGEST_SIDE = 2048
_DEFAULT_LARGEST_BATCH = 16
# TensorRT reserves memory for the largest shape of its profile and tunes for `opt`: a range without need costs both.
_TENSORRT_LARGEST_SIDE = 1024
_TENSORRT_LARGEST_BATCH = 4


@dataclass(frozen=True)
class Shapes:
    """The axes N, H and W: a number each where static, Bounds where dynamic."""

    batch: Axis
    height: Axis
    width: Axis

    def __post_init__(self) -> None:
        for letter, axis in (("N", self.batch), ("H", self.height), ("W", self.width)):
            low, opt, high = bounds(axis)
            step = axis.step if isinstance(axis, Bounds) else 1
            if low % step or opt % step or high % step:
                raise InputError(
                    expected=f"multiples of {step} for {letter}",
                    got=f"min {low}, opt {opt}, max {high}",
                    fix="correct --min-shape, --opt-shape, --max-shape or --multiple",
                )
            if not 1 <= low <= opt <= high:
                raise InputError(
                    expected=f"1 <= min <= opt <= max for {letter}",
                    got=f"min {low}, opt {opt}, max {high}",
                    fix="correct --batch, --min-shape, --opt-shape or --max-shape",
                )


def bounds(axis: Axis) -> tuple[int, int, int]:
    """(min, opt, max) of any axis."""
    return (axis.min, axis.opt, axis.max) if isinstance(axis, Bounds) else (axis, axis, axis)


def example_shape(axes: tuple[Axis, ...], beyond: int = 0) -> tuple[int, int, int]:
    """A shape for tracing. Dynamic axes take sizes unlike one another and unlike any special case (1, multiples of 32).

    Args:
        axes: N, H and W.
        beyond: pixels that H and W should exceed, where a smaller image is a special case.
    """
    batch, height, width = axes[:3]
    sides = (min(beyond + 90, bounds(height)[2] - 22), min(beyond + 130, bounds(width)[2] - 6))
    return nearest(batch, 2), nearest(height, sides[0]), nearest(width, sides[1])


def nearest(axis: Axis, wish: int) -> int:
    """The size that an axis takes and that lies nearest to the one wished for."""
    low, _, high = bounds(axis)
    step = axis.step if isinstance(axis, Bounds) else 1
    return min(max(round(wish / step) * step, low), high)


def choose_shapes(
    crop: tuple[int, int],
    *,
    tensorrt: bool,
    static: str | None = None,
    smallest: str | None = None,
    best: str | None = None,
    largest: str | None = None,
    batch: str | None = None,
    multiple: int = 1,
) -> Shapes:
    """What the user asked for, and defaults around the training crop for the rest.

    Args:
        crop: (H, W) that the model was trained at.
        tensorrt: take TensorRT's narrower defaults.
        static: ``HxW`` for a fixed size.
        smallest: ``HxW``.
        best: ``HxW`` to optimise for.
        largest: ``HxW``.
        batch: ``N`` for a fixed batch or ``MIN:OPT:MAX``.
        multiple: what a dynamic height and width are multiples of.

    Raises:
        InputError: a text that is not of these forms, or bounds out of order.
    """
    if static and (smallest or best or largest):
        raise InputError(
            expected="--shape, or --min-shape, --opt-shape and --max-shape", got="both", fix="leave one of them out"
        )
    images = _batch(batch, _TENSORRT_LARGEST_BATCH if tensorrt else _DEFAULT_LARGEST_BATCH)
    if static:
        height, width = parse_size(static, "--shape")
        return Shapes(images, height, width)

    def default(side: int) -> int:
        return -(-side // multiple) * multiple

    opt = parse_size(best, "--opt-shape") if best else (default(crop[0]), default(crop[1]))
    limit = _TENSORRT_LARGEST_SIDE if tensorrt else _DEFAULT_LARGEST_SIDE
    low = parse_size(smallest, "--min-shape") if smallest else (default(_DEFAULT_SMALLEST_SIDE),) * 2
    high = parse_size(largest, "--max-shape") if largest else (default(max(limit, opt[0])), default(max(limit, opt[1])))
    return Shapes(images, *(_axis(*sides, multiple) for sides in zip(low, opt, high, strict=True)))


def parse_size(text: str, option: str) -> tuple[int, int]:
    """``HxW`` to (H, W) in pixels.

    Raises:
        InputError: it is not of that form.
    """
    height, x, width = text.lower().partition("x")
    if not (x and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise InputError(expected=f"HxW for {option}, such as 512x512", got=f"'{text}'", fix="correct it")
    return int(height), int(width)


def _batch(text: str | None, largest: int) -> Axis:
    if text is None:
        return Bounds(min=1, opt=1, max=largest)
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(part.isdecimal() for part in parts):
        raise InputError(expected="N or MIN:OPT:MAX for --batch, such as 1:4:8", got=f"'{text}'", fix="correct it")
    numbers = [int(part) for part in parts]
    return _axis(*numbers) if len(numbers) == 3 else numbers[0]


def _axis(low: int, opt: int, high: int, step: int = 1) -> Axis:
    return low if low == opt == high else Bounds(min=low, opt=opt, max=high, step=step)
