"""What a worker is told through its environment, beside what its archive says."""

from __future__ import annotations

import os

from segdeploy.base.errors import InputError

# Among how many the CPU is shared; max_response_size of config.properties, for who has changed it there.
WORKERS = "SEGDEPLOY_WORKERS"
MAX_PIXELS = "SEGDEPLOY_MAX_PIXELS"
MAX_RESPONSE_BYTES = "SEGDEPLOY_MAX_RESPONSE_BYTES"


def positive_number(variable: str, default: int) -> int:
    """The whole number in an environment variable; the default where it is not set.

    Raises:
        InputError: it holds something else.
    """
    text = os.environ.get(variable)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and int(text)):
        raise InputError(expected=f"a whole number from 1 on in {variable}", got=f"'{text}'", fix="correct it, or unset it")
    return int(text)
