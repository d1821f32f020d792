"""Replacements of modules and functions that no exporter gets right, each exact, each with its reason.

What any model may have is in ``pooling``, ``upsample``, ``padding`` and ``operations``; what one architecture alone has is in a
file of its name. Each file says what it replaces, and what shapes it demands, in a function ``rewrites()``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from segdeploy.export.rewrites.operations import ExactOps
from segdeploy.export.rewrites.rewrite import NOTHING, Demands

__all__ = ["Demands", "ExactOps", "rewrite"]

_FILES = ("pooling", "upsample", "padding", "ddrnet", "dmnet", "isanet", "knet", "mobilenet_v3", "swin")


def rewrite(model: Any) -> Demands:
    """Apply every replacement of a module to a model, in place.

    Returns:
        What the model demands of the example that it is traced with.
    """
    known = [one for file in _FILES for one in import_module(f"{__name__}.{file}").rewrites()]
    demands = NOTHING
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            for one in known:
                if isinstance(child, one.kind) and one.applies(child):
                    demands |= one.demands(child)
                    if one.make is not None:
                        parent.register_module(name, one.make(child))
    return demands
