"""Functions that a model calls directly, rather than as modules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from segdeploy.export.rewrites.pooling import exact_adaptive_avg_pool2d


def _view(x: Tensor, *shape: Any) -> Tensor:
    """``Tensor.view``, copying where it must.

    The graph's input is NHWC, and convolutions keep that order in memory, where some of mmseg's heads view the channels of
    what they think is NCHW. The values are the same; only the order in memory is not.
    """
    return x.view(*shape) if isinstance(shape[0], torch.dtype) else x.reshape(*shape)


_FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.adaptive_avg_pool2d: exact_adaptive_avg_pool2d,
    Tensor.view: _view,
}


class ExactOps(TorchFunctionMode):
    """While a thread has entered it, functions that a model calls directly are replaced in that thread.

    And mmseg's ``resize`` does not warn of sizes that align badly: to find out it makes numbers of them, which ties an
    exported graph to the example's size.
    """

    def __enter__(self) -> ExactOps:
        """Begin."""
        _let_resize_ask()
        _inside.depth += 1
        super().__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """End."""
        super().__exit__(*exception)
        _inside.depth -= 1

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the replacement where there is one."""
        del types
        return _FUNCTIONS.get(func, func)(*args, **(kwargs or {}))


class _Inside(threading.local):
    """How many ``ExactOps`` this thread has entered."""

    depth = 0


class _OutsideExactOps:
    """True, except to a thread that has entered ``ExactOps``."""

    def __bool__(self) -> bool:
        return _inside.depth == 0


_inside = _Inside()


def _let_resize_ask() -> None:
    """Let mmseg's ``resize`` ask each time whether it should warn, where it took it for granted.

    It is no operation of torch, so that no mode sees it, and some forty modules of mmseg hold it by its name. For every thread
    outside it goes on as it was.
    """
    from mmseg.models.utils import resize

    *others, warning = resize.__defaults__
    if warning is True:
        resize.__defaults__ = (*others, _OutsideExactOps())
