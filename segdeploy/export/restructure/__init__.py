"""Convolve before upsampling: the same function, by fewer products, in every format.

A convolution over maps that are upsampled spends most of its work on pixels that carry nothing new. ``find`` watches which
convolutions do that, whatever the head is called; ``conv`` does them at the maps' own size; ``deferred`` leaves the upsampling
out.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from segdeploy.export.restructure.conv import ConvBeforeUpsampling
from segdeploy.export.restructure.deferred import deferring
from segdeploy.export.restructure.find import Found, find

__all__ = ["ConvBeforeUpsampling", "deferring", "find", "restructure"]


def restructure(model: nn.Module, found: Sequence[Found]) -> frozenset[int]:
    """Replace convolutions, in place.

    Args:
        model: in eval mode.
        found: what ``find`` has found in it.

    Returns:
        The numbers of the upsamplings that are then to be left out: see ``deferring``.
    """
    for one in found:
        conv = model.get_submodule(one.path)
        norm = None if one.norm is None else model.get_submodule(one.norm)
        parts = [(part.channels, part.number is not None) for part in one.maps]
        _put(model, one.path, ConvBeforeUpsampling(conv, norm, parts))
        if one.norm is not None:
            _put(model, one.norm, nn.Identity())
    return frozenset(part.number for one in found for part in one.maps if part.number is not None)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent).register_module(name, module)
