"""What a backend says of itself, and how one is found: ``runtime/backends/NAME.py`` holds a ``BACKEND``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import BACKENDS, Format
from segdeploy.base.capability import Capability, needs
from segdeploy.base.errors import BackendError
from segdeploy.base.machine import Gpu
from segdeploy.base.versions import installed_versions
from segdeploy.runtime.layer_run import LayerRun
from segdeploy.runtime.session import Session

# An artifact, the device that was asked for, and the number of CPU threads.
Opener: TypeAlias = Callable[[Artifact, str, int], Session]


@dataclass(frozen=True)
class Backend:
    """One way to run artifacts of one format. Importing its file loads none of its packages.

    Attributes:
        name: of the format, and of the file.
        title: for people.
        extra: the name in ``pip install 'segdeploy[extra]'``.
        modules: that must import for it to run.
        packages: the distributions whose versions have a part in what it says and how fast.
        open: makes the session.
        layers: what its layers are given and make on a batch, for parity to find the first that differs; None where the
            format does not show them.
        examine: whether it runs on this machine, where that takes more than its modules.
    """

    name: Format
    title: str
    extra: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    open: Opener
    layers: Callable[[Artifact, NDArray[np.uint8]], list[LayerRun]] | None = None
    examine: Callable[[Gpu | None], Capability] | None = None

    def capability(self, gpu: Gpu | None) -> Capability:
        """Whether it runs on this machine.

        Args:
            gpu: this machine's, or None.
        """
        if self.examine is not None:
            return self.examine(gpu)
        return needs(f"run {self.title}", self.modules, self.packages, self.extra)


def find_backend(name: str) -> Backend:
    """The backend of a name.

    Raises:
        BackendError: nobody knows it.
    """
    if name not in BACKENDS:
        raise BackendError(expected=f"a backend out of {', '.join(BACKENDS)}", got=f"'{name}'", fix="choose one of these")
    found: Backend = importlib.import_module(f"segdeploy.runtime.backends.{name}").BACKEND
    return found


def running_versions() -> dict[str, str]:
    """Version of each installed distribution that has a part in what any backend says."""
    return installed_versions(package for name in BACKENDS for package in find_backend(name).packages)
