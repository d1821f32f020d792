"""Which versions a figure was obtained with."""

from __future__ import annotations

from importlib import metadata

_PACKAGES = (
    "segdeploy",
    "torch",
    "onedl-mmsegmentation",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "numpy",
    "opencv-python-headless",
)


def installed_versions() -> dict[str, str]:
    """Version of each installed distribution that has a part in what a model says."""
    return {name: version for name in _PACKAGES if (version := version_of(name))}


def version_of(package: str) -> str | None:
    """The installed version of a distribution, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
