"""Writing so that a reader sees either the old state or the new one, never a half."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segdeploy.base.errors import InputError

_CHUNK_BYTES = 1 << 20


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
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes ``path`` if the block ends well, and goes away if not.

    Raises:
        InputError: where the folder cannot be written.
    """
    with writable(path):
        make_parent(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o666 & ~current_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


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
