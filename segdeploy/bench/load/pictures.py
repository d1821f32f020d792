"""What is sent: encoded files of a folder or of a data set, or made ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segdeploy.base.errors import InputError
from segdeploy.bench.load.result import Pictures
from segdeploy.images.decode import list_images

MOST = 64  # different pictures: enough that no cache of one helps, and little memory


def pictures_of(paths: Sequence[Path], source: str, seed: int) -> tuple[list[bytes], Pictures]:
    """Read files as they are, at most ``MOST``, drawn by the seed.

    Raises:
        InputError: one cannot be read, or is empty.
    """
    if len(paths) > MOST:
        chosen = np.random.default_rng([seed, 2]).choice(len(paths), MOST, replace=False)
        paths = [paths[index] for index in sorted(chosen)]
    named = []
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(expected=f"a picture at '{path}'", got=str(error.strerror), fix="mend or remove it") from error
        if not data:
            raise InputError(expected=f"a picture at '{path}'", got="an empty file", fix="mend or remove it")
        named.append((path.name, data))
    return _described(named, source)


def pictures_in(folder: Path, seed: int) -> tuple[list[bytes], Pictures]:
    """The pictures directly in a folder; see ``pictures_of``.

    Raises:
        InputError: there is no such folder, or no picture in it.
    """
    return pictures_of(list_images(folder), str(folder), seed)


def made_pictures(height: int, width: int, seed: int) -> tuple[list[bytes], Pictures]:
    """Eight JPEG files of smooth colours with noise, about as large as photographs of their size."""
    import cv2

    random = np.random.default_rng([seed, 3])
    named = []
    for index in range(8):
        blocks = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        smooth = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        noisy = np.clip(smooth + random.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)
        named.append((f"{index}.jpg", bytes(cv2.imencode(".jpg", noisy)[1])))
    return _described(named, f"made, {height}x{width}")


def _described(named: list[tuple[str, bytes]], source: str) -> tuple[list[bytes], Pictures]:
    digest = hashlib.sha256()
    for name, data in named:
        digest.update(f"{name} {len(data)}\n".encode() + data)
    files = [data for _, data in named]
    mean = round(sum(map(len, files)) / len(files))
    return files, Pictures(source=source, count=len(files), mean_bytes=mean, sha256=digest.hexdigest())
