"""Which TensorRT is installed, and what it says: shared by building and running engines."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from segdeploy.base.errors import MissingExtraError


@dataclass(frozen=True)
class Flavour:
    """One of the two TensorRTs. Their Python interfaces are the same; their engines are not interchangeable.

    Attributes:
        name: the module's name.
        version: as it gives it.
        module: the imported module.
        cuda_version: that it was built for, where it says so.
    """

    name: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    module: Any
    cuda_version: str | None = None

    @property
    def major(self) -> int:
        """The first part of the version."""
        return int(self.version.split(".")[0])


def import_tensorrt(*, prefer_rtx: bool, only: str | None = None) -> Flavour:
    """Import TensorRT or TensorRT-RTX, whichever is installed.

    Args:
        prefer_rtx: where both are there, take ``tensorrt_rtx`` (it compiles ahead of time, without a GPU).
        only: accept just this one.

    Raises:
        MissingExtraError: neither, or not the one that is needed, is installed.
    """
    order: list[Literal["tensorrt", "tensorrt_rtx"]] = ["tensorrt", "tensorrt_rtx"]
    for name in reversed(order) if prefer_rtx else order:
        if only is None or name == only:
            try:
                module = importlib.import_module(name)
            except ImportError:  # also a driver library that is not there
                continue
            return Flavour(name, str(module.__version__), module)
    wanted = only or ("tensorrt_rtx" if prefer_rtx else "tensorrt")
    extra = "tensorrt-rtx" if wanted == "tensorrt_rtx" else "tensorrt"
    raise MissingExtraError(package=wanted, extra=extra, purpose="TensorRT engines")


def known_targets(flavour: Flavour) -> list[str]:
    """The GPU architectures (``sm89``) that it compiles for ahead of time; none where it cannot."""
    capabilities = getattr(flavour.module, "ComputeCapability", None)
    return [name.lower() for name in capabilities.__members__ if name.startswith("SM")] if capabilities else []


@dataclass
class Messages:
    """What TensorRT logged at error level: its calls return None and say why only there."""

    logger: Any = None
    errors: list[str] = field(default_factory=list)

    @property
    def last(self) -> str:
        """The last error that is not only the missing driver's, or that there was none."""
        # Where there is no driver, TensorRT-RTX logs that beside every error of its own: it is not what went wrong.
        telling = [text for text in self.errors if "cudaError 35" not in text]
        return (telling or self.errors or ["no message from TensorRT"])[-1]


@contextmanager
def messages(trt: Any) -> Iterator[Messages]:
    """Collect TensorRT's errors instead of printing them."""
    found = Messages()

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                found.errors.append(message)

    found.logger = Logger()
    yield found
