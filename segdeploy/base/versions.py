"""Which versions a figure was obtained with."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

# What has a part in every figure. What runs the model is named by its backend.
_COMMON = ("segdeploy", "torch", "onedl-mmsegmentation", "numpy", "opencv-python-headless")


def installed_versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Version of each installed distribution that has a part in what a model says.

    Args:
        packages: distributions beside those that always have.
    """
    return {name: version for name in dict.fromkeys([*_COMMON, *packages]) if (version := version_of(name))}


def version_of(package: str) -> str | None:
    """The installed version of a distribution, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
