"""Asking a running server, with the standard library alone."""

from __future__ import annotations

import http.client
import io
import os
import urllib.error
import urllib.parse
import urllib.request

import numpy as np

from segdeploy.base.errors import InputError, ServeError
from segdeploy.images.arrays import Labels

TOKEN_VARIABLE = "SEGDEPLOY_TOKEN"  # noqa: S105  its name
_TIMEOUT_S = 120
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def predict(url: str, image: bytes, *, token: str | None = None) -> Labels:
    """Post one image.

    Args:
        url: of the model, such as ``http://127.0.0.1:8080/predictions/upernet``.
        image: encoded, such as a JPEG file's content.
        token: that the server asks for; by default what ``SEGDEPLOY_TOKEN`` holds, if anything.

    Returns:
        [H, W] uint8 labels at the image's own size.

    Raises:
        InputError: no URL of HTTP; or the server says that this is no image it can take (422).
        ServeError: no server, or another answer than labels.
    """
    from PIL import Image

    address = urllib.parse.urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise InputError(
            expected="a model's URL, such as http://127.0.0.1:8080/predictions/upernet", got=f"'{url}'", fix="check the URL"
        )
    # A proxy cannot reach this machine's loopback.
    proxies = [urllib.request.ProxyHandler({})] if address.hostname in _LOOPBACK else []
    headers = {"Content-Type": "application/octet-stream"}
    if shown := token or os.environ.get(TOKEN_VARIABLE):
        headers["Authorization"] = f"Bearer {shown}"
    request = urllib.request.Request(url, data=image, headers=headers)  # noqa: S310
    try:
        with urllib.request.build_opener(*proxies).open(request, timeout=_TIMEOUT_S) as response:
            body = response.read()
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace").strip()
        if error.code == 422:
            raise InputError(expected="an image that the server takes", got=text or "422", fix="send a JPEG or PNG") from error
        raise ServeError(
            expected=f"labels from {url}", got=f"{error.code} {error.reason}: {text[:200]}", fix="see the server's log"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ServeError(
            expected=f"a server at {url}", got=str(reason) or type(error).__name__, fix="start it with: segdeploy serve MAR"
        ) from error
    try:
        with Image.open(io.BytesIO(body)) as picture:
            return np.array(picture)
    except (OSError, SyntaxError) as error:  # no picture, or one that is cut off
        raise ServeError(
            expected=f"a PNG of labels from {url}", got=f"{len(body)} bytes of something else", fix="check the URL"
        ) from error
