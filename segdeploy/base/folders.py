"""Folders that are made whole, replaced whole, and only where segdeploy itself has made them for the same purpose."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segdeploy.base.errors import InputError
from segdeploy.base.files import TEMPORARY, current_umask, make_parent, remove_left, writable

MARK_NAME = ".segdeploy"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


@contextmanager
def new_folder(path: Path, purpose: str, is_older: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it replaces ``path`` if the block ends well, and goes away if not.

    At any moment, a kill included, ``path`` is the old folder or the new one, whole: they change places in one step of the
    kernel. Where the file system cannot do that there is a moment with none, in which the old one lies beside it under a
    hidden name; the next call puts it back. What killed runs left beside ``path`` is removed.

    Args:
        path: of the folder. Where it is a link, what it leads to is replaced.
        purpose: what it is made for; a mark in it says so. A folder with content and without this very mark is refused.
        is_older: tells a folder that may be replaced, where something else than that mark does.

    Raises:
        InputError: the place cannot be written, or something else lies there.
    """
    allowed = is_older or (lambda folder: is_marked(folder, purpose))
    with writable(path):
        place = path.resolve()
        make_parent(place)
        _restore(place)
        _check_replaceable(place, purpose, allowed)
        with _temporary_beside(place) as temporary:
            yield temporary
            if is_older is None:
                (temporary / MARK_NAME).write_text(purpose + "\n")
            temporary.chmod(0o777 & ~current_umask())
            _take_place(temporary, place, purpose, allowed)


def claim_folder(path: Path, purpose: str) -> None:
    """Mark a folder, new or empty, as made for a purpose, so that what is in it may be replaced later.

    Raises:
        InputError: it has content, and not this mark.
    """
    with writable(path):
        _check_replaceable(path, purpose, lambda folder: is_marked(folder, purpose))
        path.mkdir(parents=True, exist_ok=True)
        (path / MARK_NAME).write_text(purpose + "\n")


def is_marked(folder: Path, purpose: str) -> bool:
    """Whether segdeploy has made a folder for this purpose."""
    try:
        return (folder / MARK_NAME).read_text() == purpose + "\n"
    except (OSError, UnicodeDecodeError):
        return False


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


def _check_replaceable(path: Path, purpose: str, allowed: Callable[[Path], bool]) -> None:
    if not path.exists() or (path.is_dir() and (allowed(path) or not any(path.iterdir()))):
        return
    raise InputError(
        expected=f"a new or an empty folder at '{path}', or one that segdeploy made as: {purpose}",
        got="something else, which would be overwritten" if path.is_dir() else "a file",
        fix="choose another place, or move it away yourself",
    )


@contextmanager
def _temporary_beside(place: Path) -> Iterator[Path]:
    """A folder that is locked while its process lives, so that another can tell whether it may be removed."""
    with locked_folder(place.parent):  # none may be taken for a left one between its making and its lock
        _remove_left(place)
        temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}{TEMPORARY}", dir=place.parent))
        handle = os.open(temporary, os.O_RDONLY)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield temporary
    finally:
        os.close(handle)
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_left(place: Path) -> None:
    for left in _beside(place, ""):
        remove_left(left, os.O_RDONLY, lambda path: shutil.rmtree(path, ignore_errors=True))


def _restore(place: Path) -> None:
    """Put back what a kill in the one moment left aside, where the file system cannot exchange folders."""
    if place.parent.is_dir():
        with locked_folder(place.parent):
            aside = [] if place.exists() else list(_beside(place, ".old"))
            if aside:
                max(aside, key=lambda one: one.stat().st_mtime).rename(place)


def _beside(place: Path, ending: str) -> Iterator[Path]:
    start = f".{place.name}{TEMPORARY}"
    for one in place.parent.iterdir():
        if one.name.startswith(start) and one.name.endswith(ending) and one.is_dir() and not one.is_symlink():
            yield one


def _take_place(temporary: Path, place: Path, purpose: str, allowed: Callable[[Path], bool]) -> None:
    if not place.exists():
        temporary.rename(place)
        return
    with locked_folder(place):
        _check_replaceable(place, purpose, allowed)  # again: it may have been filled meanwhile
        if _exchange(temporary, place):
            return
        with locked_folder(place.parent):
            aside = temporary.with_name(temporary.name + ".old")
            place.rename(aside)
            try:
                temporary.rename(place)
            except OSError:
                aside.rename(place)
                raise
            shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where the system or the file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(other))
