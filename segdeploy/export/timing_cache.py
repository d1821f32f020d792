"""TensorRT's timing cache: how fast each kernel was on this GPU, kept so that the next build need not measure it again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segdeploy.base.errors import InputError
from segdeploy.base.files import write_file


def default_cache(version: str, gpu: str) -> Path:
    """A file in the user's cache folder for each TensorRT and GPU, since a cache serves no other.

    Args:
        version: TensorRT's.
        gpu: its name.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "segdeploy" / f"tensorrt-{version}-{re.sub(r'[^A-Za-z0-9]+', '-', gpu).lower()}.timing"


def check_cache(path: Path) -> None:
    """Refuse a file that could not be written after the build.

    Raises:
        InputError: it is a folder, or in one that cannot be written.
    """
    nearest = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    folder = path.absolute().parent if nearest == path.absolute() else nearest
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(
            expected="a file that can be written for --timing-cache", got=f"'{path}'", fix="choose another place for it"
        )


@contextmanager
def timing_cache(config: Any, path: Path) -> Iterator[None]:
    """Let the builder use the cache in a file, and write it back, atomically, if the block ends well.

    A file that TensorRT does not accept (of another GPU or version, or damaged) is begun anew.

    Args:
        config: TensorRT's builder configuration.
        path: the file; it need not exist.
    """
    try:
        stored = path.read_bytes()
    except OSError:
        stored = b""
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, False):  # False: only of this very GPU
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    yield
    with suppress(InputError):  # a full disk costs the next build some minutes; this one's engine is worth more
        write_file(path, bytes(cache.serialize()))
