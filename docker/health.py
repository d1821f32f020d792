# ruff: noqa: INP001  a script, copied into the images
"""Exit status 0 if the server says that it is healthy, 1 if not: ``health.py URL``. Brings the token, where there is one."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

AUTHORIZATION = Path("/tmp/authorization")  # noqa: S108  of a container of its own


def main(url: str, authorization: Path = AUTHORIZATION) -> int:
    """Ask."""
    headers = {}
    if authorization.is_file():
        name, value = authorization.read_text().strip().split(": ", 1)
        headers[name] = value
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=4) as answer:  # noqa: S310
            return 0 if answer.status == 200 else 1
    except OSError as error:
        print(error, file=sys.stderr)  # noqa: T201  for docker inspect
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
