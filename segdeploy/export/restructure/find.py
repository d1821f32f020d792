"""Which convolutions of a model read maps that are upsampled, found by watching it run once without values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from segdeploy.export.restructure.conv import holds, products
from segdeploy.export.restructure.deferred import upsampling

# Fewer products have to pay for two more passes over memory.
_WORTH = 0.8


@dataclass(frozen=True)
class Map:
    """A map in the input of a convolution.

    Attributes:
        channels: of it.
        number: of the upsampling that makes it, in the order in which a model calls them; None where none does.
        low: (h, w) before that.
        high: (H, W).
    """

    channels: int
    number: int | None
    low: tuple[int, int]
    high: tuple[int, int]


@dataclass(frozen=True)
class Found:
    """A convolution that can be done before the upsampling of some of its input.

    Attributes:
        path: of the convolution.
        norm: path of the batch norm that alone reads its output; None where there is none.
        maps: of its input, in their order; those with a number are to be upsampled afterwards.
    """

    path: str
    norm: str | None
    maps: tuple[Map, ...]


def find(model: nn.Module, run: Callable[[], object]) -> list[Found]:
    """Watch a model run.

    Args:
        model: it.
        run: calls it once.

    Returns:
        The convolutions for which the algebra holds, and for which it pays at the sizes of this run.
    """
    convolutions = {module: path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    norms = {module: path for path, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}  # noqa: SLF001
    watch = _Watch()
    handles = [module.register_forward_hook(watch.called) for module in (*convolutions, *norms)]
    try:
        with watch:
            run()
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for module, path in convolutions.items():
        maps = watch.maps(module)
        if holds(module) and any(one.number is not None for one in maps):
            behind = watch.reader(module)
            found.append(Found(path, norms.get(behind) if behind is not None else None, maps))
    return found


class _Watch(TorchFunctionMode):
    """Notes where tensors come from and how often each is read."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: list[Any] = []  # an id belongs to a tensor only as long as that lives
        self._maps: dict[int, tuple[Map, ...]] = {}  # of what an upsampling made, or a concatenation
        self._made_of: dict[int, tuple[int, ...]] = {}
        self._reads: Counter[int] = Counter()
        self._calls: dict[nn.Module, list[tuple[int, int]]] = {}
        self._count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not isinstance(out, (Tensor, tuple, list)) or isinstance(out, torch.Size):
            return out  # it reads a size, not values
        given = list(_tensors((*args, *kwargs.values())))
        self._alive += [out, *given]
        self._reads.update(id(one) for one in given)
        call = upsampling(*args, **kwargs) if func is functional.interpolate else None
        if call is not None:
            self._maps[id(out)] = (Map(call.source.shape[1], self._count, _size(call.source), _size(out)),)
            self._count += 1
        elif func is torch.cat and given[0].ndim == 4 and (args[1] if len(args) > 1 else kwargs.get("dim", 0)) == 1:
            self._maps[id(out)] = tuple(part for one in given for part in self._parts(one))
            self._made_of[id(out)] = tuple(map(id, given))
        return out

    def called(self, module: nn.Module, given: tuple[Any, ...], out: Tensor) -> None:
        """Note what a module was given and what it made."""
        self._alive += [given[0], out]
        self._calls.setdefault(module, []).append((id(given[0]), id(out)))

    def maps(self, conv: Any) -> tuple[Map, ...]:
        """What a convolution read; a map has a number only where it pays, and where nobody else reads it."""
        calls = self._calls.get(conv, [])
        if len(calls) != 1 or not self._is_read_once(calls[0][0]):
            return ()
        chosen = []
        for one in self._maps.get(calls[0][0], ()):
            plain, before = products(conv.kernel_size[0], one.channels, conv.out_channels, one.low, one.high)
            chosen.append(one if before <= _WORTH * plain else replace(one, number=None))
        return tuple(chosen)

    def reader(self, conv: nn.Module) -> nn.Module | None:
        """The module with a note that alone reads what a convolution made."""
        ((_, made),) = self._calls[conv]
        readers = [module for module, calls in self._calls.items() if any(given == made for given, _ in calls)]
        return readers[0] if len(readers) == 1 and self._reads[made] == 1 else None

    def _is_read_once(self, one: int) -> bool:
        # A map, and whatever upsampled it holds; a concatenation of other maps is made anyway, whoever reads it.
        held = {part: self._maps.get(part, ()) for part in self._made_of.get(one, ())}
        parts = [part for part, maps in held.items() if any(each.number is not None for each in maps)]
        return self._reads[one] == 1 and all(self._is_read_once(part) for part in parts)

    def _parts(self, one: Tensor) -> tuple[Map, ...]:
        return self._maps.get(id(one), (Map(one.shape[1], None, _size(one), _size(one)),))


def _size(one: Tensor) -> tuple[int, int]:
    return one.shape[2], one.shape[3]


def _tensors(values: Any) -> Iterator[Tensor]:
    for one in values:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (tuple, list)):
            yield from _tensors(one)
