"""Writing so that a reader sees either the old state or the new one, never a half."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    with _writable(path):
        _make_parent(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it replaces ``path`` if the block ends well, and goes away if not.

    Raises:
        InputError: where the parent folder cannot be written.
    """
    with _writable(path):
        _make_parent(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            # A folder cannot be renamed over one with content: the old one steps aside first, and comes back on failure.
            aside = temporary.with_name(temporary.name + ".old")
            if path.exists():
                path.rename(aside)
            try:
                temporary.rename(path)
            except OSError:
                if aside.exists():
                    aside.rename(path)
                raise
            shutil.rmtree(aside, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Hold a folder against everyone else who asks for it in this way, other processes and replacements of it among them.

    The lock is the kernel's, on the folder itself: it leaves no file, and ends with the process. Where a file system has no
    locks there is none.
    """
    while True:
        handle = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):  # NFS, for one, locks no folder
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_still(path, handle):
                continue  # it was replaced while we waited: what we hold is the old one
            yield
            return
        finally:
            os.close(handle)


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return True  # gone altogether; the caller will see


@contextmanager
def _writable(path: Path) -> Iterator[None]:
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


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # not a missing folder, which would be made: a file system that makes none
        raise PermissionError(error.errno, "cannot be made there", error.filename) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
