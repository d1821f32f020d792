"""Writing so that a reader sees either the old state or the new one, never a half."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from segdeploy.base.errors import InputError

TEMPORARY = ".segdeploy-"
_CHUNK_BYTES = 1 << 20
_LEFT = re.compile(rf"\..+{re.escape(TEMPORARY)}[a-z0-9_]{{8}}(\.\w+)?")  # with the letters of ``tempfile``


def sha256_file(path: Path) -> str:
    """The hex SHA-256 of a file's content, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_file(path: Path, data: bytes | str) -> None:
    """Write a file through a temporary one beside it, then rename.

    Raises:
        InputError: where the folder cannot be written.
    """
    payload = data.encode() if isinstance(data, str) else data
    with new_file(path) as temporary:
        temporary.write_bytes(payload)


@contextmanager
def new_file(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes ``path`` if the block ends well, and goes away if not.

    What killed runs left in that folder goes away too, once a process and folder.

    Args:
        path: of the file.
        suffix: of the temporary path, for a writer that chooses the format by it. The file is there, empty, and is written
            to in its place: one that is put there instead is not locked.

    Raises:
        InputError: where the folder cannot be written.
    """
    with writable(path):
        make_parent(path)
        _remove_left(path.parent.resolve())
        with _temporary_beside(path, suffix) as temporary:
            yield temporary
            temporary.chmod(0o666 & ~current_umask())
            temporary.replace(path)


@contextmanager
def _temporary_beside(path: Path, suffix: str) -> Iterator[Path]:
    """A file that is locked while its process lives, so that another can tell whether it may be removed."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}{TEMPORARY}", suffix=suffix, dir=path.parent)
        with suppress(OSError):  # NFS, for one, may have no locks: then nothing is removed either
            fcntl.flock(handle, fcntl.LOCK_EX)
        temporary = Path(name)
        if temporary.exists():  # between its making and its lock another may have taken it for a left one
            break
        os.close(handle)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


@cache
def _remove_left(folder: Path) -> None:
    for left in folder.iterdir():
        if not _LEFT.fullmatch(left.name):
            continue
        # For writing, which opens no folder: those have their own way.
        remove_left(left, os.O_RDWR, lambda path: path.unlink(missing_ok=True))


def remove_left(left: Path, access: int, remove: Callable[[Path], object]) -> None:
    """Remove what a process that has ended left behind; while its process lives it holds a lock on it.

    Args:
        left: a temporary file or folder.
        access: of ``os.open``: that which the lock was taken with.
        remove: does it.
    """
    try:
        handle = os.open(left, access | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # its process lives, or nobody can tell
    else:
        remove(left)
    finally:
        os.close(handle)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Tell a place that cannot be written in one line for the user.

    Raises:
        InputError: where ``path`` is not to be written, or there is no room; any other fault stays what it is.
    """
    try:
        yield
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise InputError(
            expected=f"a folder that can be written for '{path}'",
            got=f"{error.strerror or error}: '{error.filename}'",
            fix="choose another place with --out, or change its permissions",
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EROFS, errno.ENAMETOOLONG):
            raise
        raise InputError(
            expected=f"room to write '{path}'", got=str(error.strerror), fix="free some space or choose another place"
        ) from error


def make_parent(path: Path) -> None:
    """Make the folder that a path lies in."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # not a missing folder, which would be made: a file system that makes none
        raise PermissionError(error.errno, "cannot be made there", error.filename) from error


def current_umask() -> int:
    """The process's umask."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
