"""Upsampled maps that are not made, because the convolution that reads them does not need them.

Axes: N images, C channels, h and w of a map, H and W of the map that it is upsampled to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Upsampling:
    """A call of ``functional.interpolate`` that is bilinear, to a size.

    Attributes:
        source: [N, C, h, w].
        size: (H, W).
        align_corners: as in torch.
    """

    source: Tensor
    size: tuple[Any, Any]
    align_corners: bool


class Deferred:
    """Maps side by side along the channels, of which some are still to be upsampled."""

    def __init__(self, parts: tuple[Tensor | Upsampling, ...]) -> None:
        self.parts = parts

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], *_: Any) -> Any:
        """Lets torch take it for a tensor; but only ``Deferring`` knows what to do with one."""
        raise TypeError(f"{func} of a map that is not made")


class Deferring(TorchFunctionMode):
    """While it is entered, some of the upsamplings that a model calls are not done, and their results are ``Deferred``."""

    def __init__(self, which: frozenset[int]) -> None:
        """Begin to count.

        Args:
            which: the numbers of the upsamplings, from 0, in the order in which the model calls them.
        """
        super().__init__()
        self._which, self._count = which, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Defer an upsampling, or a concatenation with one; call anything else."""
        del types
        kwargs = kwargs or {}
        call = upsampling(*args, **kwargs) if func is functional.interpolate else None
        if call is not None:
            self._count += 1
            if self._count - 1 in self._which:
                return Deferred((call,))
        if func is torch.cat:
            tensors = args[0] if args else kwargs["tensors"]
            if any(isinstance(one, Deferred) for one in tensors):
                return Deferred(tuple(part for one in tensors for part in (one.parts if isinstance(one, Deferred) else (one,))))
        return func(*args, **kwargs)


@contextlib.contextmanager
def deferring(which: frozenset[int]) -> Iterator[None]:
    """``Deferring``, where there is anything to defer."""
    with Deferring(which) if which else contextlib.nullcontext():
        yield


def upsampling(  # noqa: PLR0917  the parameters of torch's, in its order
    source: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
    **named: Any,
) -> Upsampling | None:
    """What a call of ``functional.interpolate`` asks for, where that is bilinear, to a size; else None."""
    source = named.get("input", source)
    plain = scale_factor is None and not recompute_scale_factor and not antialias
    if not plain or mode != "bilinear" or not isinstance(size, (tuple, list, torch.Size)) or len(size) != 2:
        return None
    return Upsampling(source, (size[0], size[1]), bool(align_corners))
