"""Forms (multipart/form-data) to their files and fields, for servers that hand over the body as it came."""

from __future__ import annotations

from email.message import Message

from segdeploy.base.errors import InputError
from segdeploy.serve.request import Part

_FIX = "send it as curl -F image=@x.jpg does, or the picture alone as the body"
_MOST_PARTS = 64
_LONGEST_BOUNDARY = 70  # RFC 2046


def parse_form(body: bytes, content_type: str) -> tuple[tuple[Part, ...], dict[str, str]]:
    """Take a form apart.

    Args:
        body: of the request.
        content_type: the header, which names the boundary.

    Returns:
        Its files, in order, and its text fields.

    Raises:
        InputError: it is broken, or ends before its last boundary.
    """
    boundary = parameter(content_type, "boundary") or ""
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY or not boundary.isascii():
        raise _broken("no boundary in its Content-Type")
    border = b"\r\n--" + boundary.encode()
    pieces = (b"\r\n" + body).split(border)
    if len(pieces) < 2:
        raise _broken("a body without its boundary")
    if len(pieces) > _MOST_PARTS + 2:
        raise _broken(f"more than {_MOST_PARTS} parts")
    if not pieces[-1].startswith(b"--"):
        raise _broken("a body that ends early")
    files: list[Part] = []
    fields: dict[str, str] = {}
    for piece in pieces[1:-1]:
        head, gap, content = piece.partition(b"\r\n\r\n")
        headers = _headers(head) if gap else {}
        disposition = headers.get("content-disposition", "")
        name = parameter(disposition, "name")
        if not disposition.lower().startswith("form-data") or not name:
            raise _broken("a part without a name")
        kind = headers.get("content-type", "")
        if kind or parameter(disposition, "filename") is not None:
            files.append(Part(name, content, kind))
        else:
            add_option(fields, name, content.decode("utf-8", "replace"))
    return tuple(files), fields


def add_option(options: dict[str, str], name: str, value: str) -> None:
    """Note an option.

    Raises:
        InputError: it is there with another value.
    """
    if options.setdefault(name, value) != value:
        got = f"'{options[name][:40]}' and '{value[:40]}'"
        raise InputError(expected=f"one value of '{name[:40]}'", got=got, fix="leave one of them out")


def parameter(header: str, name: str) -> str | None:
    """The value of a header's parameter; None where it has none of that name."""
    message = Message()
    message["Content-Type"] = " ".join(header.split())
    found = message.get_param(name)
    return str(found[2]) if isinstance(found, tuple) else found


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("utf-8", "replace").split("\r\n")
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _broken(got: str) -> InputError:
    return InputError(expected="a form (multipart/form-data) of pictures", got=got, fix=_FIX)
