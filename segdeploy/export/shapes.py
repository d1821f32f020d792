"""The input shapes that an artifact takes, and how a user writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from segdeploy.artifact.axes import bounds, nearest
from segdeploy.artifact.manifest import Axis, Bounds, Profile
from segdeploy.base.errors import InputError

_DEFAULT_SMALLEST_SIDE = 32


@dataclass(frozen=True)
class ShapeLimits:
    """How far the dynamic axes of a format reach where the user does not say.

    Attributes:
        side: the largest H and W in pixels.
        batch: the largest N.
    """

    side: int = 2048
    batch: int = 16


DEFAULT_LIMITS = ShapeLimits()


@dataclass(frozen=True)
class Shapes:
    """The axes N, H and W: a number each where static, Bounds where dynamic.

    Attributes:
        batch: N.
        height: H in pixels.
        width: W in pixels.
        chosen: the ranges that they span, where several were asked for.
    """

    batch: Axis
    height: Axis
    width: Axis
    chosen: tuple[Profile, ...] = field(default=(), kw_only=True)

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """What TensorRT compiles for: the ranges that were asked for, or one that is all of the axes."""
        (n, n_opt, n_max), (h, h_opt, h_max), (w, w_opt, w_max) = map(bounds, (self.batch, self.height, self.width))
        return self.chosen or (Profile(min=(n, h, w), opt=(n_opt, h_opt, w_opt), max=(n_max, h_max, w_max)),)

    def __post_init__(self) -> None:
        for letter, axis in (("N", self.batch), ("H", self.height), ("W", self.width)):
            low, opt, high = bounds(axis)
            step = axis.step if isinstance(axis, Bounds) else 1
            if low % step or opt % step or high % step:
                raise InputError(
                    expected=f"multiples of {step} for {letter}",
                    got=f"min {low}, opt {opt}, max {high}",
                    fix="correct the sizes or --multiple",
                )
            if not 1 <= low <= opt <= high:
                raise InputError(
                    expected=f"1 <= min <= opt <= max for {letter}",
                    got=f"min {low}, opt {opt}, max {high}",
                    fix="correct --batch, --profile, --min-shape, --opt-shape or --max-shape",
                )


def example_shape(axes: tuple[Axis, ...], beyond: int = 0) -> tuple[int, int, int]:
    """A shape for tracing. Dynamic axes take sizes unlike one another and unlike any special case (1, multiples of 32).

    Args:
        axes: N, H and W.
        beyond: pixels that H and W should exceed, where a smaller image is a special case.
    """
    batch, height, width = axes[:3]
    sides = (90, 130)
    if beyond:  # short of the bounds where these leave no room: multiples of 32 are a special case too
        sides = (min(beyond + 90, bounds(height)[2] - 22), min(beyond + 130, bounds(width)[2] - 6))
    return nearest(batch, 2), nearest(height, sides[0]), nearest(width, sides[1])


def choose_shapes(
    crop: tuple[int, int],
    *,
    limits: ShapeLimits = DEFAULT_LIMITS,
    static: str | None = None,
    smallest: str | None = None,
    best: str | None = None,
    largest: str | None = None,
    profiles: Sequence[str] = (),
    batch: str | None = None,
    multiple: int = 1,
) -> Shapes:
    """What the user asked for, and defaults around the training crop for the rest.

    Args:
        crop: (H, W) that the model was trained at.
        limits: the format's own.
        static: ``HxW`` for a fixed size.
        smallest: ``HxW``.
        best: ``HxW`` to optimise for.
        largest: ``HxW``.
        profiles: ``MIN:OPT:MAX``, each ``HxW`` or ``NxHxW``, or one of these for all three. The axes span them all.
        batch: ``N`` for a fixed batch or ``MIN:OPT:MAX``.
        multiple: what height and width are multiples of, fixed ones too.

    Raises:
        InputError: a text that is not of these forms, bounds out of order, or sizes that are no multiples.
    """
    if static and (smallest or best or largest):
        raise InputError(
            expected="--shape, or --min-shape, --opt-shape and --max-shape", got="both", fix="leave one of them out"
        )
    if profiles and (static or smallest or best or largest):
        raise InputError(
            expected="--profile alone", got="--shape, --min-shape, --opt-shape or --max-shape too", fix="leave one of them out"
        )
    images = _batch(batch, limits.batch)
    if profiles:
        return _span([_profile(text, images, multiple) for text in profiles], multiple)
    if static:
        height, width = parse_size(static, "--shape")
        return _axes(images, ((height,) * 3, (width,) * 3), multiple)

    def default(side: int) -> int:
        return -(-side // multiple) * multiple

    opt = parse_size(best, "--opt-shape") if best else (default(crop[0]), default(crop[1]))
    low = parse_size(smallest, "--min-shape") if smallest else (default(_DEFAULT_SMALLEST_SIDE),) * 2
    high = (
        parse_size(largest, "--max-shape")
        if largest
        else (default(max(limits.side, opt[0])), default(max(limits.side, opt[1])))
    )
    return _axes(images, zip(low, opt, high, strict=True), multiple)


def parse_size(text: str, option: str) -> tuple[int, int]:
    """``HxW`` to (H, W) in pixels.

    Raises:
        InputError: it is not of that form.
    """
    height, x, width = text.lower().partition("x")
    if not (x and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise InputError(expected=f"HxW for {option}, such as 512x512", got=f"'{text}'", fix="correct it")
    return int(height), int(width)


def _profile(text: str, batch: Axis, multiple: int) -> Profile:
    shapes = [_sides(part) for part in text.split(":")]
    shapes = shapes * 3 if len(shapes) == 1 else shapes
    ranks = {len(sides) for sides in shapes}
    if len(shapes) != 3 or ranks not in ({2}, {3}) or not all(map(all, shapes)):
        raise InputError(
            expected="--profile MIN:OPT:MAX or one shape, each HxW or NxHxW, such as 1x256x256:4x512x512:8x1024x1024",
            got=f"'{text}'",
            fix="correct it",
        )
    low, opt, high = (
        (sides[0], sides[1], sides[2]) if len(sides) == 3 else (count, sides[0], sides[1])
        for count, sides in zip(bounds(batch), shapes, strict=True)
    )
    # As axes, however narrow: that they are in order, and multiples, is checked there.
    Shapes(*(Bounds(min=low[i], opt=opt[i], max=high[i], step=multiple if i else 1) for i in range(3)))
    return Profile(min=low, opt=opt, max=high)


def _sides(text: str) -> list[int]:
    return [int(side) if side.isdecimal() else 0 for side in text.lower().split("x")]


def _span(profiles: Sequence[Profile], multiple: int) -> Shapes:
    """The axes from the least to the largest of all profiles; what is best for the first is taken to be best."""
    axes = [
        _axis(
            min(one.min[i] for one in profiles),
            profiles[0].opt[i],
            max(one.max[i] for one in profiles),
            multiple if i else 1,
        )
        for i in range(3)
    ]
    return Shapes(*axes, chosen=tuple(profiles))


def _batch(text: str | None, largest: int) -> Axis:
    if text is None:
        return Bounds(min=1, opt=1, max=largest)
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(part.isdecimal() for part in parts):
        raise InputError(expected="N or MIN:OPT:MAX for --batch, such as 1:4:8", got=f"'{text}'", fix="correct it")
    numbers = [int(part) for part in parts]
    return _axis(*numbers) if len(numbers) == 3 else numbers[0]


def _axes(batch: Axis, sides: Iterable[tuple[int, int, int]], multiple: int) -> Shapes:
    """N beside H and W of (min, opt, max)."""
    given = [Bounds(min=low, opt=opt, max=high, step=multiple) for low, opt, high in sides]
    Shapes(batch, *given)  # however narrow: that they are multiples is checked there, and a fixed size knows of none
    return Shapes(batch, *(_axis(one.min, one.opt, one.max, multiple) for one in given))


def _axis(low: int, opt: int, high: int, step: int = 1) -> Axis:
    return low if low == opt == high else Bounds(min=low, opt=opt, max=high, step=step)
