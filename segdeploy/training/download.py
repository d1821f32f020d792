"""A large file over HTTP that survives interruptions: it goes on where the last attempt ended, and counts only with its MD5."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from segdeploy import __version__
from segdeploy.base.errors import InputError
from segdeploy.base.progress import progress_bar

MIB = 1 << 20
_TIMEOUT_S = 60


def fetch(url: str, path: Path, md5: str) -> None:
    """Bring a file to ``path``. Until it is complete and its MD5 is right it is called ``NAME.part``.

    A connection that breaks is taken up again as long as every attempt brings something. ``NAME.part`` stays after a
    failure, and the next call goes on from it where the server allows that (``Range``), else from the start.

    Args:
        url: http or https.
        path: of the complete file; its folder must exist.
        md5: hex, of the whole file.

    Raises:
        InputError: the server does not answer or refuses, the folder cannot be written, or the MD5 is another.
    """
    part = path.with_name(f"{path.name}.part")
    while True:
        have = part.stat().st_size if part.exists() else 0
        try:
            _receive(url, part, have)
            break
        except (OSError, http.client.HTTPException, EOFError) as error:
            if not part.exists() or part.stat().st_size <= have:
                raise InputError(
                    expected=f"'{url}' in '{path.parent}'",
                    got=f"{_reason(error)}, after {have / MIB:.1f} MiB",
                    fix="start the same command again to go on, or fetch the file by other means and pass it with --archive",
                ) from error
    got = md5_file(part)
    if got != md5:
        part.unlink()  # nothing tells which bytes of it are wrong
        raise InputError(
            expected=f"MD5 {md5} of '{url}'",
            got=got,
            fix="start the same command again, or fetch the file by other means and pass it with --archive",
        )
    part.replace(path)


def md5_file(path: Path) -> str:
    """The hex MD5 of a file's content, with a bar: it takes seconds for gigabytes."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream, progress_bar(f"MD5 of {path.name}, MiB", -(-path.stat().st_size // MIB)) as advance:
        while chunk := stream.read(MIB):
            digest.update(chunk)
            advance()
    return digest.hexdigest()


def _receive(url: str, part: Path, have: int) -> None:
    """Append to ``part`` what is missing, or write it anew where the server does not go on from ``have``.

    Raises:
        EOFError: the server ended before the file did.
    """
    headers = {"User-Agent": f"segdeploy/{__version__}"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to send: the MD5 has the last word
        raise
    with answer:
        goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT and answer.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        start = have if goes_on else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        label = f"{part.stem}, MiB"
        with (
            part.open("ab" if goes_on else "wb") as stream,
            progress_bar(label, -(-(total or 0) // MIB), done=start // MIB) as advance,
        ):
            while chunk := answer.read(MIB):
                stream.write(chunk)
                advance()
            received = stream.tell()
    if total is not None and received < total:
        raise EOFError(f"the connection ended at {received} of {total} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(error).__name__
