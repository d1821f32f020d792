"""TorchServe's management interface on a Unix socket, which none but its owner can reach."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TIMEOUT_S = 120  # registering a model waits until its workers have loaded it


@dataclass(frozen=True)
class Management:
    """Where it is, and what to show there.

    Attributes:
        path: of the socket.
        key_file: that TorchServe writes its tokens to; None where it wants none.
    """

    path: Path
    key_file: Path | None

    def token(self, kind: str) -> str | None:
        """The token for ``management`` or ``inference``; None where none is wanted, or none is written yet."""
        try:
            return str(json.loads(self.key_file.read_text())[kind]["key"]) if self.key_file else None
        except (OSError, ValueError, KeyError):
            return None

    def workers(self, name: str) -> list[str]:
        """The states of the workers of a model's default version, such as ``READY``; empty while nothing answers."""
        try:
            _, models = self.request("GET", f"/models/{name}")
            return [str(worker["status"]) for model in models for worker in model["workers"]]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return []

    def request(self, method: str, target: str) -> tuple[int, Any]:
        """Ask it with its token: a path and query of TorchServe's management API.

        Returns:
            HTTP's status, and the answer's JSON.

        Raises:
            OSError: nothing answers there.
            http.client.HTTPException: something else than HTTP does.
            ValueError: something else than JSON came.
        """
        token = self.token("management")
        connection = _UnixConnection(self.path)
        try:
            connection.request(method, target, headers={"Authorization": f"Bearer {token}"} if token else {})
            response = connection.getresponse()
            return response.status, json.load(response)
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
