"""Tar archives of data sets: recognised by their MD5 or their content, unpacked whole or not at all."""

from __future__ import annotations

import lzma
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from segdeploy.base.errors import InputError
from segdeploy.base.progress import progress_bar
from segdeploy.training.download import MIB, md5_file

_DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Archive:
    """An archive as its authors published it.

    Attributes:
        name: of the file.
        md5: of the file, hex.
        folder: what is used of it: a path in it, and the same path under the data root.
    """

    name: str
    md5: str
    folder: str


def recognise(path: Path, known: Iterable[Archive], *, subset: bool) -> Archive:
    """Which archive a file is: by its MD5, or of a subset by the folders in it.

    Raises:
        InputError: it is none of them, cannot be read, or is damaged.
    """
    known = tuple(known)
    with _readable(path):
        if not subset:
            got = md5_file(path)
            for archive in known:
                if archive.md5 == got:
                    return archive
            named = [archive for archive in known if archive.name == path.name] or known
            wanted = " or ".join(f"{archive.md5} ({archive.name})" for archive in named)
            raise InputError(
                expected=f"MD5 {wanted} of '{path}'",
                got=f"{got} ({path.stat().st_size} bytes)",
                fix="fetch it again; if it holds a part of the data set on purpose, pass --subset",
            )
        with tarfile.open(path) as tar:
            for member in tar:
                for archive in known:
                    if PurePosixPath(archive.folder) in (PurePosixPath(member.name), *PurePosixPath(member.name).parents):
                        return archive
    raise InputError(
        expected=f"{' or '.join(archive.folder for archive in known)} in '{path}'",
        got="neither",
        fix="pass an archive laid out like the published one",
    )


def unpack(path: Path, archive: Archive, root: Path) -> None:
    """Unpack an archive's folder to the same path under ``root``, where there must be none yet: it appears complete.

    Nothing is written outside: tarfile's data filter refuses absolute paths, ``..``, links that lead out, and devices.

    Raises:
        InputError: it is damaged, unsafe or lacks the folder; there is no room; or this Python cannot unpack safely.
    """
    if not hasattr(tarfile, "data_filter"):
        raise InputError(
            expected="Python 3.10.12, 3.11.4 or newer, whose tarfile refuses paths that lead out of the folder",
            got=sys.version.split()[0],
            fix=f"unpack it yourself (tar -xf '{path}' -C '{root}') and start the same command again",
        )
    place = root / archive.folder
    staging = place.parent / f".unpacking-{place.name}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        staging.mkdir()
        with _readable(path):
            _extract(path, staging)
        if not (staging / archive.folder).is_dir():
            raise InputError(expected=f"{archive.folder} in '{path}'", got="no such folder", fix="pass another archive")
        (staging / archive.folder).rename(place)
    except OSError as error:
        raise InputError(
            expected=f"to unpack '{path}' to '{place}'",
            got=error.strerror or str(error),
            fix="make room or choose another --root",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(path: Path, folder: Path) -> None:
    size = path.stat().st_size
    with (
        path.open("rb") as stream,
        tarfile.open(fileobj=stream) as tar,
        progress_bar(f"unpacking {path.name}, MiB", -(-size // MIB)) as advance,
    ):
        shown = 0
        for member in tar:
            tar.extract(member, folder, filter="data")
            advance(stream.tell() // MIB - shown)
            shown = stream.tell() // MIB
        stream.seek(max(0, size - tarfile.BLOCKSIZE))
        # tarfile takes an end between two files for the end; a tar that was not cut ends in zeros, gzip notices by itself.
        if tar.fileobj is stream and any(stream.read()):
            raise tarfile.ReadError("no end mark: cut between two files")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what a missing or damaged archive raises into one line."""
    try:
        yield
    except tarfile.FilterError as error:
        raise InputError(
            expected=f"only files below the folder in '{path}'", got=str(error), fix="do not use this archive"
        ) from error
    except _DAMAGED as error:
        raise InputError(
            expected=f"a complete tar archive at '{path}'", got=f"{error} ({path.stat().st_size} bytes)", fix="fetch it again"
        ) from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        if error.filename != str(path):
            raise
        raise InputError(expected=f"an archive at '{path}'", got=str(error.strerror).lower(), fix="check the path") from error
