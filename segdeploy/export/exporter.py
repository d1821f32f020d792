"""What a format says of how it is made, and how one is found: ``export/NAME.py`` holds an ``EXPORTER``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from segdeploy.artifact.manifest import FORMATS, Format, Manifest, Precision
from segdeploy.base.capability import Capability, needs
from segdeploy.base.errors import BackendError, MissingExtraError
from segdeploy.base.machine import Gpu
from segdeploy.export.options import Options
from segdeploy.export.shapes import DEFAULT_LIMITS, ShapeLimits, Shapes

# Given the deploy graph, the manifest so far and a folder, writes model.* into it. Returns the manifest with what the
# format adds (toolchain, target, parent).
Writer: TypeAlias = Callable[[Any, Manifest, Path, Options], Manifest]


def _nothing_to_refuse(options: Options) -> None:
    """Any options will do."""
    del options


def _nothing_to_add(manifest: Manifest, shapes: Shapes, options: Options) -> Manifest:
    """The shapes are in the manifest's input already."""
    del shapes, options
    return manifest


def _nothing_to_tell(manifest: Manifest) -> list[str]:
    """All that there is to say of the artifact holds for every format."""
    del manifest
    return []


@dataclass(frozen=True)
class Exporter:
    """How artifacts of one format are made. Importing its file loads none of its packages.

    Attributes:
        name: of the format, and of the file.
        title: for people.
        modules: that must import for it to be made.
        packages: the distributions to name in ``doctor``.
        precisions: of the arithmetic that it can be made in.
        write: makes it.
        limits: how far the axes reach where the user does not say.
        check: refuses, before any work, what cannot be made here with these options; raises a ``SegdeployError``.
        plan: adds to the manifest what the format needs to know before it is made.
        tell: further lines for ``inspect``.
        examine: whether it can be made on this machine, where that takes more than its modules.
    """

    name: Format
    title: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    precisions: tuple[Precision, ...]
    write: Writer
    limits: ShapeLimits = DEFAULT_LIMITS
    check: Callable[[Options], None] = _nothing_to_refuse
    plan: Callable[[Manifest, Shapes, Options], Manifest] = _nothing_to_add
    tell: Callable[[Manifest], list[str]] = _nothing_to_tell
    examine: Callable[[Gpu | None], Capability] | None = None

    def capability(self, gpu: Gpu | None) -> Capability:
        """Whether it can be made on this machine.

        Args:
            gpu: this machine's, or None.
        """
        if self.examine is not None:
            return self.examine(gpu)
        return needs(f"export {self.title}", self.modules, self.packages, "export")


def find_exporter(name: str) -> Exporter:
    """The exporter of a format.

    Raises:
        BackendError: nobody knows it.
    """
    if name not in FORMATS:
        raise BackendError(expected=f"a format out of {', '.join(FORMATS)}", got=f"'{name}'", fix="choose one of these")
    found: Exporter = importlib.import_module(f"segdeploy.export.{name}").EXPORTER
    return found


def check_export(name: str, options: Options) -> Exporter:
    """Find the exporter of a format and refuse, before any work, what cannot be made here.

    Raises:
        BackendError: the format is unknown, does not have the precision, or cannot be made here with these options.
        MissingExtraError: its packages are not installed.
        InputError: a file that it needs cannot be written.
    """
    found = find_exporter(name)
    if options.precision not in found.precisions:
        others = [f"--to {other}" for other in FORMATS if options.precision in find_exporter(other).precisions]
        raise BackendError(
            expected=f"{' or '.join(found.precisions)} for {name}",
            got=options.precision,
            fix=f"use {' or '.join(others)}",
        )
    for module in found.modules:
        _require(module, "export", f"exporting to {name}")
    found.check(options)
    return found


def check_quantizer(options: Options) -> None:
    """Refuse a precision that is made in the ONNX graph where what makes it is not installed.

    Raises:
        MissingExtraError: onnxruntime, which measures ranges and quantizes, is not there.
    """
    if options.precision != "fp32":
        _require("onnxruntime.quantization", "onnx", f"making {options.precision} models")


def _require(module: str, extra: str, purpose: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(package=str(error.name), extra=extra, purpose=purpose) from error
