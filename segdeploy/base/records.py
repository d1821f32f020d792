"""The base of everything that is written as JSON and read again."""

from __future__ import annotations

import msgspec


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Immutable, and refuses fields that it does not know."""
