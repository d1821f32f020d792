"""What the exporters that go through torch share: the example, the dynamic axes, custom operators, one line of an error."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from segdeploy.artifact.manifest import Bounds, Manifest
from segdeploy.base.errors import ExportError
from segdeploy.export.graph import DeployGraph
from segdeploy.export.shapes import example_shape

# PyTorch's own operators: what every runtime of it knows without importing anything.
_OWN = frozenset({"aten", "prim", "prims"})
_NO_FUNCTION = re.compile(r"No ONNX function found for <OpOverload\(op='([\w:.]+)'")


def example_input(graph: DeployGraph, manifest: Manifest) -> Tensor:
    """An image batch to trace with: uint8 [N, H, W, 3]."""
    return torch.zeros((*example_shape(manifest.input.shape, graph.demands.beyond), 3), dtype=torch.uint8)


def dynamic_axes(graph: DeployGraph, manifest: Manifest) -> dict[int, Any]:
    """What torch.export is told of the input's axes: number of the axis -> ``Dim``. Static axes are left out."""
    axes = zip("NHW", manifest.input.shape[:3], strict=True)
    return {
        index: _dimension(letter, axis, graph.demands.named_axes)
        for index, (letter, axis) in enumerate(axes)
        if isinstance(axis, Bounds)
    }


def _dimension(letter: str, axis: Bounds, named: bool) -> Any:
    if axis.step > 1:
        # An axis of multiples is what torch.export calls a derived dimension: 16*H.
        return axis.step * torch.export.Dim(letter, min=axis.min // axis.step, max=axis.max // axis.step)
    if named:
        return torch.export.Dim(letter, min=axis.min, max=axis.max)
    return letter  # dynamic, with this name, and any conditions


def refuse_custom_ops(operators: Iterable[str], fmt: str) -> None:
    """Refuse operators that only a process which imports their library knows: the artifact would open nowhere else.

    Args:
        operators: names with their namespace, such as ``aten::conv2d``.
        fmt: the format, for the message.

    Raises:
        ExportError: names the first that is not PyTorch's own.
    """
    custom = sorted({name for name in operators if name.partition("::")[0] not in _OWN})
    if custom:
        raise _custom_op(custom[0], fmt)


def export_error(error: BaseException, expected: str, fmt: str) -> ExportError:
    """The one line of an exception that torch's exporter raised.

    Args:
        error: it wraps the cause, in advice of its own.
        expected: what was asked for.
        fmt: the format.
    """
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for one in chain:
        if found := _NO_FUNCTION.search(str(one)):
            return _custom_op(found[1].replace(".", "::", 1), fmt)
    lines = [line.strip() for line in str(chain[-1]).splitlines() if line.strip()]
    return ExportError(
        expected=expected,
        got=f"{type(chain[-1]).__name__}: {' '.join(lines[:2]) or 'no message'}"[:300],
        fix="try sizes in multiples of the network's stride (--multiple 32), or a static shape (--shape HxW)",
    )


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Exporters report their own steps, conversions and deprecations; errors still arrive as exceptions."""
    found = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in found]
    for logger in found:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(found, levels, strict=True):
            logger.setLevel(level)


def _custom_op(name: str, fmt: str) -> ExportError:
    return ExportError(
        expected=f"a model of operators that {fmt} has",
        got=f"the operator '{name}', which it has not",
        fix="write that part of the model with PyTorch's own operators",
    )
