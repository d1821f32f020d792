"""The base of everything that is written as JSON and read again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from segdeploy.base.errors import SegdeployError

T = TypeVar("T")


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Immutable, and refuses fields that it does not know."""


def decode_record(
    data: bytes,
    kind: type[T],
    *,
    schema: int,
    what: str,
    source: str,
    again: str,
    error: Callable[..., SegdeployError],
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> T:
    """Parse JSON that carries the number of its schema.

    Args:
        data: the content.
        kind: what it is to be.
        schema: the number that this version reads.
        what: what to call it in an error: a noun.
        source: where it lies.
        again: how to make it anew.
        error: makes what is raised from expected, got and fix.
        upgrade: from the values of an older schema to this one's; others it leaves as they are.

    Raises:
        SegdeployError: as ``error`` makes it: another schema, or not valid; names the field.
    """
    try:
        if upgrade is not None:
            data = msgspec.json.encode(upgrade(msgspec.json.decode(data, type=dict[str, Any])))
        found = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("schema")
        if found is not None and bytes(found) != str(schema).encode():
            raise error(
                expected=f"{'an' if what[0] in 'aeiou' else 'a'} {what} of schema {schema} in '{source}'",
                got=f"schema {bytes(found).decode(errors='replace')}",
                fix="use the segdeploy version that made it, or " + again,
            )
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as wrong:
        raise error(expected=f"a valid {what} in '{source}'", got=str(wrong), fix=again) from wrong
