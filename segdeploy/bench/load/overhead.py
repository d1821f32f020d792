"""What the client costs by itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from segdeploy.bench.load import null_server
from segdeploy.bench.load.drive import Plan, closed_loop
from segdeploy.bench.load.http import Http
from segdeploy.bench.load.result import Overhead

_ONE, _MANY, _CLIENTS = 200, 800, 8


def client_overhead(pictures: Sequence[bytes]) -> Overhead | None:
    """Send the pictures to a server that answers at once, in a process of its own; None where it does not start."""
    command = [sys.executable, null_server.__file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        try:
            if not port:
                return None
            target = Http(f"http://127.0.0.1:{port}/", {})
            alone = closed_loop(target, pictures, 1, Plan(_ONE, None))
            many = closed_loop(target, pictures, _CLIENTS, Plan(_MANY, None))
        finally:
            server.terminate()
    return Overhead(ms=alone.latency_ms, per_s=round(many.answered_per_s, 1))
