"""What a request wants: its options and its ``Accept`` header.

Options come in the URL's query, in text fields of a form, or in the header ``X-Segdeploy-Options``, written as a query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from segdeploy.base.errors import InputError

Kind: TypeAlias = Literal["mask", "overlay", "json"]
KINDS: dict[str, Kind] = {"mask": "mask", "overlay": "overlay", "json": "json"}
OPTION_NAMES = ("as", "classes", "size", "confidence")
PNG, JSON = "image/png", "application/json"
_VOID = 255


@dataclass(frozen=True)
class Wanted:
    """An answer.

    Attributes:
        kind: ``mask`` (a PNG of labels), ``overlay`` (a PNG for people) or ``json``.
        classes: the only labels of interest; None for all.
        at_network: at the size that the pipeline's resize makes of a picture, in place of its own.
        confidence: with the mean probability of the labels.
        takes_json: the caller takes JSON too: what several pictures are answered in.
    """

    kind: Kind = "mask"
    classes: tuple[int, ...] | None = None
    at_network: bool = False
    confidence: bool = False
    takes_json: bool = True


class _Range(NamedTuple):
    """Of an ``Accept`` header."""

    media: str
    profile: str
    quality: float


def parse_options(options: Mapping[str, str], accept: str, classes: Sequence[str]) -> Wanted | None:
    """What a request wants.

    Args:
        options: by name.
        accept: the header; empty for none.
        classes: the model's.

    Returns:
        None where the caller accepts nothing that there is.

    Raises:
        InputError: an option that is unknown, or a value that it does not take.
    """
    for name in options:
        if name not in OPTION_NAMES:
            known = f"the options {', '.join(OPTION_NAMES)}"
            raise InputError(expected=known, got=f"'{name[:40]}'", fix="leave it out, or correct it")
    at_network = _one_of("size", options.get("size", "picture"), ("picture", "network")) == "network"
    confidence = _one_of("confidence", options.get("confidence", "0"), ("0", "1")) == "1"
    only = _classes(options["classes"], classes) if "classes" in options else None
    ranges = _ranges(accept)
    kind = KINDS[_one_of("as", options["as"], tuple(KINDS))] if "as" in options else _accepted(ranges)
    if kind is None:
        return None
    if confidence and kind != "json":
        raise InputError(
            expected="confidence=1 with an answer in JSON", got=f"with as={kind}", fix="ask with as=json, or leave it out"
        )
    if only is not None and kind == "mask" and len(classes) > _VOID:
        got = f"a mask of a model of {len(classes)} classes, whose labels leave no void"
        raise InputError(expected="classes= where label 255 is free", got=got, fix="ask with as=json")
    return Wanted(kind, only, at_network, confidence, takes_json="as" in options or _quality(ranges, JSON, "") > 0)


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise InputError(expected=f"{name}={' or '.join(known)}", got=f"'{value[:40]}'", fix="correct it, or leave it out")
    return value


def _classes(text: str, classes: Sequence[str]) -> tuple[int, ...]:
    """Labels by their names, or by their numbers where no class has such a name."""
    found = []
    for part in text.split(","):
        name = part.strip()
        if name in classes:
            found.append(classes.index(name))
        elif name.isascii() and name.isdigit() and len(name) < 10 and int(name) < len(classes):
            found.append(int(name))
        else:
            known = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            expected = f"classes= with names of {len(classes)} classes ({known}), or their numbers from 0, with commas"
            raise InputError(expected=expected, got=f"'{name[:40]}'", fix="correct it, or leave it out")
    return tuple(dict.fromkeys(found))


def _accepted(ranges: Sequence[_Range]) -> Kind | None:
    """The kind that is liked best; of equals the first of KINDS, of which a mask is what most ask for."""
    liked = {
        "mask": _quality(ranges, PNG, "mask"),
        "overlay": _quality(ranges, PNG, "overlay"),
        "json": _quality(ranges, JSON, ""),
    }
    best = max(liked, key=lambda kind: liked[kind])
    return KINDS[best] if liked[best] > 0 else None


def _quality(ranges: Sequence[_Range], media: str, profile: str) -> float:
    """Of the range that says most about it; a profile that is not named means a mask."""
    if not ranges:
        return 1.0
    found = 0.0, 0.0
    for one in ranges:
        if one.media == media and one.profile == profile:
            found = max(found, (4.0, one.quality))
        elif one.media == media and not one.profile and profile == "mask":
            found = max(found, (3.0, one.quality))
        elif one.media == f"{media.split('/', maxsplit=1)[0]}/*" and not one.profile:
            found = max(found, (2.0, one.quality))
        elif one.media == "*/*":
            found = max(found, (1.0, one.quality))
    return found[1]


def _ranges(accept: str) -> list[_Range]:
    ranges = []
    for part in accept.split(","):
        media, *parameters = (one.strip().lower() for one in part.split(";"))
        values = dict(one.split("=", 1) for one in parameters if "=" in one)
        try:
            quality = float(values.get("q", "1"))
        except ValueError:
            quality = 0.0
        if media:
            ranges.append(_Range(media, values.get("profile", "").strip('"'), quality if 0 <= quality <= 1 else 0.0))
    return ranges
