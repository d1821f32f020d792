"""From a request to its pictures, or to the error that it is answered with; nothing is decoded here."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from segdeploy.artifact.manifest import Manifest
from segdeploy.base.errors import InputError
from segdeploy.images.decode import FORMATS, checked_header
from segdeploy.runtime.fitting import fit_picture
from segdeploy.serve.answers import Result, refused
from segdeploy.serve.forms import add_option, parse_form
from segdeploy.serve.options import JSON, PNG, Wanted, parse_options
from segdeploy.serve.request import OPTIONS, Part, Request

MAX_BYTES = 64 << 20
MOST_PICTURES = 16
BODY = "body"
_PLAIN = ("", "application/octet-stream", "binary/octet-stream")


@dataclass
class Asked:
    """A request, and the pictures in it.

    Attributes:
        request: as it came.
        wanted: by it.
        pictures: encoded, in order.
        results: of each picture; what is there already is an error. One, and no pictures, where the request is in error.
    """

    request: Request
    wanted: Wanted = field(default_factory=Wanted)
    pictures: tuple[Part, ...] = ()
    results: list[Result | None] = field(default_factory=list)

    def called(self, index: int) -> str:
        """What an error calls a picture."""
        if self.request.parts is None and len(self.pictures) == 1 and self.pictures[0].name == BODY:
            return "the request's body"
        return f"'{self.pictures[index].name[:40]}'"


@dataclass(frozen=True)
class Limits:
    """What a request may bring.

    Attributes:
        pixels: of a picture, and of all in a request together.
        bytes: of a body.
    """

    pixels: int
    bytes: int = MAX_BYTES


class _Refused(Exception):  # noqa: N818  carries an answer
    def __init__(self, status: int, error: InputError) -> None:
        super().__init__(str(error))
        self.result = refused(status, error)


def parse_request(request: Request, manifest: Manifest, limits: Limits) -> Asked:
    """What a request asks for; never raises for what is in it."""
    try:
        pictures, options = _contents(request, limits)
        wanted = _wanted(request, options, manifest, several=len(pictures) > 1)
    except _Refused as refusal:
        return Asked(request, results=[refusal.result])
    asked = Asked(request, wanted, pictures, [None] * len(pictures))
    used = 0
    for index, picture in enumerate(pictures):
        pixels, asked.results[index] = _weighed(picture.body, asked.called(index), manifest, limits.pixels - used)
        used += pixels
    return asked


def _contents(request: Request, limits: Limits) -> tuple[tuple[Part, ...], dict[str, str]]:
    """The pictures of a request, and its options."""
    if request.problem is not None:
        raise _Refused(400, request.problem)
    size = len(request.body) if request.parts is None else sum(len(part.body) for part in request.parts)
    if size > limits.bytes:
        raise _Refused(
            413,
            InputError(expected=f"a body of at most {limits.bytes:,} bytes", got=f"{size:,}", fix="scale the picture down"),
        )
    kind = request.content_type.split(";")[0].strip().lower()
    form = kind == "multipart/form-data" or request.parts is not None
    if not form and kind not in _PLAIN and not kind.startswith("image/"):
        raise _Refused(
            415,
            InputError(
                expected=f"a {FORMATS} file as the body, or a form (multipart/form-data) of them",
                got=f"the Content-Type '{kind[:80]}'",
                fix="send it as curl -F image=@x.jpg does, or as curl -T x.jpg -X POST",
            ),
        )
    try:
        pictures: tuple[Part, ...] = (Part(BODY, request.body, kind),)
        fields: dict[str, str] = {}
        if form and request.parts is None:
            pictures, fields = parse_form(request.body, request.content_type)
        elif request.parts is not None:
            pictures = request.parts
        options = dict(request.query)
        for name, value in (*fields.items(), *_header_options(request.options)):
            add_option(options, name, value)
    except InputError as error:
        raise _Refused(400, error) from error
    if not 1 <= len(pictures) <= MOST_PICTURES:
        raise _Refused(
            400,
            InputError(
                expected=f"1 to {MOST_PICTURES} pictures in a form",
                got=f"{len(pictures)}",
                fix="send them as files: curl -F image=@x.jpg",
            ),
        )
    return pictures, options


def _wanted(request: Request, options: dict[str, str], manifest: Manifest, *, several: bool) -> Wanted:
    try:
        wanted = parse_options(options, request.accept, manifest.classes)
    except InputError as error:
        raise _Refused(400, error) from error
    if wanted is None or (several and not wanted.takes_json):
        offered = JSON + ", which several pictures are answered in" if several else f"{PNG}, {PNG}; profile=overlay or {JSON}"
        fix = "correct the Accept header, or leave it out"
        raise _Refused(406, InputError(expected=f"to be asked for {offered}", got=f"'{request.accept[:80]}'", fix=fix))
    return wanted


def _header_options(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
    except ValueError as error:
        raise InputError(
            expected=f"options as in a query in {OPTIONS}", got=f"'{text[:40]}'", fix="such as as=json&classes=road"
        ) from error


def _weighed(body: bytes, called: str, manifest: Manifest, left: int) -> tuple[int, Result | None]:
    """How many pixels a picture will have, or why it is refused: by its header alone, for few bytes can hold very many."""
    try:
        header = checked_header(body, called, max_pixels=left)
        try:
            fit_picture(header.height, header.width, manifest)
        except InputError:
            if not _fits(header.width, header.height, manifest):  # its orientation may turn it
                raise
    except InputError as error:
        return 0, refused(422, error)
    return header.pixels, None


def _fits(height: int, width: int, manifest: Manifest) -> bool:
    try:
        fit_picture(height, width, manifest)
    except InputError:
        return False
    return True
